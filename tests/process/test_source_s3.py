"""Sources in a bucket, over a real S3 API (moto's server)."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner.documents import Tally
from rephrase_runner.rows import Document
from rephrase_runner.source import Reader, Scan, scan
from rephrase_runner.store import SourceChanged, StorageOptions
from rephrase_runner.units import plan_units
from support.s3 import S3


class Bucket:
    """The test's folder in a bucket and the means to fill it."""

    def __init__(self, s3: S3) -> None:
        self.s3 = s3
        self.client = s3.client()

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.s3.bucket, Key=f"{self.s3.prefix}/{name}", Body=data)

    def put_parquet(self, name: str, texts: list[str]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": texts}), sink, row_group_size=10)
        self.put(name, sink.getvalue().to_pybytes())

    def put_jsonl(self, name: str, texts: list[str]) -> None:
        self.put(name, b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))

    def source(self, name: str) -> Source:
        return self.source_at(self.s3.uri(name))

    def source_at(self, uri: str) -> Source:
        storage = {"endpoint": self.s3.endpoint, "region": "us-east-1", "allow_http": True}
        return Source.model_validate({"uri": uri, "storage": storage})


@pytest.fixture
def bucket(moto_s3: S3) -> Bucket:
    return Bucket(moto_s3)


def a_reader(source: Source, found: Scan) -> Reader:
    storage = StorageOptions.of(source.storage)
    return Reader(source, found.files, format=found.format, kept=found.kept, storage=storage)


async def read_all(source: Source) -> list[Document]:
    found = await scan(source)
    units = plan_units(found.files, target_documents=7)
    with a_reader(source, found) as reader:
        return [d for unit in units for batch in reader.read_unit(unit, Tally()) for d in batch]


async def test_a_folder_of_a_bucket_is_read_to_any_depth(bucket: Bucket) -> None:
    bucket.put_parquet("web/2024/b c.parquet", ["b"] * 25)
    bucket.put_parquet("web/a.parquet", ["a"] * 25)
    bucket.put_parquet("web/_tmp/x.parquet", ["x"])
    bucket.put_parquet("web-other/y.parquet", ["y"])
    bucket.put("web/README.md", b"# Corpus")

    for name in ("web", "web/"):
        documents = await read_all(bucket.source(name))

        assert [d.source_id for d in documents] == [
            *(f"{bucket.s3.uri('web/2024/b c.parquet')}:{row}" for row in range(25)),
            *(f"{bucket.s3.uri('web/a.parquet')}:{row}" for row in range(25)),
        ]


async def test_a_single_object_is_a_source(bucket: Bucket) -> None:
    bucket.put("web/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    source = bucket.source("web/a.jsonl")

    found = await scan(source)

    assert found.format is SourceFormat.JSONL
    assert [(file.uri, file.name, file.size) for file in found.files] == [
        (source.uri, source.uri, 32)
    ]
    assert [d.text for d in await read_all(source)] == ["one", "two"]


async def test_a_whole_bucket_is_a_source(bucket: Bucket) -> None:
    bucket.client.create_bucket(Bucket="whole")
    bucket.client.put_object(Bucket="whole", Key="a/b.jsonl", Body=b'{"text": "one"}\n')

    for uri in ("s3://whole", "s3://whole/"):
        documents = await read_all(bucket.source_at(uri))

        assert [d.source_id for d in documents] == ["s3://whole/a/b.jsonl:0"]


async def test_empty_objects_that_stand_for_folders_are_no_files(bucket: Bucket) -> None:
    bucket.put("web/", b"")
    bucket.put("web/2024/", b"")
    bucket.put_parquet("web/2024/a.parquet", ["a"])

    found = await scan(bucket.source("web/"))

    assert [file.name for file in found.files] == [bucket.s3.uri("web/2024/a.parquet")]
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("web/*.parquet", ["web/a.parquet"]),
        ("**/?.parquet", ["web/2024/b.parquet", "web/a.parquet"]),
        ("*/2024/*", ["web/2024/b.parquet"]),
        ("w?b/a*", ["web/a.parquet"]),
    ],
)
async def test_a_glob_chooses_among_objects(bucket: Bucket, glob: str, names: list[str]) -> None:
    bucket.put_parquet("web/a.parquet", ["a"])
    bucket.put_parquet("web/2024/b.parquet", ["b"])

    found = await scan(bucket.source(glob))

    assert [file.name for file in found.files] == [bucket.s3.uri(name) for name in names]


async def test_a_prefix_that_is_no_folder_is_refused(bucket: Bucket) -> None:
    bucket.put_parquet("web/a.parquet", ["a"])

    with pytest.raises(InvalidSpec) as refused:
        await scan(bucket.source("we"))

    assert f"spec.source.uri: there is nothing at {bucket.s3.uri('we')}" in str(refused.value)


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/web/", "s3://no-such-bucket/web/a.parquet"])
async def test_a_missing_bucket_is_told_at_once(bucket: Bucket, uri: str) -> None:
    with pytest.raises(AccessRefused, match=r"no-such-bucket.*no such bucket"):
        await scan(bucket.source_at(uri))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
async def test_an_object_replaced_after_planning_is_never_read(bucket: Bucket, name: str) -> None:
    put = {"a.parquet": bucket.put_parquet, "a.jsonl": bucket.put_jsonl}[name]
    put(name, ["a"] * 30)
    source = bucket.source(name)
    found = await scan(source)
    unit, *_ = plan_units(found.files, target_documents=7)
    put(name, ["b"] * 30)

    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        list(reader.read_unit(unit, Tally()))


async def test_an_object_that_is_gone_has_changed(bucket: Bucket) -> None:
    bucket.put_parquet("a.parquet", ["a"])
    source = bucket.source("a.parquet")
    found = await scan(source)
    (unit,) = plan_units(found.files, target_documents=7)
    bucket.client.delete_object(Bucket=bucket.s3.bucket, Key=f"{bucket.s3.prefix}/a.parquet")

    with a_reader(source, found) as reader, pytest.raises(SourceChanged):
        list(reader.read_unit(unit, Tally()))
