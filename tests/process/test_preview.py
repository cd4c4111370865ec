"""`rephrase preview`: what is shown, and that nothing is written."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from rephrase_runner.markup import escaped
from support.corpora import a_text, rows, write_corpus, write_parquet
from support.endpoint import MODEL, endpoint, says, write_tokenizer
from support.laptop import Laptop, tree
from support.manifests import BUILT_IN, a_manifest, echo, merged


def previewed(laptop: Laptop, *args: str) -> Any:  # noqa: ANN401 - JSON
    ended = laptop.rephrase("preview", "run.yaml", "--json", *args)
    assert ended.code == 0, ended.said
    return json.loads(ended.out)


def test_documents_are_rewritten_with_every_prompt_as_a_run_does_it_and_nothing_is_written(
    laptop: Laptop,
) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=40, row_group_rows=10)
    laptop.write(a_manifest(quality={"onTruncated": "Keep"}))
    before = tree(laptop.source)

    found = previewed(laptop)
    missing = not laptop.output.exists()
    ran = laptop.run()

    assert missing
    assert tree(laptop.source) == before
    assert ran.code == 0, ran.said
    # the first row is empty, and there is nothing to see of it
    assert [one["id"] for one in found["documents"]] == ["doc-1", "doc-2", "doc-3"]
    (model,) = found["models"]
    texts = {
        (row["source_id"], row["prompt"]): row["text"]
        for row in laptop.samples().to_pylist()
        if row["rollout"] == 0
    }
    samples = model["samples"]
    assert len(samples) == 3 * 2
    for sample in samples:
        document = found["documents"][sample["document"]]["id"]
        assert sample["text"] == texts[document, sample["prompt"]]


def test_models_are_side_by_side_with_their_figures(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=40, row_group_rows=10)
    laptop.write(a_manifest(prompts=BUILT_IN, sampling={"maxTokens": 12}))

    arguments = ("preview", "run.yaml", "--model", "owner/other", "--documents", "2")
    ended = laptop.rephrase(*arguments, environment={"COLUMNS": "160"})

    assert ended.code == 0, ended.said
    assert not laptop.output.exists()
    for said in ("document 1: doc-1", "document 2: doc-2", a_text(1)[:30], "echo", "owner/other"):
        assert said in ended.out
    table = [line.split() for line in ended.out.split("prompts and models")[1].splitlines()]
    figures = [line[:2] for line in table if line and line[0] in {"faq", "math", "table"}]
    assert ["faq", "echo"] in figures
    assert ["faq", "owner/other"] in figures
    assert re.search(r"2 length", ended.out)


def test_a_page_holds_all_texts_and_nothing_of_them_can_act(laptop: Laptop) -> None:
    evil = "<script>alert(1)</script> \x1b[31m " + a_text(5)
    write_parquet(laptop.source / "a.parquet", [{"id": "<b>", "text": evil, "url": ""}])
    laptop.write(a_manifest(model=echo()))

    ended = laptop.rephrase("preview", "run.yaml", "--html", "look.html", "--model", "other")
    shown = laptop.rephrase("preview", "run.yaml")

    assert ended.code == 0, ended.said
    page = (laptop.folder / "look.html").read_text()
    assert "<script" not in page
    assert escaped("<script>alert(1)</script>") in page
    assert page.count("<h4>other ") == 2
    assert ended.out == ""
    assert "\x1b[31m" not in shown.out
    assert not laptop.output.exists()


def test_documents_are_looked_for_behind_filters_and_a_sample(laptop: Laptop) -> None:
    found = rows(6000)
    write_parquet(laptop.source / "a.parquet", found, row_group_rows=1000)
    source = {
        "sample": {"fraction": "0.5"},
        "filters": [
            {"column": "id", "operator": "In", "values": ["doc-5", "doc-5001", "doc-5002"]}
        ],
    }
    laptop.write(a_manifest(source=source))

    ids = [one["id"] for one in previewed(laptop)["documents"]]

    assert ids
    assert set(ids) <= {"doc-5", "doc-5001", "doc-5002"}


def test_what_is_wrong_with_any_model_is_told_before_one_is_loaded(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=40, row_group_rows=10)
    laptop.write(
        a_manifest(model={"engine": {"args": ["--start-seconds=0", "--fail-on=district"]}})
    )

    failing = previewed(laptop)
    nowhere = laptop.rephrase("preview", "run.yaml", "--model", "not a name")

    reasons = {one["reason"] for one in failing["models"][0]["samples"]}
    assert reasons == {"echo_failed"}
    assert nowhere.code == 64
    assert "loading" not in nowhere.err
    assert "must be a model's name" in nowhere.err


async def test_an_endpoint_is_asked_for_its_models(laptop: Laptop, tmp_path: Path) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=40, row_group_rows=10)
    async with endpoint(write_tokenizer(tmp_path / "tokenizer")) as served:
        engine = {"type": "OpenAI", "args": None, "openAI": {"baseURL": served.url}}
        model = {
            "name": MODEL,
            "tokenizer": "tokenizer",
            "maxModelLength": 4096,
            "engine": engine,
        }
        laptop.write(a_manifest(**merged({"model": model}, {"sampling": {"maxTokens": 40}})))
        served.always = "district 1 ", says(400, "no")

        ended = await asyncio.to_thread(
            laptop.rephrase,
            *("preview", "run.yaml", "--json", "--documents", "2"),
            environment={"NO_PROXY": "127.0.0.1"},
        )

    assert ended.code == 0, ended.said
    samples = json.loads(ended.out)["models"][0]["samples"]
    assert {(one["document"], one["status"], one["reason"]) for one in samples} == {
        (0, "failed", "engine_refused"),
        (1, "written", ""),
    }
