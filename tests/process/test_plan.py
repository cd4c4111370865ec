"""`rephrase plan`: what a run would take, told without reading a document or writing a byte."""

import asyncio
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.corpora import rows, write_corpus, write_parquet
from support.laptop import Laptop, tree
from support.looks import NOW
from support.manifests import BUILT_IN, a_manifest, echo, merged
from support.pages import commands
from support.runs import small_run
from support.scripted_s3 import scripted_s3
from support.tiers import ROOT

H100 = {
    "model": {"name": "HuggingFaceTB/SmolLM2-1.7B-Instruct", "engine": None},
    "prompts": BUILT_IN,
    "workers": {"max": 2, "pools": [{"name": "h100", "gpu": {"name": "H100"}}]},
}
COST = ROOT / "docs" / "cost.md"
PRICES = str(ROOT / "examples" / "prices.yaml")


def planned(laptop: Laptop, *args: str, environment: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
    """What the command tells machines."""
    ended = laptop.rephrase("plan", "run.yaml", "--json", *args, environment=environment)
    assert ended.code == 0, ended.said
    return json.loads(ended.out)


def likely(found: Any, *path: str) -> Any:  # noqa: ANN401 - JSON
    """A figure with what it rests on."""
    for key in path:
        found = found[key]
    return found["likely"], found["basis"]


def test_a_manifest_is_planned_from_its_footers_and_nothing_is_written(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=2, rows_per_file=400, row_group_rows=40)
    laptop.write(a_manifest(**merged(H100, {"source": {"unit": {"targetDocuments": 40}}})))
    before = tree(laptop.source)

    found = planned(laptop, "--prices", PRICES)

    (pool,) = found["pools"]
    assert (found["files"], found["units"]) == (2, 20)
    assert likely(found, "documents") == (800, "counted")
    assert likely(found, "samples") == (3200, "counted")
    assert likely(found, "outputTokens") == (800 * 1398, "table")
    assert likely(pool, "rate") == (5255 / 2, "table")
    assert pool["gpuHours"]["least"] < pool["gpuHours"]["likely"] < pool["gpuHours"]["most"]
    money = round(pool["gpuHours"]["likely"] * 3, 2)
    assert float(pool["money"]["likely"]) == pytest.approx(money, abs=0.01)
    assert "price list of 2026-11-01" in pool["money"]["source"]
    assert not laptop.output.exists()
    assert tree(laptop.source) == before


def test_what_nobody_knows_is_unknown_to_people_and_null_to_machines(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=100, row_group_rows=40)
    laptop.write(a_manifest())

    told = laptop.rephrase("plan", "run.yaml")
    found = planned(laptop)

    (pool,) = found["pools"]
    for figure in (found["outputTokens"], pool["rate"], pool["gpuHours"], pool["money"]):
        assert (figure["least"], figure["likely"], figure["most"]) == (None, None, None)
    lines = {line.split("  ")[0]: line for line in told.out.splitlines()}
    assert told.code == 0
    assert "unknown" in lines["output tokens"]
    assert "run a canary" in lines["output tokens"]
    assert "run a canary" in lines["rate"]
    assert "unknown" in lines["cost"]


def test_a_run_that_has_begun_is_planned_from_what_it_measured(laptop: Laptop) -> None:
    small_run(laptop, model=echo(concurrency=2, latency=0.02))
    going = laptop.start_run("--workers", "1")
    laptop.wait_for_commits(3)
    laptop.lose_power()
    assert going.process.returncode != 0
    before = tree(laptop.output)

    found = planned(laptop)

    left = 20 - len(laptop.committed())
    (pool,) = found["pools"]
    # samples of empty documents were skipped: they have no tokens, and count
    tokens = found["meanOutputTokens"]["brief"]
    assert (found["units"], found["documents"]["likely"]) == (left, left * 40)
    assert tokens["basis"] == pool["rate"]["basis"] == "measured on this run"
    assert 12 < tokens["likely"] <= 16
    assert pool["rate"]["likely"] > 1
    assert likely(found, "outputTokens")[0] == pytest.approx(left * 40 * 3 * tokens["likely"])
    assert likely(found, "failedShare") == (0, "measured on this run")
    assert pool["seconds"]["likely"] > left * 40 * 3 * 12 / pool["rate"]["likely"]
    assert tree(laptop.output) == before


def test_of_a_complete_run_nothing_is_left(undisturbed: Laptop) -> None:
    found = planned(undisturbed)

    assert (found["units"], likely(found, "documents")[0]) == (0, 0)
    assert likely(found["pools"][0], "seconds")[0] == 0


def test_a_run_that_came_no_further_than_its_spec_is_planned_as_a_new_one(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    laptop.source.symlink_to(undisturbed.source)
    laptop.manifest.write_text(undisturbed.manifest.read_text())
    (laptop.output / "_run").mkdir(parents=True)
    spec = undisturbed.output / "_run" / "spec.json"
    (laptop.output / "_run" / "spec.json").write_bytes(spec.read_bytes())

    found = planned(laptop)

    assert (found["units"], likely(found, "documents")) == (20, (800, "counted"))
    assert found["failedShare"] is None


def test_the_output_of_another_run_is_refused_as_it_would_be_when_run(
    laptop: Laptop, undisturbed: Laptop
) -> None:
    laptop.write(
        a_manifest(
            source={"uri": str(undisturbed.source)},
            output={"uri": str(undisturbed.output)},
            prompts=BUILT_IN,
        )
    )

    ended = laptop.rephrase("plan", "run.yaml")

    assert ended.code == 64
    assert "this output belongs to a run with another spec" in ended.err


def test_bad_input_ends_with_64_and_says_what_is_wrong(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=10, row_group_rows=10)
    laptop.write(a_manifest(source={"columns": {"text": "txet"}}))
    prices = laptop.folder / "prices.yaml"
    prices.write_text("currency: USD\ndate: 2026-11-01\npricePerGPUHour: {H100: 2}\n")

    column = laptop.rephrase("plan", "run.yaml")
    listed = laptop.rephrase("plan", "run.yaml", "--prices", "prices.yaml")
    missing = laptop.rephrase("plan", "run.yaml", "--prices", "none.yaml")

    assert column.code == listed.code == missing.code == 64
    assert "spec.source.columns.text" in column.err
    assert "prices.yaml: 1 problem\n  line 3: H100: must be <gpu.name>/<capacityType>" in listed.err
    assert "none.yaml: cannot be read" in missing.err


def test_filters_and_samples_are_told_of(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=1000, row_group_rows=100)
    source = {"sample": {"fraction": "0.1"}, "limit": {"documents": 500}}
    exists = {"filters": [{"column": "url", "operator": "Exists"}]}

    laptop.write(a_manifest(source=source))
    sampled = planned(laptop)["documents"]
    laptop.write(a_manifest(source=source | exists))
    filtered = planned(laptop)["documents"]

    assert (sampled["likely"], sampled["basis"]) == (50, "counted")
    assert (filtered["likely"], filtered["basis"]) == (50, "assumption")
    assert "at most" in filtered["source"]


def test_the_documented_command_prints_what_the_page_shows(
    laptop: Laptop, *, update_golden: bool
) -> None:
    page = COST.read_text()
    blocks = re.compile(
        r"```yaml\n(apiVersion.*?)```\n\n```shell\n.*?\n```\n\n```text\n(.*?)```", re.DOTALL
    )
    (found,) = blocks.finditer(page)
    manifest, shown = found.groups()
    (command,) = commands("docs/cost.md", "Before a run: `rephrase plan`")
    (same,) = commands("examples/prices.yaml", "", "rephrase")
    laptop.manifest.write_text(manifest)
    (laptop.folder / "examples").symlink_to(ROOT / "examples")
    for number in range(4):
        documents = pa.table({"text": ["x"] * 250_000})
        laptop.source.mkdir(exist_ok=True)
        pq.write_table(documents, laptop.source / f"part-{number}.parquet", row_group_size=10_000)

    ended = laptop.rephrase(*command.split()[1:])

    assert command == same
    if update_golden:
        COST.write_text(page[: found.start(2)] + ended.out + page[found.end(2) :])
        shown = ended.out
    assert (ended.code, ended.out) == (0, shown)


async def test_only_footers_are_asked_of_a_store(laptop: Laptop) -> None:
    """And of JSON lines the heads; nothing is put, whatever the output."""
    groups = laptop.folder / "groups.parquet"
    write_parquet(groups, rows(20_000), row_group_rows=1000)
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows(20_000))
    storage = {"region": "us-east-1", "allowHTTP": True}
    environment = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "NO_PROXY": "127.0.0.1",
    }
    async with scripted_s3() as server:
        here = storage | {"endpoint": server.endpoint}
        for number in range(3):
            server.objects[f"corpus/part-{number}.parquet"] = groups.read_bytes(), NOW
            server.objects[f"lines/part-{number}.jsonl"] = lines, NOW
        output = {"uri": "s3://bucket/run", "storage": here}

        async def documents(folder: str) -> tuple[float, str]:
            source = {"uri": f"s3://bucket/{folder}", "storage": here}
            laptop.write(a_manifest(source=source, output=output))
            found = await asyncio.to_thread(planned, laptop, environment=environment)
            value = likely(found, "documents")
            return float(value[0]), str(value[1])

        counted = await documents("corpus")
        of_parquet = dict(server.sent)
        estimated = await documents("lines")

        kinds = {method for method, _ in server.requests}
        reads = [key for method, key in server.requests if method == "GET" and key]
        size = len(groups.read_bytes())
    assert counted == (60_000, "counted")
    assert estimated[0] == pytest.approx(60_000, rel=0.05)
    assert estimated[1] == "assumption"
    assert kinds <= {"GET", "HEAD"}, "nothing is put or deleted"
    footer = footer_bytes(groups.read_bytes())
    assert size > 10 * footer
    for key, sent in of_parquet.items():
        assert key.startswith("corpus/") is (sent > 0)
        assert sent < 2 * max(footer, 64 << 10), "a footer, or the 64 KiB that one is looked for in"
    assert len(lines) > 2 << 20
    assert all(server.sent[f"lines/part-{number}.jsonl"] == 1 << 20 for number in range(3))
    assert max(reads.count(key) for key in reads) <= 3


def footer_bytes(data: bytes) -> int:
    """Length of a Parquet file's footer."""
    return int(pq.read_metadata(io.BytesIO(data)).serialized_size)
