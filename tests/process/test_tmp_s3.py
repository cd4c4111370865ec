import asyncio

import pytest

from rephrase_runner.store import Outcome, StorageOptions, Store
from support.s3 import REGION, S3


@pytest.mark.parametrize("server", ["s3", "moto_s3"])
async def test_x(server, request):
    place: S3 = request.getfixturevalue(server)
    store = Store(place.uri("out"), StorageOptions(place.endpoint, REGION, allow_http=True))
    outcomes = await asyncio.gather(*(store.put_new("a", b"%d" % i) for i in range(8)))
    assert outcomes.count(Outcome.MINE) == 1
    print(place.client().list_objects_v2(Bucket=place.bucket)["KeyCount"])


async def test_y(s3, moto_s3):
    pass
