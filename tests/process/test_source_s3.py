"""Sources in a bucket, over a real S3 API (moto's server)."""

from collections.abc import Iterator

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner.documents import Tally
from rephrase_runner.rows import Document
from rephrase_runner.source import Reader, scan
from rephrase_runner.store import SourceChanged, StorageOptions
from rephrase_runner.units import plan_units


class Bucket:
    """A bucket `corpus` and the means to fill it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket="corpus")

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket="corpus", Key=name, Body=data)

    def put_parquet(self, name: str, texts: list[str]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": texts}), sink, row_group_size=10)
        self.put(name, sink.getvalue().to_pybytes())

    def source(self, uri: str, **changes: object) -> Source:
        storage = {"endpoint": self.endpoint, "region": "us-east-1", "allow_http": True}
        return Source.model_validate({"uri": uri, "storage": storage, **changes})


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Bucket(f"http://{host}:{port}")
    finally:
        server.stop()


async def read_all(source: Source) -> list[Document]:
    found = await scan(source)
    units = plan_units(found.files, target_documents=7)
    storage = StorageOptions.of(source.storage)
    with Reader(
        source, found.files, format=found.format, kept=found.kept, storage=storage
    ) as reader:
        return [d for unit in units for batch in reader.read_unit(unit, Tally()) for d in batch]


async def test_a_folder_of_a_bucket_is_read_to_any_depth(bucket: Bucket) -> None:
    bucket.put_parquet("web/2024/b c.parquet", ["b"] * 25)
    bucket.put_parquet("web/a.parquet", ["a"] * 25)
    bucket.put_parquet("web/_tmp/x.parquet", ["x"])
    bucket.put_parquet("web-other/y.parquet", ["y"])
    bucket.put("web/README.md", b"# Corpus")

    for uri in ("s3://corpus/web", "s3://corpus/web/"):
        documents = await read_all(bucket.source(uri))

        assert [d.source_id for d in documents] == [
            *(f"s3://corpus/web/2024/b c.parquet:{row}" for row in range(25)),
            *(f"s3://corpus/web/a.parquet:{row}" for row in range(25)),
        ]


async def test_a_single_object_is_a_source(bucket: Bucket) -> None:
    bucket.put("web/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')

    found = await scan(bucket.source("s3://corpus/web/a.jsonl"))
    documents = await read_all(bucket.source("s3://corpus/web/a.jsonl"))

    assert found.format is SourceFormat.JSONL
    assert [(file.uri, file.name, file.size) for file in found.files] == [
        ("s3://corpus/web/a.jsonl", "s3://corpus/web/a.jsonl", 32)
    ]
    assert [d.text for d in documents] == ["one", "two"]


async def test_a_whole_bucket_is_a_source(bucket: Bucket) -> None:
    bucket.put_parquet("a.parquet", ["a"])

    assert [d.text for d in await read_all(bucket.source("s3://corpus"))] == ["a"]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("s3://corpus/web/*.parquet", ["web/a.parquet"]),
        ("s3://corpus/**/?.parquet", ["web/2024/b.parquet", "web/a.parquet"]),
        ("s3://corpus/*/2024/*", ["web/2024/b.parquet"]),
    ],
)
async def test_a_glob_chooses_among_objects(bucket: Bucket, glob: str, names: list[str]) -> None:
    bucket.put_parquet("web/a.parquet", ["a"])
    bucket.put_parquet("web/2024/b.parquet", ["b"])

    found = await scan(bucket.source(glob))

    assert [file.name for file in found.files] == [f"s3://corpus/{name}" for name in names]


async def test_a_prefix_that_is_no_folder_is_refused(bucket: Bucket) -> None:
    bucket.put_parquet("web/a.parquet", ["a"])

    with pytest.raises(InvalidSpec, match="spec.source.uri: there is nothing at s3://corpus/we"):
        await scan(bucket.source("s3://corpus/we"))


async def test_a_missing_bucket_is_refused(bucket: Bucket) -> None:
    for uri in ("s3://no-such-bucket/web/", "s3://no-such-bucket/web"):
        with pytest.raises((InvalidSpec, AccessRefused), match="no-such-bucket"):
            await scan(bucket.source(uri))


async def test_an_object_replaced_after_planning_is_never_read(bucket: Bucket) -> None:
    bucket.put_parquet("a.parquet", ["a"] * 30)
    source = bucket.source("s3://corpus/a.parquet")
    found = await scan(source)
    units = list(plan_units(found.files, target_documents=7))
    storage = StorageOptions.of(source.storage)
    bucket.put_parquet("a.parquet", ["b"] * 30)

    with (
        Reader(
            source, found.files, format=found.format, kept=found.kept, storage=storage
        ) as reader,
        pytest.raises(SourceChanged),
    ):
        list(reader.read_unit(units[0], Tally()))


async def test_an_object_that_is_gone_has_changed(bucket: Bucket) -> None:
    bucket.put("a.jsonl", b'{"text": "one"}\n')
    source = bucket.source("s3://corpus/a.jsonl")
    found = await scan(source)
    (unit,) = plan_units(found.files, target_documents=7)
    storage = StorageOptions.of(source.storage)
    bucket.client.delete_object(Bucket="corpus", Key="a.jsonl")

    with (
        Reader(
            source, found.files, format=found.format, kept=found.kept, storage=storage
        ) as reader,
        pytest.raises(SourceChanged),
    ):
        list(reader.read_unit(unit, Tally()))
