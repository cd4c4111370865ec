"""Every example does what it says; stand-ins for hub, bucket and endpoint speak as those do."""

import asyncio
import gzip
import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from support.corpora import rows
from support.endpoint import endpoint, write_tokenizer
from support.hub import hub
from support.laptop import Laptop
from support.scripted_s3 import scripted_s3
from support.tiers import ROOT

EXAMPLES = ROOT / "examples"
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
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / "finephrase.yaml").read_text())
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
        storage = {"endpoint": bucket.endpoint, "region": "us-east-1", "allowHTTP": True}
        manifest["spec"]["output"]["storage"] = storage
        laptop.write(manifest)

        ended = await asyncio.to_thread(
            laptop.rephrase, "plan", "run.yaml", "--json", environment=environment
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
    text = (EXAMPLES / "openai-endpoint.yaml").read_text()
    tokenizer = write_tokenizer(laptop.folder / "tokenizer") / "tokenizer.json"
    async with hub() as served, endpoint(tokenizer.parent, model=SMOLLM) as asked:
        files = {"sample/10BT/000_00000.parquet": web_text(2000)}
        commit = served.push("datasets/HuggingFaceFW/fineweb-edu", files)
        served.push(f"models/{SMOLLM}", {"tokenizer.json": tokenizer.read_bytes()})
        manifest = laptop.folder / "examples" / "openai-endpoint.yaml"
        manifest.parent.mkdir()
        # the port is that of the stand-in: 8000 may be somebody's
        manifest.write_text(text.replace("http://127.0.0.1:8000/v1", asked.url))
        commands = re.findall(r"^#     rephrase (.*)$", text, re.MULTILINE)
        environment = HERE | {"HF_ENDPOINT": served.endpoint}

        ended = [
            await asyncio.to_thread(laptop.rephrase, *one.split(), environment=environment)
            for one in commands
        ]

    assert [one.split()[0] for one in commands] == ["preview", "run"]
    assert [one.code for one in ended] == [0, 0], "".join(one.said for one in ended)
    laptop.output = laptop.folder / "out" / "openai-endpoint"
    assert laptop.samples().num_rows == 1000 * 2
    assert len(laptop.samples("table")["url"].unique()) == 1000
    plan = next(laptop.output.glob("_run/*/plan.json"), None) or next(
        path for path in laptop.ledger() if path.stem == "plan"
    )
    assert commit in plan.read_text()


def test_the_example_of_own_prompts_runs_as_printed_but_for_its_model(laptop: Laptop) -> None:
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / "own-prompt.yaml").read_text())
    manifest["spec"]["model"] = {"name": "echo", "engine": {"type": "Echo"}}
    laptop.write(manifest)
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

    ended = laptop.run()

    laptop.output = laptop.folder / "rewritten" / "tickets"
    fit = sum(
        one["language"] in ("en", "de") and one["score"] >= 3 and "deleted" not in one
        for one in tickets
    )
    assert ended.code == 0, ended.said
    found = laptop.samples().to_pylist()
    assert len(found) == fit * (1 + 3 + 1)
    assert all(one["source_text"] and one["language"] in ("en", "de") for one in found)
