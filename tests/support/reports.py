"""Figures of a made-up run, and reports read as a browser reads them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

from typing_extensions import override

from rephrase_runner.figures import (
    Figures,
    Money,
    PoolMoney,
    PromptFigures,
    Rewrite,
    Shown,
    dead_reasons,
)
from rephrase_runner.openings import collapse
from rephrase_runner.records import Counts, Noticed, Resolved, ResolvedPrompt, SpecRecord, Tokens

BEGAN = datetime(2026, 11, 3, 6, 12, tzinfo=UTC)
_VOID = {"meta", "br"}


def some_figures(text: str = "words", **fields: Any) -> Figures:  # noqa: ANN401 - any field
    """A finished run of one prompt and 100 documents.

    Args:
        text: stands wherever a run puts a text that somebody else wrote.
        fields: of the figures, instead of those of this run.
    """
    prompt = PromptFigures(
        "faq",
        Counts(in_=100, written=97, skipped=2, failed=1, tokens=9_700),
        Noticed(
            truncated=3,
            finish={"stop": 90, "length": 8},
            flags={"length": 8, "tiny": 2},
            reasons={"empty_text": 2, "engine_refused": 1},
            notes={
                "compared": 97,
                "overlap": 9_700,
                "grounded": 50,
                "form": 97,
                "formed": 80,
                "math_right": 9,
            },
            lengths={64: 50, 96: 40, 256: 7},
            longest=256,
            inputs={1024: 98},
            longest_input=1200,
        ),
        collapse([f"{number:02} {text}"[:40] for number in range(97)]),
    )
    shown = Shown(text, text, 7, (Rewrite("faq", 0, text, 12, ("tiny",)),), text)
    figures = Figures(
        spec=SpecRecord(
            run="0123456789abcdef",
            declared={
                "source": {"uri": text},
                "model": {"name": text, "engine": {"type": "VLLM"}},
                "output": {"uri": text},
                "promptLayout": "InstructionFirst",
            },
            hash="f" * 64,
            resolved=Resolved(
                prompts=(ResolvedPrompt(name="faq", text=text, rollouts=1, sampling={"a": text}),),
                model_revision=text,
            ),
        ),
        version="0.1.0",
        complete=True,
        units=10,
        committed=10,
        rows=104,
        planned_rows=104,
        filtered=4,
        prompts=(prompt,),
        tokens=Tokens(prompt=110_000, completion=9_700),
        truncated=3,
        discarded=100,
        began=BEGAN,
        ended=BEGAN + timedelta(seconds=100),
        speed=[(BEGAN.timestamp() + 10 * step, 97.0) for step in range(10)],
        speed_seconds=10.0,
        money=some_money(Decimal("2.10")),
        dead=dead_reasons([prompt], {"engine_refused": ("failed", text)}),
        skipped_files=(text,),
        shown=(shown,),
        notes=(text,),
    )
    return replace(figures, **fields)


def some_money(price: Decimal | None) -> Money:
    """One GPU for an hour."""
    return Money(
        currency="USD",
        pools=(PoolMoney("spot", 1, 3600.0, price, price, "told by somebody"),),
        total=price,
        at_least=price or Decimal(0),
        per_million=None if price is None else price * 100,
        discarded=None if price is None else price / 100,
    )


class Page(HTMLParser):
    """A page as a browser understands it.

    Attributes:
        elements: name and attributes of each, in order.
        texts: text of each element, with that of the elements in it.
        faults: elements that were not closed, or closed in the wrong place.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.parents: list[str] = []
        self.faults: list[str] = []
        self._open: list[int] = []
        self.feed(page)
        self.close()
        self.faults += [f"{self.elements[number][0]} is not closed" for number in self._open]

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parents.append(self.elements[self._open[-1]][0] if self._open else "")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in _VOID:
            self._open.append(len(self.elements) - 1)

    @override
    def handle_endtag(self, tag: str) -> None:
        name = self.elements[self._open.pop()][0] if self._open else "nothing"
        if name != tag:
            self.faults.append(f"{tag} closes {name}")

    @override
    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.texts[number] += data

    def named(self, name: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of all elements of this name."""
        return [
            (attributes, text)
            for (tag, attributes), text in zip(self.elements, self.texts, strict=True)
            if tag == name
        ]

    def table(self, caption: str) -> list[list[str]]:
        """Cells of the table with this caption, row by row."""
        inside = False
        rows: list[list[str]] = []
        for (tag, _), text in zip(self.elements, self.texts, strict=True):
            if tag == "caption":
                inside = text == caption
            elif inside and tag == "tr":
                rows.append([])
            elif inside and tag in {"th", "td"}:
                rows[-1].append(text)
            elif tag in {"dl", "section"}:
                inside = False
        return rows

    def fact(self, name: str) -> str:
        """What a list of facts says of something."""
        tags = zip(self.elements, self.texts, strict=True)
        told = [(tag, text) for (tag, _), text in tags if tag in {"dt", "dd"}]
        return told[told.index(("dt", name)) + 1][1]
