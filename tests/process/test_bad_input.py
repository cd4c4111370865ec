"""Whatever is wrong is found before anything is written, and told with what to do about it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import corpora
from support.laptop import Ended, Laptop, side_by_side, tree
from support.manifests import BRIEF, a_manifest

VLLM = {"engine": {"type": "VLLM", "args": None}}


@dataclass(frozen=True)
class Case:
    """A manifest that cannot be carried out.

    Attributes:
        spec: what is wrong with it.
        says: words of the message, in any order.
        code: exit status.
        prepare: makes what is wrong on disk.
    """

    spec: dict[str, Any]
    says: tuple[str, ...]
    code: int = 64
    prepare: Callable[[Laptop], object] = field(default=lambda laptop: None)


def template(text: str) -> dict[str, Any]:
    return {"prompts": [{"name": "brief", "template": text}]}


def parquet(name: str, **columns: list[Any]) -> Callable[[Laptop], object]:
    return lambda laptop: pq.write_table(pa.table(columns), laptop.source / name)


CASES = {
    # the manifest itself
    "unknown key": Case(
        {"sorce": {"uri": "source"}}, ("spec.sorce", "unknown field", "did you mean source?")
    ),
    "template without place for the document": Case(
        template("Shorten it."),
        ("spec.prompts[0].template", "[[DOCUMENT]]", "exactly once", "got 0"),
    ),
    "template with two places for the document": Case(
        template("[[DOCUMENT]] and [[DOCUMENT]]"),
        ("spec.prompts[0].template", "[[DOCUMENT]]", "exactly once", "got 2"),
    ),
    "kept column that the output has itself": Case(
        {"source": {"columns": {"keep": ["url", "source_id"]}}},
        ("spec.source.columns.keep", '"source_id"'),
    ),
    "output inside the source": Case(
        {"output": {"uri": "source/out"}}, ("spec.output.uri", "inside", '"source/out"')
    ),
    "output inside the source, in other words": Case(
        {"source": {"uri": "."}, "output": {"uri": "output"}},
        ("spec.output.uri", "inside", "output"),
    ),
    # the source
    "no such source": Case(
        {"source": {"uri": "sorce"}},
        ("spec.source.uri", "nothing at sorce", 'Did you mean "source"?'),
    ),
    "glob that fits nothing": Case(
        {"source": {"uri": "source/*.jsonl"}}, ("spec.source.uri", "no files at source/*.jsonl")
    ),
    "include that fits nothing": Case(
        {"source": {"include": ["*.jsonl"]}},
        ("spec.source.include", "*.jsonl", "There are docs.parquet"),
    ),
    "missing text column": Case(
        {"source": {"columns": {"text": "txt"}}},
        ("spec.source.columns.text", 'no column "txt"', "docs.parquet", 'Did you mean "text"?'),
    ),
    "text column of numbers": Case(
        {"source": {"columns": {"text": "number"}}},
        (
            "spec.source.columns.text",
            'column "number" is int64',
            "Columns of strings there: id, text",
        ),
        prepare=parquet("docs.parquet", id=["a"], text=["t"], url=["u"], number=[1]),
    ),
    "missing kept column": Case(
        {"source": {"columns": {"keep": ["link"]}}},
        ("spec.source.columns.keep", 'no column "link"'),
    ),
    "files that are no Parquet": Case(
        {},
        (
            "spec.source.uri",
            "2 of 3 files",
            "bad-1.parquet: ",
            "bad-2.parquet: ",
            "onUnreadableFile: Skip",
        ),
        prepare=lambda laptop: [
            (laptop.source / f"bad-{n}.parquet").write_bytes(b"no footer" * n) for n in (1, 2)
        ],
    ),
    # the model
    "argument that the engine does not know": Case(
        {"model": {"engine": {"args": ["--latency=1"]}}},
        ("spec.model.engine.args", "--latency=1", "--latency-seconds"),
    ),
    "model folder that is not there": Case(
        {"model": {"name": None, "uri": "models/none"} | VLLM},
        ("spec.model.uri models/none", "no such folder"),
    ),
    "model folder without a model": Case(
        {"model": {"name": None, "uri": "source"} | VLLM},
        ("spec.model.uri source", "no config.json"),
    ),
    "model whose context is too short": Case(
        {"model": {"name": None, "uri": "model"} | VLLM, "sampling": {"maxTokens": 4096}},
        ("maxTokens 4096", "context of 2048 tokens", "Lower sampling.maxTokens"),
        prepare=lambda laptop: write_model(laptop.folder / "model"),
    ),
    # the output
    "output below a file": Case(
        {"output": {"uri": "run.yaml/output"}},
        ("run.yaml/output", "cannot make the folder"),
        code=69,
    ),
    "output that cannot be written": Case(
        {"output": {"uri": "/proc/rephrase"}}, ("/proc/rephrase", "cannot make the folder"), code=69
    ),
    "output that is a file": Case(
        {"output": {"uri": "source/docs.parquet"}, "source": {"uri": "docs.jsonl"}},
        ("source/docs.parquet", "cannot make the folder"),
        code=69,
        prepare=lambda laptop: (laptop.folder / "docs.jsonl").write_text(
            '{"id": "a", "text": "t", "url": "u"}\n'
        ),
    ),
    "output with files of somebody else": Case(
        {"output": {"uri": "."}, "source": {"uri": "source"}},
        ("spec.output.uri", "in the way: README.md", "Name an empty folder"),
        prepare=lambda laptop: (laptop.folder / "README.md").write_text("Mine.\n"),
    ),
}


def write_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))


Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, Tree, Tree]]:
    """How `rephrase run` of each case ended, and all files before and after."""

    def run(case: Case, folder: Path) -> tuple[Ended, Tree, Tree]:
        laptop = Laptop(folder)
        corpora.write_parquet(laptop.source / "docs.parquet", corpora.rows(20))
        case.prepare(laptop)
        laptop.write(a_manifest(**case.spec))
        before = tree(laptop.folder)
        ended = laptop.run(within=40)
        after = tree(laptop.folder, but=("state", "out-", "err-"))
        if laptop.output.exists():
            after["output"] = b"a folder"
        return ended, before, after

    return side_by_side(
        {
            name: partial(run, case, tmp_path_factory.mktemp("refused"))
            for name, case in CASES.items()
        }
    )


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    refusals: dict[str, tuple[Ended, Tree, Tree]], name: str
) -> None:
    case = CASES[name]

    ended, before, after = refusals[name]

    assert ended.code == case.code, ended.said
    assert [words for words in case.says if words not in ended.err] == [], ended.err
    assert "Traceback" not in ended.out + ended.err
    assert after == before


def test_unreadable_files_are_left_out_and_listed_where_that_is_asked_for(laptop: Laptop) -> None:
    corpora.write_parquet(laptop.source / "docs.parquet", corpora.rows(20))
    (laptop.source / "bad.parquet").write_bytes(b"no footer")
    laptop.write(a_manifest(source={"onUnreadableFile": "Skip"}))

    ended = laptop.run()

    assert ended.code == 0, ended.said
    manifest = laptop.record("_run/manifest.json")
    assert manifest["skipped_files"] == [str(laptop.source / "bad.parquet")]
    assert manifest["rows"] == 20
    assert "bad.parquet" in (laptop.output / "README.md").read_text()


def test_rows_that_cannot_be_rewritten_are_dead_letters_and_the_others_are_not_touched(
    laptop: Laptop,
) -> None:
    good = [json.dumps(row).encode() for row in corpora.rows(20)]
    bad = {
        "null_text": b'{"id": "null", "text": null}',
        "empty_text": b'{"id": "blank", "text": "  "}',
        "text_not_string": b'{"id": "number", "text": 5}',
        "invalid_utf8": b'{"id": "bytes", "text": "\xff\xfe"}',
        "broken_json": b'{"id": "broken", "text": "cut',
        "empty_line": b"",
    }
    large = json.dumps({"id": "large", "text": "Rivers and roads. " * 290_000}).encode()
    laptop.source.mkdir()
    (laptop.source / "docs.jsonl").write_bytes(b"\n".join([*good, *bad.values(), large]) + b"\n")
    laptop.write(a_manifest(prompts=[BRIEF]))

    ended = laptop.run()

    assert ended.code == 0, ended.said
    manifest = laptop.record("_run/manifest.json")
    assert manifest["counts"]["brief"] | {"bytes": 0} == {
        "in": 27, "written": 21, "skipped": 3, "failed": 3, "bytes": 0,
        "tokens": manifest["tokens"]["completion"],
    }  # fmt: skip
    assert manifest["reasons"] == dict.fromkeys(bad, 1)
    assert [row["reason"] for row in laptop.dead_letters()] == list(bad)
    assert [row["source_row"] for row in laptop.dead_letters()] == list(range(20, 26))
    assert {row["source_id"]: row["truncated"] for row in laptop.samples().to_pylist()} == {
        f"doc-{n}": False for n in range(20)
    } | {"large": True}
    assert laptop.rephrase("verify", "output").code == 0


def test_parquet_rows_that_cannot_be_rewritten_are_dead_letters_too(laptop: Laptop) -> None:
    rows = corpora.rows(4)
    texts = [rows[0]["text"].encode(), None, b"", b"\xff\xfe"]
    table = pa.Table.from_pylist(rows).set_column(1, "text", pa.array(texts).view(pa.string()))
    laptop.source.mkdir()
    pq.write_table(table, laptop.source / "docs.parquet")
    laptop.write(a_manifest(prompts=[BRIEF]))

    ended = laptop.run()

    assert ended.code == 0, ended.said
    assert [row["source_row"] for row in laptop.samples().to_pylist()] == [0]
    assert [(row["outcome"], row["reason"]) for row in laptop.dead_letters()] == [
        ("skipped", "null_text"),
        ("skipped", "empty_text"),
        ("failed", "invalid_utf8"),
    ]


def test_a_source_without_rows_gives_an_empty_dataset(laptop: Laptop) -> None:
    corpora.write_parquet(laptop.source / "docs.parquet", corpora.rows(1))
    pq.write_table(
        pq.read_table(laptop.source / "docs.parquet").slice(1), laptop.source / "docs.parquet"
    )
    laptop.write(a_manifest())

    ended = laptop.run()

    assert ended.code == 0, ended.said
    assert "complete: 0 samples written" in ended.out
    assert laptop.rephrase("verify", "output").code == 0


def test_too_many_failures_are_a_failure_even_if_all_is_committed(laptop: Laptop) -> None:
    # one unit: all of it is committed before the driver could stop anything
    corpora.write_parquet(laptop.source / "docs.parquet", corpora.rows(200))
    laptop.write(
        a_manifest(
            prompts=[BRIEF],
            model={"engine": {"args": ["--fail-on=harbor", "--output-tokens=16"]}},
            retries={"requestAttempts": 1, "maxFailedDocuments": {"share": "1%", "count": 10}},
        )
    )

    ended = laptop.run()

    assert ended.code == 1, ended.said
    assert "FailureLimit: 25 of 200 finished documents failed, more than 1% and 10" in ended.err
    assert len(laptop.committed()) == 1
    assert not (laptop.output / "_run" / "manifest.json").exists()


def test_the_limit_counts_documents_however_many_rollouts_they_have(laptop: Laptop) -> None:
    corpora.write_parquet(laptop.source / "docs.parquet", corpora.rows(80), row_group_rows=20)
    laptop.write(
        a_manifest(
            source={"unit": {"targetDocuments": 20}},
            prompts=[{"name": "often", "template": "[[DOCUMENT]]", "rollouts": 4}],
            model={"engine": {"args": ["--fail-on=harbor", "--output-tokens=16"]}},
            retries={"requestAttempts": 1, "maxFailedDocuments": {"share": "1%", "count": 10}},
        )
    )

    ended = laptop.run()

    assert ended.code == 0, ended.said
    assert laptop.record("_run/manifest.json")["counts"]["often"]["failed"] == 40
