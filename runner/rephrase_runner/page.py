"""`report.html`: the figures of a run as one page that needs nothing else, no script and no network. Pure."""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from rephrase_api import cost
from rephrase_api.words import duration
from rephrase_runner import charts, openings
from rephrase_runner.figures import Figures, Money, PromptFigures, Rewrite, Shown, warnings
from rephrase_runner.histogram import added, following, quantile
from rephrase_runner.markup import Markup, html_document, joined, tag

UNKNOWN = "unknown"
_TEXT_CHARACTERS = 20_000
_ARITHMETIC = {
    "right": "an equation is right",
    "wrong": "all are wrong",
    "open": "operators, no equation",
    "numbers": "numbers only",
    "none": "no digit",
}
_SPEED_ROWS = 24


def render(figures: Figures) -> str:
    """The page."""
    sections = [
        _account(figures),
        _speed(figures),
        _money(figures.money),
        _lengths(figures),
        _quality(figures),
        _collapse(figures),
        _dead(figures),
        _rewrites(figures),
        _settings(figures),
    ]
    body = tag(
        "body",
        tag("a", "Skip to the account", href="#account", class_="skip"),
        tag("header", _header(figures), _tiles(figures), _notes(figures)),
        tag("main", *filter(None, sections)),
        tag(
            "footer",
            f"rephrase {figures.version}, run {figures.spec.run}, spec {figures.spec.hash[:12]}. Times are "
            "those of the store, in UTC. Made from the run's own records; `rephrase verify` proves them.",
        ),
    )
    return html_document(f"Rephrase report: {_model(figures)}", body)


# -- the head --


def _header(figures: Figures) -> Markup:
    source = str(figures.spec.declared["source"]["uri"])
    state = "complete" if figures.complete else "not complete yet"
    return joined(
        [
            tag("p", "Rephrase report ", tag("span", state, class_=f"state {state.split()[0]}")),
            tag("h1", _model(figures)),
            tag(
                "p",
                f"{_number(figures.rows - figures.filtered)} documents of ",
                tag("code", source),
                f", {_number(len(figures.prompts))} "
                f"{'prompt' if len(figures.prompts) == 1 else 'prompts'}",
                _period(figures),
                class_="lead",
            ),
        ]
    )


def _model(figures: Figures) -> str:
    model = figures.spec.declared["model"]
    return str(model.get("name") or model.get("uri"))


def _period(figures: Figures) -> str:
    if figures.began is None or figures.ended is None:
        return ""
    took = duration((figures.ended - figures.began).total_seconds())
    return f", {_time(figures.began)} to {_time(figures.ended)} ({took})"


def _tiles(figures: Figures) -> Markup:
    samples, tokens, paid = figures.samples, figures.tokens, figures.money
    share = f"{samples.written / samples.in_:.2%} of {_number(samples.in_)}" if samples.in_ else ""
    rate = figures.busy_rate
    found = [
        ("rewrites", _number(samples.written), share),
        ("tokens", _short(tokens.completion), f"{_short(tokens.prompt)} in their prompts"),
        (
            "tokens/s",
            _number(round(rate)) if rate is not None else UNKNOWN,
            "from the first claim to the last commit",
        ),
        ("cost", _amount(paid.total, paid.currency), _per_million(paid)),
    ]
    if not figures.complete:
        done = f"{figures.committed / max(1, figures.units):.1%}"
        found.insert(
            0, ("done", done, f"{_number(figures.committed)} of {_number(figures.units)} units")
        )
    return tag(
        "dl",
        *[
            tag("div", tag("dt", name), tag("dd", value), tag("dd", more, class_="more"))
            for name, value, more in found
        ],
        class_="tiles",
    )


def _per_million(paid: Money) -> str:
    if paid.per_million is None:
        return ""
    return f"{_amount(paid.per_million, paid.currency)} per million tokens"


def _notes(figures: Figures) -> str:
    found = [*warnings(figures), *figures.notes]
    if not found:
        return ""
    return tag(
        "section",
        tag("h2", "Worth a look", id="notes"),
        tag("ul", *[tag("li", note) for note in found]),
        class_="notes",
        aria_labelledby="notes",
    )


# -- sections --


def _section(name: str, title: str, *parts: str) -> Markup:
    return tag("section", tag("h2", title, id=name), *parts, aria_labelledby=name)


def _account(figures: Figures) -> Markup:
    total = figures.samples
    rows = [[prompt.name, *_outcomes(prompt), _share_bar(prompt)] for prompt in figures.prompts]
    totals = [_number(value) for value in (total.in_, total.written, total.skipped, total.failed)]
    return _section(
        "account",
        "Account",
        tag(
            "p",
            "Every document is written, skipped with a reason, or failed with a reason: in = written + "
            "skipped + failed.",
        ),
        _table(
            "Samples by prompt and outcome",
            ["prompt", "in", "written", "skipped", "failed", "share"],
            rows,
            foot=["all", *totals, ""],
            words={"share"},
        ),
        _facts(
            {
                "units committed": f"{_number(figures.committed)} of {_number(figures.units)}",
                "source rows": f"{_number(figures.rows)} of {_number(figures.planned_rows)}",
                "left out by the filter": _number(figures.filtered),
                "documents": _number(figures.rows - figures.filtered),
                "tokens of rewrites": _number(figures.tokens.completion),
                "tokens of prompts": _number(figures.tokens.prompt),
                "tokens discarded": _discarded(figures),
                "samples whose document was cut": _number(figures.truncated),
                "source files left out": _number(len(figures.skipped_files)),
            }
        ),
        *_files(figures.skipped_files),
    )


def _files(names: Sequence[str]) -> Iterable[Markup]:
    if names:
        listed = [tag("li", tag("code", name)) for name in names[:50]]
        yield tag(
            "details", tag("summary", "Source files that could not be read"), tag("ul", *listed)
        )


def _discarded(figures: Figures) -> str:
    if figures.discarded is None:
        return "not known while workers are at work"
    generated = figures.tokens.completion + figures.discarded
    share = f" ({figures.discarded / generated:.2%} of all generated)" if generated else ""
    return f"{_number(figures.discarded)}{share}"


def _outcomes(prompt: PromptFigures) -> list[str]:
    counts = prompt.counts
    return [_number(value) for value in (counts.in_, counts.written, counts.skipped, counts.failed)]


def _share_bar(prompt: PromptFigures) -> Markup:
    counts = prompt.counts
    numbers = (counts.written, counts.skipped, counts.failed)
    label = ", ".join(
        f"{count / max(1, counts.in_):.2%} {name}"
        for name, count in zip(charts.NAMES, numbers, strict=True)
    )
    return charts.outcomes(numbers, label=f"{prompt.name}: {label}")


def _speed(figures: Figures) -> str:
    points = figures.speed
    if not points:
        return ""
    rates = sorted(rate for _, rate in points)
    top = _round_up(rates[-1])
    middle = rates[len(rates) // 2]
    label = (
        f"Tokens per second over time: median {_number(round(middle))}, at most "
        f"{_number(round(rates[-1]))}, in steps of {duration(figures.speed_seconds)}."
    )
    begin, end = points[0][0], points[-1][0] + figures.speed_seconds
    return _section(
        "speed",
        "Speed",
        tag("p", label),
        charts.framed(
            charts.speed(points, top=top, label=label),
            upper=f"{_short(round(top))} tokens/s",
            lower="0",
            left=_clock(begin),
            middle="",
            right=_clock(end),
        ),
        tag(
            "p",
            "A unit's tokens are spread evenly from its claim to its commit.",
            class_="small",
        ),
        _as_table(
            "Tokens per second over time",
            ["from", "tokens/s"],
            [[_clock(at), _number(round(rate))] for at, rate in _fewer(points)],
        ),
    )


def _fewer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 24 points, each the mean of those it stands for."""
    each = -(-len(points) // _SPEED_ROWS)
    grouped = [points[first : first + each] for first in range(0, len(points), each)]
    return [(group[0][0], sum(rate for _, rate in group) / len(group)) for group in grouped]


def _money(paid: Money) -> str:
    if not paid.pools:
        return ""
    rows = [
        [
            pool.name or "-",
            f"{pool.seconds / 3600:,.2f} {'GPU' if pool.gpus else 'worker'} hours",
            _amount(pool.price, paid.currency),
            _amount(pool.amount, paid.currency),
            pool.basis,
        ]
        for pool in paid.pools
    ]
    facts = {
        "so far": _amount(paid.total, paid.currency),
        "per million committed tokens": _amount(paid.per_million, paid.currency),
        "of discarded work": _amount(paid.discarded, paid.currency),
    }
    if paid.total is None and paid.at_least:
        facts["at least, for the pools with a price"] = _amount(paid.at_least, paid.currency)
    return _section(
        "cost",
        "Cost",
        tag(
            "p",
            "Time that workers told of, from their start to their last heartbeat, times price. Waiting for "
            "nodes and images is not in it.",
        ),
        _facts(facts),
        _table(
            "Time and money by pool",
            ["pool", "time", "price an hour", "cost", "price from"],
            rows,
            words={"price from"},
        ),
    )


def _lengths(figures: Figures) -> str:
    shown = [prompt for prompt in figures.prompts if prompt.noticed and prompt.noticed.lengths]
    if not shown:
        return ""
    noticed = [prompt.noticed for prompt in shown if prompt.noticed]
    plots = [
        _histogram(prompt.name, one.lengths, one.longest)
        for prompt, one in zip(shown, noticed, strict=True)
    ]
    inputs: dict[int, int] = {}
    for one in noticed:
        inputs = added(inputs, one.inputs)
    if inputs:
        longest = max(one.longest_input for one in noticed)
        plots.append(_histogram("all prompts: what was sent", inputs, longest))
    return _section(
        "lengths",
        "Lengths",
        tag(
            "p",
            "Tokens of each rewrite by prompt, and of what was sent for it (instruction, template and "
            "document).",
        ),
        tag("div", *plots, class_="plots"),
    )


def _histogram(name: str, counts: Mapping[int, int], longest: int) -> Markup:
    low, middle, high = (quantile(counts, share, largest=longest) for share in (0.05, 0.5, 0.95))
    words = (
        f"median {_number(middle)}, nine of ten from {_number(low)} to {_number(high)}, "
        f"at most {_number(longest)} tokens"
    )
    steps = charts.span(counts)
    last = following(steps[-1]) - 1
    return tag(
        "figure",
        tag("figcaption", tag("strong", name), " ", tag("span", words)),
        charts.framed(
            charts.bars(counts, label=f"{name}: {words}"),
            upper="",
            lower="",
            left=_number(steps[0]),
            middle=_number(round(math.sqrt(max(1, steps[0]) * last))) if len(steps) > 2 else "",
            right=f"{_number(last)} tokens",
        ),
        _as_table(
            f"{name}: samples by tokens",
            ["tokens", "samples"],
            [
                [f"{_number(at)} to {_number(following(at) - 1)}", _number(counts.get(at, 0))]
                for at in steps
            ],
        ),
    )


def _quality(figures: Figures) -> str:
    noted = [prompt for prompt in figures.prompts if prompt.noticed is not None]
    if not noted:
        return _section(
            "quality",
            "Quality",
            tag("p", "Not recorded: the version that wrote this run did not note it by prompt."),
        )
    ends = sorted({end for prompt in noted if prompt.noticed for end in prompt.noticed.finish})
    flags = sorted({flag for prompt in noted if prompt.noticed for flag in prompt.noticed.flags})
    finish = [
        [
            prompt.name,
            _number(prompt.answered),
            *[_part(prompt.noticed.finish.get(end, 0), prompt.answered) for end in ends],
            _part(prompt.noticed.truncated, prompt.answered),
            _number(round(prompt.mean_tokens)) if prompt.mean_tokens is not None else "-",
        ]
        for prompt in noted
        if prompt.noticed
    ]
    raised = [
        [
            prompt.name,
            *[_part(prompt.noticed.flags.get(flag, 0), prompt.counts.in_) for flag in flags],
        ]
        for prompt in noted
        if prompt.noticed
    ]
    return _section(
        "quality",
        "Quality",
        tag(
            "p",
            "Checks flag, and drop nothing unless spec.quality says so: no cheap score is known that tells "
            "what is worth training on.",
        ),
        _table(
            "How answers ended, documents that were cut to fit, and the mean length",
            ["prompt", "answers", *ends, "document cut", "mean tokens"],
            finish,
        ),
        _table("Flags, as shares of all samples of a prompt", ["prompt", *flags], raised)
        if flags
        else tag("p", "No sample was flagged."),
        *_beside(noted),
    )


def _beside(prompts: Iterable[PromptFigures]) -> Iterable[Markup]:
    """What the checks counted about rewrites beside their documents."""
    compared = [
        (prompt.name, prompt.noticed.notes)
        for prompt in prompts
        if prompt.noticed is not None and prompt.noticed.notes.get("compared")
    ]
    if not compared:
        return
    yield _table(
        "Rewrites beside their documents",
        ["prompt", "compared", "in the form asked for", "with a number of it", "words in common"],
        [
            [
                name,
                _number(notes["compared"]),
                _part(notes.get("formed", 0), notes["form"]) if notes.get("form") else "-",
                _part(notes.get("grounded", 0), notes["compared"]),
                f"{notes.get('overlap', 0) / notes['compared'] / 1000:.2f}",
            ]
            for name, notes in compared
        ],
    )
    rows = [
        [name, *[_part(notes.get(f"math_{kind}", 0), notes["compared"]) for kind in _ARITHMETIC]]
        for name, notes in compared
        if any(note.startswith("math_") for note in notes)
    ]
    if rows:
        yield _table(
            "Calculations of math problems, classes of the paper",
            ["prompt", *_ARITHMETIC.values()],
            rows,
        )


def _part(count: int, total: int) -> Markup:
    """A share as text over a bar; the count is told too."""
    share = count / total if total else 0.0
    return tag(
        "span",
        f"{share:.2%}" if 0 < share < 0.1 else f"{share:.1%}" if share else "0",
        title=f"{count:,} of {total:,}",
        class_="part",
        style=f"--share:{share:.4f}",
    )


def _collapse(figures: Figures) -> str:
    found = [(prompt.name, prompt.collapse) for prompt in figures.prompts if prompt.collapse]
    if not found:
        return ""
    lengths = openings.LENGTHS
    rows = [
        [
            name,
            _number(one.samples),
            *[_part(one.top[length], one.samples) for length in lengths],
            *[_number(one.distinct[length]) for length in lengths],
            f"{one.effective[openings.WARN_AT]:,.1f}",
        ]
        for name, one in found
    ]
    commonest = [
        [name, tag("code", one.beginning[length], dir="auto"), _part(one.top[length], one.samples)]
        for name, one in found
        for length in (openings.WARN_AT, lengths[-1])
    ]
    return _section(
        "collapse",
        "Do rewrites begin alike?",
        tag(
            "p",
            f"Of each prompt the {_number(openings.SAMPLE)} rewrites (or all, if there are fewer) with the "
            "smallest hash of document, prompt and rollout. Top: the share that begins with the most "
            "frequent 4, 10, 20 or 40 characters; distinct: how many beginnings there are, which grows with "
            "the number of samples; effective: how many, if all were equally frequent.",
        ),
        _table(
            "Template collapse",
            [
                "prompt",
                "samples",
                *[f"top {length}" for length in lengths],
                *[f"distinct {length}" for length in lengths],
                f"effective {openings.WARN_AT}",
            ],
            rows,
        ),
        tag(
            "details",
            tag("summary", "The most frequent beginnings"),
            _table(
                "The most frequent beginnings",
                ["prompt", "begins", "share"],
                commonest,
                words={"begins"},
            ),
        ),
    )


def _dead(figures: Figures) -> str:
    if not figures.dead:
        return ""
    names = [prompt.name for prompt in figures.prompts]
    rows = [
        [
            tag("code", one.reason),
            one.outcome or "-",
            _number(one.samples),
            *[_number(one.by_prompt.get(name, 0)) for name in names],
            one.message,
        ]
        for one in figures.dead
    ]
    return _section(
        "dead",
        "Dead letters",
        tag(
            "p",
            "Samples without a rewrite, by reason. Each is in ",
            tag("code", "dead_letter/"),
            " with its document.",
        ),
        _table(
            "Samples without a rewrite",
            ["reason", "outcome", "samples", *names, "for example"],
            rows,
            words={"outcome", "for example"},
        ),
    )


def _rewrites(figures: Figures) -> str:
    if not figures.shown:
        return ""
    return _section(
        "rewrites",
        "Rewrites to look at",
        tag("p", "Of documents chosen by a hash, not by hand."),
        *[_document(one, number) for number, one in enumerate(figures.shown, 1)],
    )


def _document(shown: Shown, number: int) -> Markup:
    texts = [_text(one.prompt, one.text, _described(one)) for one in shown.rewrites]
    if shown.source is not None:
        texts.insert(0, _text("the document", shown.source, "", class_="source"))
    return tag(
        "article",
        tag("h3", f"Document {number}: ", tag("bdi", shown.source_id)),
        tag("p", tag("code", f"{shown.source_file}, row {shown.source_row:,}"), class_="small"),
        tag("div", *texts, class_="texts"),
    )


def _described(one: Rewrite) -> str:
    rollout = f"rollout {one.rollout}, " if one.rollout else ""
    flags = f", {', '.join(one.flags)}" if one.flags else ""
    return f"{rollout}{_number(one.tokens)} tokens{flags}"


def _text(name: str, text: str, more: str, *, class_: str = "") -> Markup:
    cut = len(text) - _TEXT_CHARACTERS
    shown = text if cut <= 0 else f"{text[:_TEXT_CHARACTERS]}\n[{cut:,} more characters]"
    return tag(
        "div",
        tag("h4", name, " ", tag("small", more)),
        tag("pre", shown, dir="auto", tabindex="0", role="region", aria_label=f"text of {name}"),
        class_=f"text {class_}".strip(),
    )


def _settings(figures: Figures) -> Markup:
    declared, resolved = figures.spec.declared, figures.spec.resolved
    facts = {
        "model": _model(figures),
        "revision": resolved.model_revision or "-",
        "context": _number(resolved.max_model_length) if resolved.max_model_length else "-",
        "engine": str(declared["model"].get("engine", {}).get("type", "-")),
        "layout": str(declared.get("promptLayout", "-")),
        "output": str(declared["output"]["uri"]),
    }
    prompts = [
        tag(
            "details",
            tag("summary", f"Prompt {prompt.name}"),
            tag(
                "p",
                f"{prompt.rollouts} per document; sampling ",
                tag("code", json.dumps(prompt.sampling)),
            ),
            tag("pre", prompt.text, dir="auto"),
        )
        for prompt in resolved.prompts
    ]
    return _section("settings", "What was asked", _facts(facts), *prompts)


# -- pieces --


def _table(
    caption: str,
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    foot: Sequence[str] = (),
    words: Container[str] = (),
) -> Markup:
    """A table whose first column names the rows; wide ones scroll by themselves.

    Args:
        caption: what it shows.
        names: of the columns.
        rows: cells.
        foot: cells of the last row.
        words: columns that hold words, not numbers.
    """
    classes = ["words" if name in words else None for name in names]
    body = [_row(row, classes) for row in rows]
    heads = [
        tag("th", name, scope="col", class_=kind) for name, kind in zip(names, classes, strict=True)
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *body),
            tag("tfoot", _row(foot, classes)) if foot else "",
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _row(cells: Sequence[str], classes: Sequence[str | None]) -> Markup:
    first, *others = cells
    found = [tag("td", cell, class_=kind) for cell, kind in zip(others, classes[1:], strict=True)]
    return tag("tr", tag("th", first, scope="row"), *found)


def _as_table(caption: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    return tag("details", tag("summary", "As a table"), _table(caption, names, rows))


def _facts(facts: Mapping[str, str]) -> Markup:
    return tag(
        "dl",
        *[tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()],
        class_="facts",
    )


def _amount(money: Decimal | None, currency: str) -> str:
    return UNKNOWN if money is None else f"{Decimal(cost.shown(money)):,f} {currency}"


def _number(value: int) -> str:
    return f"{value:,}"


def _short(value: int) -> str:
    """Three or four figures at most: 15,025, 1.35 M, 486 B."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10 ** (len(str(max(1, int(value)))) - 1)
    return next((step * power for step in (1, 2, 5, 10) if step * power >= value), 10 * power)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
