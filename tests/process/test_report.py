"""`report.html` of real runs: the account is everybody's, and it is made from the objects alone."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rephrase_runner.scrutiny import Original, scrutinize
from support.corpora import rows, write_parquet
from support.laptop import Laptop, tree
from support.manifests import BUILT_IN, a_manifest, echo
from support.pages import commands
from support.reports import Page
from support.runs import small_run
from support.tiers import ROOT

PRICES = 'currency: USD\ndate: "2026-11-01"\npricePerGPUHour: {H100/Spot: "3600"}\n'
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> the harbor\u202eof \x85 1700"
OUTCOMES = ("written", "skipped", "failed")
BESIDE = "Rewrites beside their documents"
ACCOUNT = "Samples by prompt and outcome"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """A run with every outcome, in which workers were paid for."""
    laptop = Laptop(tmp_path_factory.mktemp("reported"))
    pool = {
        "name": "spot",
        "capacityType": "Spot",
        "gpu": {"name": "H100", "count": 0},
        "pricePerGPUHour": "3600",
    }
    small_run(
        laptop,
        model=echo("--fail-on=district 13 ", "--fail-on=district 13 "),
        workers={"pools": [pool]},
    )
    ended = laptop.run("--workers", "2")
    assert ended.code == 0, ended.said
    yield laptop
    laptop.lose_power()


def page_of(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.faults == []
    return page


def percent(count: int, total: int) -> str:
    share = count / total
    return f"{share:.2%}" if 0 < share < 0.1 else f"{share:.1%}" if share else "0"


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_report_card_manifest_status_and_verify_tell_the_same_account(done: Laptop) -> None:
    manifest = done.record("_run/manifest.json")
    status = json.loads(done.rephrase("status", "output", "--json").out)
    verified = json.loads(done.rephrase("verify", "output", "--json").out)
    page = page_of(done.output / "report.html")
    card = (done.output / "README.md").read_text(encoding="utf-8")

    counted = {
        prompt: [counts[name] for name in ("in", *OUTCOMES)]
        for prompt, counts in manifest["counts"].items()
    }
    total = [sum(values) for values in zip(*counted.values(), strict=True)]
    _, *told, last = page.table(ACCOUNT)
    assert {row[0]: list(map(number, row[1:5])) for row in told} == counted
    assert list(map(number, last[1:5])) == total
    written = re.findall(
        r"^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", card, re.M
    )
    assert {prompt: list(map(number, values)) for prompt, *values in written} == counted
    assert [status["samples"][name] for name in OUTCOMES] == total[1:]
    assert {
        prompt: [values[name] for name in OUTCOMES]
        for prompt, values in verified["account"].items()
    } == {prompt: values[1:] for prompt, values in counted.items()}
    assert verified["samples"] == total[1] == done.samples().num_rows
    assert total[0] == len(done.keys()) == total[1] + total[2] + total[3]
    assert min(total) > 0

    tokens = manifest["tokens"]
    assert number(page.fact("tokens of rewrites")) == tokens["completion"]
    assert number(page.fact("tokens of prompts")) == tokens["prompt"]
    assert [status["tokens"][kind] for kind in ("completion", "prompt")] == [
        tokens["completion"], tokens["prompt"],
    ]  # fmt: skip
    assert page.fact("source rows") == f"{verified['rows']:,} of {manifest['rows']:,}"


def test_reasons_flags_and_lengths_are_those_of_the_rows(done: Laptop) -> None:
    page = page_of(done.output / "report.html")
    samples = done.samples("brief").to_pylist()
    reasons: dict[str, int] = {}
    for row in done.dead_letters():
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1

    told = {row[0]: row for row in page.table("Samples without a rewrite")[1:]}
    assert {reason: number(row[2]) for reason, row in told.items()} == reasons
    assert {row[1] for row in told.values()} == {"skipped", "failed"}
    assert all(row[-1] for row in told.values())
    names, flags, _ = page.table("Flags, as shares of all samples of a prompt")
    counted = Counter(flag for sample in samples for flag in sample["flags"])
    assert flags[0] == "brief"
    assert {name: share for name, share in zip(names, flags, strict=True) if name != "prompt"} == {
        name: percent(counted[name], 800) for name in names if name != "prompt"
    }
    assert counted["tiny"] > 0
    lengths = page.table("brief: samples by tokens")[1:]
    assert sum(number(count) for _, count in lengths) == len(samples)
    for steps, count in lengths:
        low, high = map(number, steps.split(" to "))
        assert number(count) == sum(low <= row["completion_tokens"] <= high for row in samples)


def test_rewrites_are_checked_against_their_own_documents(done: Laptop) -> None:
    page = page_of(done.output / "report.html")
    documents = {
        (path.name, row): text
        for path in done.source.iterdir()
        for row, text in enumerate(pq.read_table(path)["text"].to_pylist())
    }
    for prompt in ("brief", "twice"):
        samples = done.samples(prompt).to_pylist()
        expected = [
            scrutinize(
                row["text"],
                Original(documents[row["source_file"].rpartition("/")[2], row["source_row"]]),
                "",
            )
            for row in samples
        ]
        looked_for = {"copy", "repetition", "script"}
        assert [looked_for & set(row["flags"]) for row in samples] == [
            set(one.flags) for one in expected
        ]
        (row,) = [row for row in page.table(BESIDE) if row[0] == prompt]
        assert number(row[1]) == len(samples)
        overlap = sum(one.notes["overlap"] for one in expected) / len(samples) / 1000
        assert row[-1] == f"{overlap:.2f}"


def test_without_checks_nothing_is_compared(laptop: Laptop) -> None:
    small_run(laptop, quality={"checks": False})
    assert laptop.run().code == 0

    assert {flag for row in laptop.samples().to_pylist() for flag in row["flags"]} == {"tiny"}
    assert page_of(laptop.output / "report.html").table(BESIDE) == []


def test_openings_of_a_small_run_are_those_of_all_its_rows(done: Laptop) -> None:
    page = page_of(done.output / "report.html")

    for prompt in ("brief", "twice"):
        begins = [text.lstrip() for text in done.samples(prompt)["text"].to_pylist()]
        (row,) = [row for row in page.table("Template collapse") if row[0] == prompt]
        distinct = [len({text[:length] for text in begins}) for length in (4, 10, 20, 40)]
        assert number(row[1]) == len(begins)
        assert list(map(number, row[6:10])) == distinct


def test_money_is_the_seconds_of_the_workers_times_the_price(done: Laptop) -> None:
    # anew: the driver writes its own while the last workers say goodbye
    assert done.rephrase("report", "output", "--file", "later.html").code == 0
    page = page_of(done.folder / "later.html")
    beats = [json.loads(path.read_bytes()) for path in done.ledger("workers")]
    seconds = sum(sum(beat["seconds"].values()) for beat in beats)  # at 1 USD a second

    assert float(page.fact("so far").removesuffix(" USD")) == pytest.approx(seconds, abs=0.01)
    tokens = done.record("_run/manifest.json")["tokens"]["completion"]
    per_million = float(
        page.fact("per million committed tokens").removesuffix(" USD").replace(",", "")
    )
    assert per_million == pytest.approx(seconds * 1e6 / tokens, abs=0.01)


def test_a_price_list_prices_what_the_spec_does_not(laptop: Laptop) -> None:
    pool = {"name": "spot", "capacityType": "Spot", "gpu": {"name": "H100", "count": 1}}
    laptop.write(a_manifest(workers={"pools": [pool]}))
    write_parquet(laptop.source / "a.parquet", rows(20))
    (laptop.folder / "prices.yaml").write_text(PRICES)
    assert laptop.run().code == 0

    written = page_of(laptop.output / "report.html")
    before = tree(laptop.output)
    ended = laptop.rephrase("report", "output", "--prices", "prices.yaml", "--file", "mine.html")

    assert (ended.code, ended.out) == (0, "wrote mine.html\n")
    assert tree(laptop.output) == before
    assert (written.fact("cost"), written.fact("so far")) == ("unknown", "unknown")
    priced = page_of(laptop.folder / "mine.html")
    assert float(priced.fact("so far").removesuffix(" USD")) > 0
    (_, row) = priced.table("Time and money by pool")
    assert row[0] == "spot"
    assert row[-1] == "H100/Spot in the price list of 2026-11-01"


def test_documents_stand_beside_their_rewrites_only_if_asked_for(laptop: Laptop) -> None:
    laptop.write(a_manifest(prompts=BUILT_IN))
    found = [row | {"text": HOSTILE, "id": f"<b>{row['id']}"} for row in rows(8)]
    write_parquet(laptop.source / "a.parquet", found)
    assert laptop.run().code == 0

    plain = page_of(laptop.output / "report.html")
    ended = laptop.rephrase("report", "output", "--with-source")
    beside = page_of(laptop.output / "report.html")

    assert (ended.code, ended.out) == (0, "wrote output/report.html\n")
    labels = [given.get("aria-label") for given, _ in plain.named("pre")]
    assert labels[:4] == [f"text of {name}" for name in ("faq", "math", "table", "tutorial")]
    texts = {given.get("aria-label"): text for given, text in beside.named("pre")}
    assert texts["text of the document"] == HOSTILE.replace("\x85", "\N{REPLACEMENT CHARACTER}")
    assert "text of the document" not in labels
    for page in (plain, beside):
        assert {name for name, _ in page.elements} & {"script", "img"} == set()
        assert page.named("bdi")[0][1].startswith("<b>doc-")


def test_a_run_that_goes_on_has_a_report_and_is_not_disturbed(laptop: Laptop) -> None:
    small_run(laptop, model=echo(latency=0.3, concurrency=8))
    running = laptop.start_run("--workers", "2")
    laptop.wait_for_commits(2)

    ended = laptop.rephrase("report", "output", "--file", "now.html")

    page = page_of(laptop.folder / "now.html")
    laptop.lose_power()
    running.ended()
    assert ended.code == 0, ended.said
    assert "not complete yet" in page.texts[page.elements.index(("body", {}))]
    committed = number(page.fact("units committed").partition(" of ")[0])
    assert 2 <= committed < 20
    assert number(page.table(ACCOUNT)[-1][1]) == committed * 40 * 3
    assert page.fact("tokens discarded") == "not known while workers are at work"


def test_without_parts_and_source_a_report_says_what_it_could_not_show(laptop: Laptop) -> None:
    small_run(laptop)
    assert laptop.run().code == 0
    before = page_of(laptop.output / "report.html")
    for path in laptop.source.iterdir():
        path.rename(laptop.folder / path.name)

    unread = laptop.rephrase("report", "output", "--with-source")
    told = page_of(laptop.output / "report.html")
    assert laptop.rephrase("gc", "output", "--yes", "--parts").code == 0
    removed = laptop.rephrase("report", "output")
    after = page_of(laptop.output / "report.html")

    assert (unread.code, removed.code) == (0, 0), unread.said + removed.said
    assert "The documents cannot be shown" in "".join(text for _, text in told.named("li"))
    assert before.table(ACCOUNT) == told.table(ACCOUNT) == after.table(ACCOUNT)
    assert "cannot be" not in "".join(text for _, text in after.named("li"))
    assert len(after.named("article")) > 0


def test_where_there_is_no_run_there_is_no_report(laptop: Laptop) -> None:
    laptop.output.mkdir()

    ended = laptop.rephrase("report", "output")

    assert ended.code == 64
    assert "no run here" in ended.err
    assert list(laptop.output.iterdir()) == []


def test_a_report_that_cannot_be_written_does_not_fail_the_run(laptop: Laptop) -> None:
    small_run(laptop)
    (laptop.output / "report.html" / "in the way").mkdir(parents=True)

    ended = laptop.run()

    assert ended.code == 0, ended.said
    assert laptop.rephrase("verify", "output").code == 0
    (entry,) = laptop.log("driver*", "report not written")
    assert "report.html" in entry["exception"]


def test_every_command_of_the_pages_writes_the_page_that_it_says(laptop: Laptop) -> None:
    pools = [{"name": "spot", "capacityType": "Spot", "gpu": {"name": "H100", "count": 1}}]
    small_run(laptop, output={"uri": "demo/output"}, workers={"pools": pools})
    (laptop.folder / "examples").symlink_to(ROOT / "examples")
    beside, here = laptop.folder / "demo" / "output" / "report.html", laptop.folder / "report.html"
    ran = laptop.run()
    assert ran.code == 0, ran.said

    printed = [
        *commands("docs/report.md", "The report"),
        *commands("docs/cost.md", "In the report"),
    ]
    for command in printed:
        beside.unlink(missing_ok=True)
        here.unlink(missing_ok=True)
        ended = laptop.rephrase(*command.replace("OUTPUT", "demo/output").split()[1:])
        assert ended.code == 0, ended.said
        written = here if "--file" in command else beside
        text = written.read_text(encoding="utf-8")
        assert beside.exists() != here.exists()
        assert ("text of the document" in text) is ("--with-source" in command), command
        assert ("price list of 2026-11-01" in text) is ("--prices" in command), command
