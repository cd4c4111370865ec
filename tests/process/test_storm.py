"""Kill anything at any moment: the finished dataset is the same set of samples, each once."""

import logging

import pytest

from support.laptop import Laptop
from support.s3 import S3
from support.storm import Site, Storm, assert_unharmed, on_a_folder, on_s3, undisturbed_storm

logger = logging.getLogger(__name__)
FEW, MANY = 30, 300
WORKERS = 3
SEED = 1


@pytest.fixture(scope="module")
def undisturbed_few(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return undisturbed_storm(Laptop(tmp_path_factory.mktemp("undisturbed-few")), FEW)


@pytest.fixture(scope="module")
def undisturbed_many(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return undisturbed_storm(Laptop(tmp_path_factory.mktemp("undisturbed-many")), MANY)


async def weather(laptop: Laptop, site: Site, kills: int, undisturbed: Laptop) -> None:
    """One storm and its figures."""
    logger.info("seed %s", SEED)
    storm = Storm(laptop, site, kills=kills, workers=WORKERS, seed=SEED, say=logger.info)
    fleet = await storm.run()
    logger.info("%s", storm.figures)
    await assert_unharmed(storm, fleet, laptop, undisturbed)


async def test_a_storm_on_a_folder_does_no_harm(laptop: Laptop, undisturbed_few: Laptop) -> None:
    await weather(laptop, on_a_folder(), FEW, undisturbed_few)


async def test_a_storm_on_a_bucket_behind_a_faulty_proxy_does_no_harm(
    laptop: Laptop, s3: S3, undisturbed_few: Laptop
) -> None:
    async with on_s3(s3, SEED) as site:
        await weather(laptop, site, FEW, undisturbed_few)


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_a_long_storm_on_a_folder_does_no_harm(
    laptop: Laptop, undisturbed_many: Laptop
) -> None:
    await weather(laptop, on_a_folder(), MANY, undisturbed_many)


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_a_long_storm_on_a_bucket_behind_a_faulty_proxy_does_no_harm(
    laptop: Laptop, s3: S3, undisturbed_many: Laptop
) -> None:
    async with on_s3(s3, SEED) as site:
        await weather(laptop, site, MANY, undisturbed_many)
