"""`rephrase verify` finds every way in which an output can be damaged, and names the object."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rephrase_runner.account import group_digest
from rephrase_runner.cli import app
from rephrase_runner.parts import digest
from rephrase_runner.records import Commit
from support.laptop import Laptop


class Output:
    """A finished output, and what somebody who tampers with it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = next(path for path in (folder / "_run").iterdir() if path.is_dir())
        self.manifest = folder / "_run" / "manifest.json"
        self.data = folder / "data" / "brief" / "part-00000.parquet"
        self.part = next(self.ledger.glob("parts/00000003-*.parquet"))
        self.commit = self.ledger / "commits" / "00000003.json"

    def accept_part(self) -> None:
        """Make commit and group say that the part is as it should be."""
        data = self.part.read_bytes()
        edit(self.commit, lambda commit: commit | {"sha256": digest(data), "bytes": len(data)})
        for path in self.ledger.glob("groups/?????.json"):
            edit(path, self._with_digest)

    def accept_data(self) -> None:
        """Make the records of the group and the manifest say that the file is as it should be."""
        for path in [*self.ledger.glob("groups/*.json"), self.manifest]:
            edit(path, self._with_data)

    def _with_digest(self, group: dict[str, Any]) -> dict[str, Any]:
        names = [f"commits/{unit:08d}.json" for unit in range(group["first"], group["end"])]
        commits = [Commit.from_bytes((self.ledger / name).read_bytes()) for name in names]
        return group | {"digest": group_digest(commits)}

    def _with_data(self, record: dict[str, Any]) -> dict[str, Any]:
        data, rows = self.data.read_bytes(), pq.read_metadata(self.data).num_rows
        told = {"sha256": digest(data), "bytes": len(data), "rows": rows}
        path = str(self.data.relative_to(self.folder))
        files = [
            file | {key: told[key] for key in told.keys() & file.keys()}
            if file["path"] == path
            else file
            for file in record["files"]
        ]
        return record | {"files": files}


def edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a record, written as the ledger writes it."""
    record = change(json.loads(path.read_bytes()))
    path.write_text(json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def rewrite(path: Path, rows: Callable[[pa.Table], pa.Table]) -> None:
    """Write a Parquet file with other rows and the same footer."""
    table = pq.read_table(path)
    pq.write_table(rows(table), path, compression="zstd")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def second_row_as_the_first(table: pa.Table) -> pa.Table:
    """As many rows as before, one of them twice."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])


# -- ways to damage an output; each returns what a fault must say --


def a_part_is_deleted(output: Output) -> list[str]:
    output.part.unlink()
    return [f"parts/{output.part.name}: missing"]


def a_byte_of_a_part_is_flipped(output: Output) -> list[str]:
    flip_a_byte(output.part)
    return [f"parts/{output.part.name}: checksum does not fit"]


def a_part_has_a_row_twice(output: Output) -> list[str]:
    rewrite(output.part, second_row_as_the_first)
    output.accept_part()
    return [f"parts/{output.part.name}", "more than once, for example row 120, prompt brief"]


def a_part_lacks_its_last_row(output: Output) -> list[str]:
    rewrite(output.part, lambda table: table.slice(0, table.num_rows - 1))
    output.accept_part()
    return [f"parts/{output.part.name}", "1 documents without all their samples"]


def a_part_is_that_of_another_unit(output: Output) -> list[str]:
    shutil.copy(next(output.ledger.glob("parts/00000004-*.parquet")), output.part)
    output.accept_part()
    return [f"parts/{output.part.name}: belongs to another unit"]


def a_part_is_no_parquet(output: Output) -> list[str]:
    output.part.write_bytes(b"nothing of ours")
    output.accept_part()
    return [f"parts/{output.part.name}"]


def a_commit_is_deleted(output: Output) -> list[str]:
    output.commit.unlink()
    return ["commits/00000003.json is missing"]


def a_commit_is_not_json(output: Output) -> list[str]:
    output.commit.write_bytes(b"{")
    return ["commits/00000003.json: not a Commit"]


def a_commit_counts_other_rows(output: Output) -> list[str]:
    edit(output.commit, lambda commit: commit | {"rows": commit["rows"] - 1})
    return ["unit 3: 39 rows committed, 40 planned"]


def a_commit_is_of_a_unit_that_is_not_planned(output: Output) -> list[str]:
    shutil.copy(output.commit, output.commit.with_name("00000099.json"))
    return ["commit of unit 99, but the plan has 20 units"]


def a_byte_of_a_data_file_is_flipped(output: Output) -> list[str]:
    flip_a_byte(output.data)
    return ["data/brief/part-00000.parquet: checksum does not fit"]


def a_data_file_has_a_row_twice(output: Output) -> list[str]:
    rewrite(output.data, second_row_as_the_first)
    output.accept_data()
    return ["source/part-0.parquet", "more than once, for example row 1, prompt brief"]


def a_data_file_lacks_its_last_row(output: Output) -> list[str]:
    rewrite(output.data, lambda table: table.slice(0, table.num_rows - 1))
    output.accept_data()
    return ["source/part-0.parquet", "1 documents without all their samples"]


def a_data_file_is_another_dataset(output: Output) -> list[str]:
    pq.write_table(pa.table({"text": ["nothing of ours"]}), output.data)
    output.accept_data()
    return ["data/brief/part-00000.parquet"]


def a_data_file_is_deleted(output: Output) -> list[str]:
    output.data.unlink()
    return ["data/brief/part-00000.parquet is missing"]


def a_file_of_dead_letters_is_deleted(output: Output) -> list[str]:
    (output.folder / "dead_letter" / "part-00000.parquet").unlink()
    return ["dead_letter/part-00000.parquet is missing"]


def a_file_lies_beside_the_data(output: Output) -> list[str]:
    shutil.copy(output.data, output.data.with_name("part-99999.parquet"))
    return ["data/brief/part-99999.parquet: no group names this file"]


def a_group_is_not_done(output: Output) -> list[str]:
    (output.ledger / "groups" / "00000.done.json").unlink()
    return ["groups/00000.json: units from 0 on are not published"]


def the_plan_is_deleted(output: Output) -> list[str]:
    (output.ledger / "plan.json").unlink()
    return ["plan.json is missing"]


def a_byte_of_the_unit_table_is_flipped(output: Output) -> list[str]:
    table = next(output.ledger.glob("plan-*.parquet"))
    flip_a_byte(table)
    return [f"{table.name}: checksum does not fit plan.json"]


def the_manifest_is_deleted(output: Output) -> list[str]:
    output.manifest.unlink()
    return ["_run/manifest.json is missing: the run is not complete"]


def the_manifest_is_that_of_another_run(output: Output) -> list[str]:
    edit(output.manifest, lambda manifest: manifest | {"run": "0123456789abcdef"})
    return ["_run/manifest.json: belongs to another run"]


DAMAGES = [
    a_part_is_deleted,
    a_byte_of_a_part_is_flipped,
    a_part_has_a_row_twice,
    a_part_lacks_its_last_row,
    a_part_is_that_of_another_unit,
    a_part_is_no_parquet,
    a_commit_is_deleted,
    a_commit_is_not_json,
    a_commit_counts_other_rows,
    a_commit_is_of_a_unit_that_is_not_planned,
    a_byte_of_a_data_file_is_flipped,
    a_data_file_has_a_row_twice,
    a_data_file_lacks_its_last_row,
    a_data_file_is_another_dataset,
    a_data_file_is_deleted,
    a_file_of_dead_letters_is_deleted,
    a_file_lies_beside_the_data,
    a_group_is_not_done,
    the_plan_is_deleted,
    a_byte_of_the_unit_table_is_flipped,
    the_manifest_is_deleted,
    the_manifest_is_that_of_another_run,
]

FORGED = {
    "hash": "0123456789abcdef",
    "units": 19,
    "rows": 799,
    "filtered": 1,
    "documents": 799,
    "counts": {},
    "reasons": {},
    "tokens": {"prompt": 0, "completion": 0},
    "truncated": 1,
    "files": [],
    "source": [],
    "noticed": {"brief": {"truncated": 1}},
    "collapse": {},
    "skipped_files": ["source/part-2.parquet"],
    "declared": {},
    "resolved": {"prompts": []},
}
"""Another value for every field of the manifest that the rest of the output tells as well."""


@pytest.fixture
def output(tmp_path: Path, undisturbed: Laptop) -> Output:
    shutil.copytree(undisturbed.output, tmp_path / "output")
    return Output(tmp_path / "output")


def verified(output: Output) -> tuple[int, list[str]]:
    """Exit code and faults of `rephrase verify`, in this process: starting one takes far longer."""
    result = CliRunner().invoke(app, ["verify", str(output.folder)], standalone_mode=False)
    faults = [line for line in result.stdout.splitlines() if line.startswith("FAULT  ")]
    assert result.exception is None, result.output
    return result.return_value, faults


def test_an_intact_output_is_sound(undisturbed: Laptop) -> None:
    ended = undisturbed.rephrase("verify", "output")

    assert ended.code == 0, ended.said
    assert ended.out.startswith("output: sound; 20 units, 20 parts, ")
    assert ended.err == ""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", "-"))
def test_a_damaged_output_is_refused_with_the_name_of_the_object(
    output: Output, damage: Callable[[Output], list[str]]
) -> None:
    expected = damage(output)

    code, faults = verified(output)

    assert code == 1
    assert [fault for fault in faults if all(words in fault for words in expected)], faults


@pytest.mark.parametrize("field", FORGED)
def test_a_manifest_that_says_something_else_than_the_ledger_is_refused(
    output: Output, field: str
) -> None:
    edit(output.manifest, lambda manifest: manifest | {field: FORGED[field]})

    code, faults = verified(output)

    assert code == 1
    assert [fault for fault in faults if f'_run/manifest.json: "{field}"' in fault], faults


def test_json_names_the_faults_for_machines(laptop: Laptop, output: Output) -> None:
    output.data.unlink()

    ended = laptop.rephrase("verify", "output", "--json")

    report = json.loads(ended.out)
    assert ended.code == 1
    assert report["complete"] is True
    assert "data/brief/part-00000.parquet is missing" in report["faults"]


@pytest.mark.parametrize("uri", ["nowhere", "source", "run.yaml"])
def test_what_is_no_run_is_a_usage_error(laptop: Laptop, uri: str) -> None:
    laptop.source.mkdir()
    laptop.manifest.touch()

    ended = laptop.rephrase("verify", uri)

    assert ended.code == 64, ended.said
    assert uri in ended.err
    assert list(laptop.source.iterdir()) == []
