"""Put-if-absent raced by processes: of all that create a name at the same moment exactly one is told MINE.

The safety of the whole ledger rests on this.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from rephrase_runner.store import StorageOptions, Store
from support.azure import CONTAINER, Azure
from support.fleet import read_all
from support.racing import body_of, race
from support.s3 import S3

RACERS, NAMES = 32, 100


def assert_one_winner_each(
    folder: Path,
    uri: str,
    options: StorageOptions,
    environment: Mapping[str, str],
) -> None:
    """Race, and look at what is there afterwards."""
    told = race(folder, uri, options, environment, racers=RACERS, names=NAMES, within=240)

    winners = Counter(number for mine in told for number in mine)
    assert winners == dict.fromkeys(range(NAMES), 1), "not one winner each"
    store = Store(uri, options)
    kept = asyncio.run(read_all(store, "claims"))
    assert kept == [body_of(owner(told, number)) for number in range(NAMES)]


def owner(told: list[set[int]], number: int) -> int:
    """The racer that was told that the name is its own."""
    (racer,) = (racer for racer, mine in enumerate(told) if number in mine)
    return racer


def test_a_folder_has_one_winner_for_each_name(tmp_path: Path) -> None:
    assert_one_winner_each(tmp_path, str(tmp_path / "output"), StorageOptions(), {})


def test_a_real_s3_server_has_one_winner_for_each_name(tmp_path: Path, s3: S3) -> None:
    options = StorageOptions(s3.endpoint, "us-east-1", allow_http=True)
    assert_one_winner_each(tmp_path, s3.uri("output"), options, s3.env)


@pytest.mark.full
def test_moto_has_one_winner_for_each_name(tmp_path: Path, moto_s3: S3) -> None:
    options = StorageOptions(moto_s3.endpoint, "us-east-1", allow_http=True)
    assert_one_winner_each(tmp_path, moto_s3.uri("output"), options, moto_s3.env)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_azure_has_one_winner_for_each_name(
    tmp_path: Path, azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azure.env.items():
        monkeypatch.setenv(name, value)
    options = StorageOptions(azure.endpoint, allow_http=True)
    assert_one_winner_each(tmp_path, f"az://{CONTAINER}/output", options, azure.env)
