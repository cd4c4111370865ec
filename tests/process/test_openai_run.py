"""Whole runs whose model is an endpoint: what it does wrong costs time, and no document."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.corpora import rows, write_parquet
from support.endpoint import MODEL, Endpoint, cuts, endpoint, says, write_tokenizer
from support.laptop import Ended, Laptop
from support.manifests import a_manifest
from support.waiting import eventually

DOCUMENTS = 40
HERE = {"NO_PROXY": "127.0.0.1"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with endpoint(write_tokenizer(tmp_path / "tokenizer")) as found:
        yield found


def write(laptop: Laptop, served: Endpoint, *args: str, **spec: Any) -> None:  # noqa: ANN401
    write_parquet(laptop.source / "part-0.parquet", rows(DOCUMENTS), row_group_rows=10)
    model = {
        "name": MODEL,
        "tokenizer": "tokenizer",
        "maxModelLength": 4096,
        "engine": {"type": "OpenAI", "args": [*args], "openAI": {"baseURL": served.url}},
    }
    base: dict[str, Any] = {"model": model, "source": {"unit": {"targetDocuments": 10}}}
    laptop.write(a_manifest(**base, **{"sampling": {"maxTokens": 50, "seed": 7}} | spec))


async def ran(laptop: Laptop, environment: Mapping[str, str] | None = None) -> Ended:
    return await asyncio.to_thread(laptop.run, environment=HERE | dict(environment or {}))


async def test_a_run_over_a_bad_endpoint_loses_nothing_and_tells_its_key_to_nobody(
    laptop: Laptop, served: Endpoint
) -> None:
    served.key = "sk-a-secret-key"
    write(laptop, served)
    # the first two are what a worker asks before it claims anything
    served.faults = [says(503), says(429, Retry_After="1"), says(500), cuts] + [says(502)] * 3

    ended = await ran(laptop, {"OPENAI_API_KEY": "sk-a-secret-key"})
    verified = await asyncio.to_thread(laptop.rephrase, "verify", "output")

    assert (ended.code, verified.code) == (0, 0), ended.said + verified.said
    assert laptop.samples().num_rows == DOCUMENTS * 3
    told = [path for path in laptop.folder.rglob("*") if path.is_file()]
    assert not [path for path in told if b"sk-a-secret" in path.read_bytes()]


async def test_a_document_that_breaks_the_endpoint_fails_with_its_reason(
    laptop: Laptop, served: Endpoint
) -> None:
    write(laptop, served, retries={"requestAttempts": 2, "maxFailedDocuments": {"count": 5}})
    served.always = "district 13 ", says(500, "assertion failed")

    ended = await ran(laptop)

    assert ended.code == 0, ended.said
    letters = laptop.dead_letters()
    assert {(one["source_id"], one["reason"], one["attempts"]) for one in letters} == {
        ("doc-13", "endpoint_error", 2)
    }
    assert letters[0]["message"] == "the endpoint answers 500: assertion failed"
    assert laptop.samples().num_rows == (DOCUMENTS - 1) * 3


async def test_a_refused_key_and_a_wrong_model_end_the_run_before_anything_is_claimed(
    laptop: Laptop, served: Endpoint
) -> None:
    served.key = "sk-right"
    write(laptop, served, retries={"workerBackoffLimit": 0})

    refused = await ran(laptop, {"OPENAI_API_KEY": "sk-wrong"})
    served.key = ""
    served.always = MODEL, says(404, "The model does not exist.")
    missing = await ran(laptop)
    served.always = MODEL, says(400, "Unsupported parameter: 'seed'")
    unsupported = await ran(laptop)

    assert (refused.code, missing.code, unsupported.code) == (69, 64, 64)
    assert "refused the key" in refused.err
    assert "OPENAI_API_KEY" in refused.err
    assert "The model does not exist" in missing.err
    assert "Unsupported parameter: 'seed'" in unsupported.err
    assert laptop.ledger("claims") == []


async def test_a_key_that_is_revoked_in_the_middle_ends_the_run_which_goes_on_with_a_new_one(
    laptop: Laptop, served: Endpoint
) -> None:
    served.key = "sk-one"
    write(laptop, served, "--concurrency=2", retries={"workerBackoffLimit": 0})
    going = asyncio.create_task(ran(laptop, {"OPENAI_API_KEY": "sk-one"}))
    await eventually(lambda: len(laptop.committed()) >= 1, "a unit is committed", within=60)
    served.key = "sk-two"

    ended = await going
    asked = len(served.bodies)
    again = await ran(laptop, {"OPENAI_API_KEY": "sk-two"})

    assert (ended.code, again.code) == (69, 0), ended.said + again.said
    assert laptop.samples().num_rows == DOCUMENTS * 3
    made_anew = len(served.bodies) - asked
    assert made_anew < DOCUMENTS * 3, "what was finished is not asked for again"
    assert re.search(r"AccessRefused: .* refused the key", ended.err)
