"""HTML from plain calls, in which no text can become markup by being forgotten. Pure.

Only what is here makes `Markup`; whatever else stands in a page is a string, and is escaped when it is
put there.
"""

import html
import re
from collections.abc import Iterable
from importlib import resources

# nothing in a page may be fetched or run, whatever a document has put there
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_VOID = frozenset({"meta", "br"})
_NO_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What HTML has no spelling for, and what would not encode."""


class Markup(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Any text, so that a browser shows it and does nothing else."""
    return text if isinstance(text, Markup) else Markup(html.escape(_shown(text)))


def _shown(text: str) -> str:
    return _NO_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def joined(parts: Iterable[str]) -> Markup:
    """Parts in a row, each escaped unless it is markup."""
    return Markup("".join(map(escaped, parts)))


def tag(name: str, /, *parts: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        parts: what stands in it.
        attributes: a `_` at the end is left out, others become `-`; None leaves the attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_shown(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(parts)}</{name}>")


def html_document(title: str, body: Markup) -> str:
    """A page that is one file, in the style that all pages have."""
    style = resources.files("rephrase_runner").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
