"""Sources on the hub: pinned when they are listed, read in ranges, refused in sentences."""

import asyncio
import io
from collections.abc import AsyncIterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from rephrase_api.errors import AccessRefused, InvalidSpec, RephraseError
from rephrase_api.v1alpha1.source import Source
from rephrase_runner.listing import Files, ListedFile, Listing, list_files
from rephrase_runner.store import StorageOptions
from support.hub import Hub, hub

NAME = "datasets/owner/web-text"
FILES = {
    "README.md": b"# A dataset",
    "sample/10BT/000 a.parquet": b"0123456789",
    "sample/10BT/001_ü%20.parquet": b"abc",
    "sample/10BT/deep/002.parquet": b"def",
    "sample/10BT/_tmp/003.parquet": b"x",
    "sample/100BT/000.parquet": b"ghi",
}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline by default; huggingface_hub has read that when it was imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
async def served() -> AsyncIterator[Hub]:
    async with hub() as found:
        yield found


async def listing(served: Hub, uri: str, *, credentials: str = "", **changes: object) -> Listing:
    options = StorageOptions(served.endpoint, allow_http=True, credentials=credentials)
    return await list_files(Source.model_validate({"uri": uri, **changes}), options)


async def read(
    served: Hub, file: ListedFile, *, start: int = 0, size: int = -1, credentials: str = ""
) -> bytes:
    options = StorageOptions(served.endpoint, allow_http=True, credentials=credentials)

    def in_thread() -> bytes:
        reader = Files(options).open(file)
        reader.seek(start)
        return reader.read(size)

    return await asyncio.to_thread(in_thread)


async def test_a_folder_means_its_files_in_the_commit_that_is_the_newest_now(served: Hub) -> None:
    commit = served.push(NAME, FILES)

    found = await listing(served, f"hf://{NAME}/sample/10BT")

    assert [file.name for file in found.files] == [
        f"hf://{NAME}/sample/10BT/000 a.parquet",
        f"hf://{NAME}/sample/10BT/001_ü%20.parquet",
        f"hf://{NAME}/sample/10BT/deep/002.parquet",
    ]
    assert [file.uri for file in found.files] == [
        file.name.replace(NAME, f"{NAME}@{commit}") for file in found.files
    ]
    assert [file.size for file in found.files] == [10, 3, 3]
    assert len({file.etag for file in found.files}) == 3


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("", 4),
        ("/", 4),
        ("/sample/*/000*.parquet", 2),
        ("/sample/10BT/deep/002.parquet", 1),
        ("/sample/10BT/000 a.parquet", 1),
        ("/sample/10BT/_tmp/*.parquet", 1),
    ],
)
async def test_a_source_is_a_file_a_folder_a_glob_or_all_of_it(
    served: Hub, path: str, count: int
) -> None:
    served.push(NAME, FILES)

    found = await listing(served, f"hf://{NAME}{path}")

    assert len(found.files) == count
    assert all(file.name.startswith(f"hf://{NAME}/sample/") for file in found.files)


async def test_a_branch_is_pinned_and_kept_in_the_names(served: Hub) -> None:
    commit = served.push(NAME, {"a.parquet": b"1"}, branch="refs/convert/parquet")
    served.push(NAME, {"b.parquet": b"2"})

    (file,) = (await listing(served, f"hf://{NAME}@refs%2Fconvert%2Fparquet")).files

    assert file.name == f"hf://{NAME}@refs%2Fconvert%2Fparquet/a.parquet"
    assert file.uri == f"hf://{NAME}@{commit}/a.parquet"


async def test_files_are_read_in_ranges_of_the_planned_commit_whatever_comes_later(
    served: Hub,
) -> None:
    served.push(NAME, FILES)
    found = await listing(served, f"hf://{NAME}/sample/10BT")
    served.push(NAME, {"sample/10BT/000 a.parquet": b"another!!!"})

    part = await read(served, found.files[0], start=3, size=4)
    odd = await read(served, found.files[1])

    assert (part, odd) == (b"3456", b"abc")
    assert served.sent["sample/10BT/000 a.parquet"] == 4


async def test_a_token_is_sent_to_the_hub_and_to_nobody_else(
    served: Hub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    served.push(NAME, FILES)
    served.gated = {NAME}
    folder = tmp_path_factory.mktemp("secret")
    (folder / "HF_TOKEN").write_text(f"{served.token}\n")

    found = await listing(served, f"hf://{NAME}/sample/100BT", credentials=str(folder))
    data = await read(served, found.files[0], credentials=str(folder))

    assert data == b"ghi"
    told = {path.partition("/")[0]: key for path, key in served.authorizations}
    assert told == {"api": "Bearer hf_right", "datasets": "Bearer hf_right", "bytes": None}


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("hf://datasets/owner/none", InvalidSpec, "no such dataset on the hub"),
        (f"hf://{NAME}@v9", InvalidSpec, "no revision v9"),
        (f"hf://{NAME}/nowhere", InvalidSpec, "there is nothing at"),
        (f"hf://{NAME}/sample/*.csv", InvalidSpec, "there are no files at"),
        ("hf://datasets/owner/gated", AccessRefused, "gated"),
    ],
)
async def test_what_is_not_there_or_not_for_us_is_refused_in_a_sentence(
    served: Hub, uri: str, kind: type[RephraseError], said: str
) -> None:
    served.push(NAME, FILES)
    served.push("datasets/owner/gated", FILES)
    served.gated = {"datasets/owner/gated"}

    with pytest.raises(kind, match=said) as refused:
        await listing(served, uri)

    assert "spec.source.uri" in str(refused.value)


async def test_a_hub_that_does_not_answer_is_told_of() -> None:
    async with hub() as gone:
        pass

    with pytest.raises(AccessRefused, match="the hub does not answer"):
        await listing(gone, f"hf://{NAME}")


async def test_a_token_that_is_refused_later_ends_reading(served: Hub) -> None:
    served.push(NAME, FILES)
    found = await listing(served, f"hf://{NAME}/sample/100BT")
    served.gated = {NAME}

    with pytest.raises(AccessRefused, match="access denied"):
        await read(served, found.files[0])


async def test_a_parquet_file_is_opened_by_its_footer(served: Hub) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [str(n) * 50 for n in range(50_000)]}), out)
    served.push(NAME, {"a.parquet": out.getvalue()})
    (file,) = (await listing(served, f"hf://{NAME}")).files

    files = Files(StorageOptions(served.endpoint, allow_http=True))
    metadata = await asyncio.to_thread(lambda: pq.ParquetFile(files.open(file)).metadata)

    assert metadata.num_rows == 50_000
    assert served.sent["a.parquet"] <= 64 << 10 < len(out.getvalue())
