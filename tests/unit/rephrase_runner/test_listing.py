import asyncio
import os
from pathlib import Path

import pytest

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner.listing import Listing, format_of, glob_pattern, list_files
from rephrase_runner.store import StorageOptions

CORPUS = [
    "b.parquet",
    "a.parquet",
    "2024/deep/c d.parquet",
    "2024/ü%20#1.parquet",
    "README.md",
    ".hidden.parquet",
    "_SUCCESS",
    "_tmp/x.parquet",
    ".git/y.parquet",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return a_folder(tmp_path / "corpus", CORPUS)


def a_folder(path: Path, names: list[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


async def listing(uri: object, **changes: object) -> Listing:
    return await list_files(Source.model_validate({"uri": str(uri), **changes}), StorageOptions())


async def names(uri: object, **changes: object) -> list[str]:
    return [file.name for file in (await listing(uri, **changes)).files]


async def refusal(uri: object, **changes: object) -> str:
    with pytest.raises(InvalidSpec) as refused:
        await listing(uri, **changes)
    return str(refused.value)


async def test_a_folder_means_its_files_at_any_depth_without_hidden_ones(corpus: Path) -> None:
    found = await listing(corpus)

    assert [file.name.removeprefix(f"{corpus}/") for file in found.files] == [
        "2024/deep/c d.parquet",
        "2024/ü%20#1.parquet",
        "a.parquet",
        "b.parquet",
    ]
    assert found.format is SourceFormat.PARQUET
    assert found.ignored == (f"{corpus}/README.md",)
    assert {file.size for file in found.files} == {1}
    assert all(file.etag for file in found.files)


async def test_a_single_file_may_have_any_name(corpus: Path) -> None:
    path = corpus / "2024/ü%20#1.parquet"

    assert await names(path) == [str(path)]
    assert await names(corpus / ".hidden.parquet") == [f"{corpus}/.hidden.parquet"]


@pytest.mark.parametrize(
    ("glob", "wanted"),
    [
        ("*.parquet", ["a.parquet", "b.parquet"]),
        ("?.parquet", ["a.parquet", "b.parquet"]),
        (
            "**/*.parquet",
            ["2024/deep/c d.parquet", "2024/ü%20#1.parquet", "a.parquet", "b.parquet"],
        ),
        ("2024/*", ["2024/ü%20#1.parquet"]),
        ("2024/**", ["2024/deep/c d.parquet", "2024/ü%20#1.parquet"]),
        ("20??/*/c*", ["2024/deep/c d.parquet"]),
        ("_*/x.parquet", ["_tmp/x.parquet"]),
    ],
)
async def test_a_glob_means_the_files_that_fit(corpus: Path, glob: str, wanted: list[str]) -> None:
    assert await names(corpus / glob) == [f"{corpus}/{name}" for name in wanted]


@pytest.mark.parametrize(
    ("include", "wanted"),
    [
        (["a*"], ["a.parquet"]),
        (["c*", "b.parquet"], ["2024/deep/c d.parquet", "b.parquet"]),
        (["2024/*"], ["2024/ü%20#1.parquet"]),
        (["2024/**"], ["2024/deep/c d.parquet", "2024/ü%20#1.parquet"]),
    ],
)
async def test_include_chooses_among_the_files(
    corpus: Path, include: list[str], wanted: list[str]
) -> None:
    assert await names(corpus, include=include) == [f"{corpus}/{name}" for name in wanted]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("corpus", "corpus/a.parquet"),
        ("corpus/", "corpus/a.parquet"),
        ("./corpus", "./corpus/a.parquet"),
        ("corpus/a.parquet", "corpus/a.parquet"),
        ("corpus/a*", "corpus/a.parquet"),
        ("*/a.parquet", "corpus/a.parquet"),
        (".", "corpus/a.parquet"),
    ],
)
async def test_files_are_named_as_the_user_named_the_source_and_open_from_anywhere(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, uri: str, name: str
) -> None:
    monkeypatch.chdir(corpus.parent)

    found = await listing(uri, include=["a.parquet"])

    assert [(file.name, file.uri) for file in found.files] == [(name, f"{corpus}/a.parquet")]


async def test_a_file_uri_is_a_path_too(corpus: Path) -> None:
    found = await listing(f"file://{corpus}")

    assert found.files[-1].name == f"file://{corpus}/b.parquet"
    assert found.files[-1].uri == f"{corpus}/b.parquet"


async def test_a_link_is_what_it_points_to(corpus: Path, tmp_path: Path) -> None:
    elsewhere = a_folder(tmp_path / "elsewhere", ["z.parquet"])
    (corpus / "link").symlink_to(elsewhere)

    assert f"{corpus}/link/z.parquet" in await names(corpus)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.parquet", SourceFormat.PARQUET),
        ("A.PARQUET", SourceFormat.PARQUET),
        ("a.jsonl", SourceFormat.JSONL),
        ("a.json", SourceFormat.JSONL),
        ("a.ndjson", SourceFormat.JSONL),
        ("a.jsonl.gz", SourceFormat.JSONL),
        ("a.json.zst", SourceFormat.JSONL),
        ("a.parquet.gz", None),
        ("a.csv", None),
        ("a.gz", None),
        ("parquet", None),
    ],
)
def test_the_suffix_tells_the_format(name: str, format_: SourceFormat | None) -> None:
    assert format_of(name) is format_


async def test_a_forced_format_takes_the_files_with_its_suffixes(tmp_path: Path) -> None:
    a_folder(tmp_path, ["a.parquet", "info.json", "README.md"])

    assert await names(tmp_path, format="Parquet") == [f"{tmp_path}/a.parquet"]
    assert await names(tmp_path, format="Jsonl") == [f"{tmp_path}/info.json"]


async def test_a_forced_format_takes_all_files_if_none_has_its_suffix(tmp_path: Path) -> None:
    a_folder(tmp_path, ["part-0", "part-1.gz"])

    assert await names(tmp_path, format="Jsonl") == [f"{tmp_path}/part-0", f"{tmp_path}/part-1.gz"]


async def test_a_source_that_does_not_exist_is_refused_with_the_nearest_name(
    corpus: Path,
) -> None:
    message = await refusal(corpus.parent / "corpse")

    assert message.startswith(f"spec.source.uri: there is nothing at {corpus.parent}/corpse.")
    assert 'Did you mean "corpus"?' in message


async def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "there are no files at" in await refusal(tmp_path)


async def test_a_glob_that_fits_nothing_is_refused(corpus: Path) -> None:
    assert f"there are no files at {corpus}/*.csv" in await refusal(corpus / "*.csv")


async def test_an_include_that_fits_nothing_says_what_is_there(corpus: Path) -> None:
    message = await refusal(corpus, include=["*.csv"])

    assert f"spec.source.include: no file of {corpus} fits *.csv" in message
    assert "2024/deep/c d.parquet, 2024/ü%20#1.parquet, README.md, a.parquet" in message


async def test_unknown_suffixes_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    a_folder(tmp_path, ["a.csv", "b.txt"])

    message = await refusal(tmp_path)

    assert "has a known suffix: there are a.csv, b.txt." in message
    assert "Known are .parquet, .jsonl, .ndjson, .json" in message


async def test_two_formats_in_one_source_are_refused(tmp_path: Path) -> None:
    a_folder(tmp_path, ["a.parquet", "b.jsonl", "c.jsonl"])

    message = await refusal(tmp_path)

    assert "several formats: 1 of Parquet, 2 of Jsonl" in message
    assert "spec.source.include" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused_access(corpus: Path) -> None:
    corpus.chmod(0)
    try:
        with pytest.raises(AccessRefused):
            asyncio.run(listing(corpus / "2024"))
    finally:
        corpus.chmod(0o700)


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b", True),
        ("**/b", "b", True),
        ("**/b", "a/a/b", True),
        ("a/**/b", "a/b", True),
        ("a.b", "axb", False),
        ("[a]", "[a]", True),
        ("a?", "a/", False),
        ("a", "a\n", False),
    ],
)
def test_stars_stay_inside_a_folder_and_double_stars_do_not(
    glob: str, path: str, *, fits: bool
) -> None:
    assert (glob_pattern(glob).match(path) is not None) is fits
