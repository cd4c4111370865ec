"""Every example does what it says; stand-ins for hub, bucket and endpoint speak as those do."""

import asyncio
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import spot_example
from support.corpora import rows
from support.endpoint import endpoint, write_tokenizer
from support.hub import hub
from support.laptop import Laptop
from support.pages import commands, put_example
from support.s3 import SeaweedFS
from support.scripted_s3 import scripted_s3

SMOLLM = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
HERE = {"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "0"}


def web_text(documents: int) -> bytes:
    """A file as those of FineWeb-Edu are."""
    found = rows(documents)
    columns = {
        "text": [row["text"] for row in found],
        "id": [row["id"] for row in found],
        "url": [row["url"] for row in found],
        "dump": ["CC-MAIN-2024-10"] * documents,
        "language_score": [0.9] * documents,
        "score": [3.5] * documents,
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=1000, compression="none")
    return out.getvalue()


async def test_finephrase_is_planned_from_the_footers_of_the_hub_alone(laptop: Laptop) -> None:
    file = web_text(20_000)
    async with hub() as served, scripted_s3() as bucket:
        paths = [f"sample/350BT/{number:03d}_00000.parquet" for number in range(5)]
        others = {"sample/10BT/000_00000.parquet": file, "README.md": b"# FineWeb-Edu"}
        files = {path: file for path in paths} | others
        served.push("datasets/HuggingFaceFW/fineweb-edu", files)
        environment = HERE | {
            "HF_ENDPOINT": served.endpoint,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }

        # the bucket is anybody's own; the source is that of the example
        storage = f"{{endpoint: {bucket.endpoint!r}, region: us-east-1, allowHTTP: true}}"
        target = "uri: s3://synthetic/finephrase"
        changes = {target: f"storage: {storage}\n    {target}"}
        put_example(laptop.folder, "finephrase.yaml", changes)

        (command,) = commands("examples/finephrase.yaml", "", "rephrase")
        ended = await asyncio.to_thread(
            laptop.rephrase, *command.split()[1:], "--json", environment=environment
        )

    assert ended.code == 0, ended.said
    told = json.loads(ended.out)
    assert told["files"] == 5
    assert told["total"] == 5 * 20_000
    assert told["documents"]["likely"] == 1000, "a hundredth"
    assert told["notes"] == []
    footer = int(pq.read_metadata(io.BytesIO(file)).serialized_size)
    most = max(footer + 8, 64 << 10)  # a footer, or the 64 KiB that one is looked for in
    assert set(served.sent) == set(paths)
    assert all(sent <= most for sent in served.sent.values())
    assert len(file) > 20 * most


async def test_the_endpoint_example_previews_and_runs_as_printed(laptop: Laptop) -> None:
    tokenizer = write_tokenizer(laptop.folder / "tokenizer") / "tokenizer.json"
    async with hub() as served, endpoint(tokenizer.parent, model=SMOLLM) as asked:
        files = {"sample/10BT/000_00000.parquet": web_text(2000)}
        commit = served.push("datasets/HuggingFaceFW/fineweb-edu", files)
        served.push(f"models/{SMOLLM}", {"tokenizer.json": tokenizer.read_bytes()})
        # the port is that of the stand-in: 8000 may be somebody's
        put_example(laptop.folder, "openai-endpoint.yaml", {"http://127.0.0.1:8000/v1": asked.url})
        environment = HERE | {"HF_ENDPOINT": served.endpoint}

        ended = [
            await asyncio.to_thread(laptop.rephrase, *one.split()[1:], environment=environment)
            for one in commands("examples/openai-endpoint.yaml")
        ]

    assert [one.code for one in ended] == [0, 0], "".join(one.said for one in ended)
    laptop.output = laptop.folder / "out" / "openai-endpoint"
    assert laptop.samples().num_rows == 1000 * 2
    assert len(laptop.samples("table")["url"].unique()) == 1000
    plan = next(laptop.output.glob("_run/*/plan.json"), None) or next(
        path for path in laptop.ledger() if path.stem == "plan"
    )
    assert commit in plan.read_text()


def test_the_example_of_own_prompts_runs_as_printed_but_for_its_model(laptop: Laptop) -> None:
    model = f"    name: {SMOLLM}\n"
    put_example(laptop.folder, "own-prompt.yaml", {model: f"{model}    engine: {{type: Echo}}\n"})
    tickets = [
        {
            "body": row["text"],
            "ticket": row["id"],
            "product": "x",
            "language": ["en", "de", "fr"][number % 3],
            "score": number % 6,
            **({"deleted": True} if number % 50 == 49 else {}),
        }
        for number, row in enumerate(rows(300))
    ]
    (laptop.folder / "corpus").mkdir()
    with gzip.open(laptop.folder / "corpus" / "tickets.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in tickets)

    ended = [laptop.rephrase(*one.split()[1:]) for one in commands("examples/own-prompt.yaml")]

    laptop.output = laptop.folder / "rewritten" / "tickets"
    fit = sum(
        one["language"] in ("en", "de") and one["score"] >= 3 and "deleted" not in one
        for one in tickets
    )
    assert [one.code for one in ended] == [0, 0], "".join(one.said for one in ended)
    found = laptop.samples().to_pylist()
    assert len(found) == fit * (1 + 3 + 1)
    assert all(one["source_text"] and one["language"] in ("en", "de") for one in found)


@pytest.mark.needs("s3")
def test_the_example_on_s3_runs_on_a_laptop_but_for_what_only_a_cluster_can_honor(
    laptop: Laptop, tmp_path: Path
) -> None:
    """The whole of a source that is smaller than its canary."""
    (tmp_path / "server").mkdir()
    with SeaweedFS(tmp_path / "server") as server:
        fit = spot_example.fill(server.endpoint, tmp_path / "files", documents=1000)
        put_example(laptop.folder, spot_example.NAME, spot_example.changes(server.endpoint))
        manifest = f"examples/{spot_example.NAME}"
        output = spot_example.in_bucket(server.endpoint, spot_example.OUTPUT)
        keys = output.credentials

        planned = laptop.rephrase("plan", manifest, "--json", environment=keys)
        ran = laptop.rephrase("run", manifest, "--workers", "2", environment=keys)
        output.download("", laptop.output)

    assert (planned.code, ran.code) == (0, 0), planned.said + ran.said
    plan = json.loads(planned.out)
    assert (plan["files"], plan["documents"]["likely"]) == (2, 1000), "at most: rows are filtered"
    assert [pool["rate"]["likely"] for pool in plan["pools"]] == [None, None], (
        "nobody measured an L4"
    )
    (note,) = [line for line in ran.out.splitlines() if "only a cluster can honor" in line]
    of_pool = ("nodeSelector", "tolerations", "priorityClassName", "modelCache")
    set_apart = [
        *(f"spec.workers.pools[0].{field}" for field in of_pool),
        "spec.workers.pools[1].podTemplate",
        *("spec.serviceAccountName", "spec.source.secretRef", "spec.output.secretRef"),
        *("spec.model.secretRef", "spec.scaling.deadline", "spec.scaling.budget"),
    ]
    assert [field for field in set_apart if field not in note] == []
    written = laptop.samples().to_pylist()
    by_prompt = {
        name: [one for one in written if one["prompt"] == name] for name in ("faq", "math")
    }
    kept = {(row["id"], row["url"], row["score"]) for row in fit}
    assert len(by_prompt["faq"]) == len(fit) == 400
    assert Counter(one["source_id"] for one in by_prompt["math"]) == {row["id"]: 2 for row in fit}
    assert {(one["source_id"], one["url"], one["score"]) for one in written} == kept
    assert all(
        one["source_file"].startswith("s3://corpus/fineweb-edu/data/CC-MAIN-2024-")
        for one in written
    )
