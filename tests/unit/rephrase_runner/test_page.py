"""The page of a report: nothing in it can act, everybody can read it, and what is unknown is never 0."""

import re
from dataclasses import replace
from decimal import Decimal
from importlib import resources
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.markup import Markup, escaped, tag
from rephrase_runner.page import render
from support.reports import Page, some_figures, some_money

HOSTILE = (
    "</pre></style></title></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    "<a href=\"javascript:alert(1)\" onclick='alert(2)'>&lt;b&gt; \" ' ` ]]> <!-- --> &amp;"
)
CSS = resources.files("rephrase_runner").joinpath("page.css").read_text(encoding="utf-8")
NORMAL_TEXT = 4.5
"""Contrast that the Web Content Accessibility Guidelines ask of text (level AA)."""
GRAPHICS = 3.0


def test_hostile_text_is_shown_and_does_nothing() -> None:
    harmless, page = Page(render(some_figures())), Page(render(some_figures(HOSTILE)))

    assert page.faults == []
    assert [name for name, _ in page.elements] == [name for name, _ in harmless.elements]
    assert [attributes.keys() for _, attributes in page.elements] == [
        attributes.keys() for _, attributes in harmless.elements
    ]
    assert [text for _, text in page.named("pre")] == [HOSTILE] * 3
    assert page.named("h1")[0][1] == HOSTILE


@given(st.text(st.characters()))
def test_any_text_becomes_one_element_with_that_text(text: str) -> None:
    page = Page(tag("p", text, title=text))

    assert [name for name, _ in page.elements] == ["p"]
    assert page.faults == []
    tag("p", text, title=text).encode()  # a page can be written, whatever is in it


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x85", "\ud800", "\uffff"])
def test_what_html_cannot_spell_is_replaced(character: str) -> None:
    assert escaped(f"a{character}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_only_markup_stays_as_it_is() -> None:
    assert tag("p", Markup("<b>"), "<b>") == "<p><b>&lt;b&gt;</p>"


def test_a_page_needs_nothing_else_and_runs_nothing() -> None:
    text = render(some_figures())
    page = Page(text)
    names = {name for name, _ in page.elements}
    attributes = {key for _, given in page.elements for key in given}

    assert names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"} == set()
    assert [key for key in attributes if key.startswith("on") or key in {"src", "action"}] == []
    assert [given["href"] for given, _ in page.named("a")] == ["#account"]
    assert re.findall(r"https?:|url\(|@import", text) == []
    (policy,) = [
        given["content"]
        for given, _ in page.named("meta")
        if given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_a_page_can_be_read_without_seeing_it() -> None:
    page = Page(render(some_figures()))
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    captioned = [tag for tag, parent in tags(page) if tag == "caption" and parent == "table"]

    assert page.named("html")[0][0]["lang"] == "en"
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert [b for a, b in pairwise(levels) if b > a + 1] == []
    assert len(captioned) == len(page.named("table"))
    assert all("scope" in given for given, _ in page.named("th"))
    assert all(given["role"] == "img" and text for given, text in page.named("svg"))
    identified = {given["id"] for _, given in page.elements if "id" in given}
    named = {given["aria-labelledby"] for _, given in page.elements if "aria-labelledby" in given}
    assert named <= identified
    assert len(identified) == len([1 for _, given in page.elements if "id" in given])


def tags(page: Page) -> list[tuple[str, str]]:
    return [(name, parent) for (name, _), parent in zip(page.elements, page.parents, strict=True)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it_in_both_color_schemes(scheme: str) -> None:
    color = colors(scheme)

    for front in ("ink", "soft", "accent", "written", "skipped"):
        for behind in ("card", "back"):
            assert contrast(color[front], color[behind]) >= NORMAL_TEXT, (front, behind)
    assert contrast(color["ink"], color["tint"]) >= NORMAL_TEXT
    assert contrast(color["ink"], color["note"]) >= NORMAL_TEXT
    for shape in ("written", "skipped", "failed", "accent"):
        assert contrast(color[shape], color["card"]) >= GRAPHICS, shape


def colors(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_account_is_told_to_the_last_sample() -> None:
    page = Page(render(some_figures()))

    (_, faq, total) = page.table("Samples by prompt and outcome")
    assert faq[:5] == ["faq", "100", "97", "2", "1"]
    assert total[:5] == ["all", "100", "97", "2", "1"]
    assert page.fact("units committed") == "10 of 10"
    assert page.fact("tokens discarded") == "100 (1.02% of all generated)"


def test_an_unknown_price_makes_unknown_money_and_a_warning() -> None:
    known, unknown = (
        Page(render(some_figures(money=some_money(price)))) for price in (Decimal("2.10"), None)
    )

    assert (known.fact("so far"), known.fact("cost")) == ("2.10 USD", "2.10 USD")
    names = ("cost", "so far", "per million committed tokens", "of discarded work")
    assert [unknown.fact(name) for name in names] == ["unknown"] * 4
    assert "no price for pool spot" in notes(unknown)
    assert "price" not in notes(known)


def notes(page: Page) -> str:
    return "".join(text for given, text in page.named("section") if given.get("class") == "notes")


def test_what_a_run_did_not_note_is_not_told_as_none() -> None:
    figures = some_figures()
    old = replace(figures.prompts[0], noticed=None, collapse=None)

    page = Page(render(replace(figures, prompts=(old,), dead=())))

    assert "Not recorded" in "".join(text for _, text in page.named("section"))
    assert page.table("Flags, as shares of all samples of a prompt") == []


def test_a_run_without_a_commit_has_a_page_too() -> None:
    figures = some_figures()
    empty = replace(figures.prompts[0], noticed=None, collapse=None)
    nothing = replace(
        figures,
        complete=False,
        committed=0,
        prompts=(replace(empty, counts=type(empty.counts)()),),
        began=None,
        ended=None,
        speed=(),
        dead=(),
        shown=(),
        discarded=None,
    )

    page = Page(render(nothing))

    assert page.fact("units committed") == "0 of 10"
    assert page.fact("tokens/s") == "unknown"
    assert page.fact("tokens discarded") == "not known while workers are at work"
