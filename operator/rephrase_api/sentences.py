"""pydantic's errors → sentences for the person who wrote the manifest. Pure.

A sentence is ``<path>: <what must be>, got <value>; <what to do>``. What must be is told from the
same schema that the CRD is made of, so that the bounds are complete.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rephrase_api.schema import INT_OR_STRING, Schema, structural
from rephrase_api.v1alpha1.base import camel
from rephrase_api.v1alpha1.fields import INT32, WORDS
from rephrase_api.v1alpha1.run import RephraseRun
from rephrase_api.v1alpha1.spec import RephraseRunSpec
from rephrase_api.v1alpha1.tree import leaves

Location = tuple[str | int, ...]
_SHOWN_CHARACTERS = 60
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_OWN_WORDS = {"pattern", "preset"}
"""Errors of `rephrase_api.v1alpha1`, whose message says what must be."""
_WITHOUT_SCHEMA = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "tuple_type": "must be a list",
}
"""For the metadata, which has no schema of ours."""


def sentences(error: ValidationError) -> Iterator[str]:
    """Every problem of a `RephraseRun`, one line each."""
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # items that are wrong were not counted; each has its own sentence
        path = dotted(details["loc"])
        yield f"{path}: {_sentence(details)}" if path else _sentence(details)


def dotted(location: Location) -> str:
    """A location as a path in the YAML, as in ``spec.prompts[1].template``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if re.fullmatch(r"[\w-]+", part) else f"[{json.dumps(part)}]"
    return path.removeprefix(".")


def _sentence(details: ErrorDetails) -> str:
    location, value = details["loc"], details["input"]
    node = _node(location)
    match details["type"]:
        case "extra_forbidden":
            return _unknown(location)
        case "missing":
            return f"must be set; {_what_it_is(node)}" if node else "must be set"
        case "string_too_long":
            return f"must have at most {details['ctx']['max_length']} characters, got {len(value)}"
        case "duplicate":
            return details["msg"]
        case kind if kind in _OWN_WORDS:
            return f"{details['msg']}, got {shown(value)}{_nearest(value, node)}"
        case kind:
            rule = must(node) if node else _WITHOUT_SCHEMA.get(kind, details["msg"])
            return f"{rule}, got {shown(value)}{_quotes(value, node)}{_nearest(value, node)}"


def shown(value: object) -> str:
    """A value as it stands in the file, cut if it is long, and without credentials."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    text = _CREDENTIALS.sub("://...@", json.dumps(value, ensure_ascii=False))
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[: _SHOWN_CHARACTERS - 4]}...{text[-1]}"
    return text


@cache
def _spec_schema() -> Schema:
    return structural(RephraseRunSpec, "spec", with_words=True)


def _node(location: Location) -> Schema | None:
    """The schema at a location; None for what has none of ours."""
    if location[:1] != ("spec",):
        return None
    node: Schema = _spec_schema()
    for part in location[1:]:
        if isinstance(part, int):
            below = node.get("items")
        elif part == "[key]":
            below = node
        else:
            below = node.get("properties", {}).get(part, node.get("additionalProperties"))
        if not isinstance(below, dict):
            return None
        node = below
    return node


def must(node: Schema) -> str:
    """What a value must be by its schema, which holds the words of its patterns (`WORDS`)."""
    if WORDS in node:
        return str(node[WORDS])
    if "enum" in node:
        return f"must be one of {', '.join(node['enum'])}"
    low, high = node.get("minimum", 0), node.get("maximum", 0)
    match node:
        case {"x-kubernetes-int-or-string": True}:
            return "must be a string or a number"
        case {"type": "integer"} if high > INT32:
            return f"must be a whole number of at least {low}"
        case {"type": "integer"}:
            return f"must be a whole number from {low} to {high}"
        case {"type": "number", "exclusiveMinimum": True}:
            return f"must be a number above {low:g} and at most {high:g}"
        case {"type": "number"}:
            return f"must be a number from {low:g} to {high:g}"
        case {"type": "boolean"}:
            return "must be true or false"
        case {"type": "array"}:
            return f"must be a list of {node.get('minItems', 0)} to {node['maxItems']} items"
        case {"format": "date-time"}:
            return "must be a time with its zone, as in 2026-12-01T00:00:00Z"
        case {"type": "string"}:
            least = f"{node['minLength']} to" if "minLength" in node else "at most"
            return f"must be a string of {least} {node['maxLength']} characters"
        case _:
            return "must be a mapping"


def _what_it_is(node: Schema) -> str:
    """The first sentence of a field's description."""
    first = str(node.get("description", "")).split(". ")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _unknown(location: Location) -> str:
    *parents, name = location
    here, known = tuple(parents), _fields_at(tuple(parents))
    if close := _close(str(name), known):
        return f"unknown field; did you mean {close}?"
    if here[:1] == ("spec",) and (elsewhere := _elsewhere(str(name))):
        return f"unknown field; did you mean {elsewhere}?"
    return f"unknown field; known here: {', '.join(known)}"


def _fields_at(location: Location) -> list[str]:
    """Names of the fields an object at `location` may have."""
    if location == ():
        return [camel(name) for name in RephraseRun.model_fields]
    if location == ("metadata",):
        return ["name", "namespace", "labels", "annotations"]
    return list((_node(location) or {}).get("properties", {}))


def _elsewhere(name: str) -> str | None:
    """Where in the spec there is a field of that name, at the shortest path."""
    shortest_last = reversed(sorted(leaves(RephraseRunSpec), key=len))
    by_name = {leaf.rpartition(".")[2]: leaf for leaf in shortest_last}
    close = _close(name, list(by_name))
    return f"spec.{by_name[close]}" if close else None


def _close(word: str, options: Sequence[str]) -> str | None:
    by_letters = {option.lower(): option for option in options}
    plain = word.lower().replace("_", "").replace("-", "")
    found = difflib.get_close_matches(plain, by_letters, n=1, cutoff=0.7)
    return by_letters[found[0]] if found else None


def _nearest(value: object, node: Schema | None) -> str:
    options = node.get("enum", []) if node else []
    close = _close(value, options) if isinstance(value, str) else None
    return f"; did you mean {close}?" if close else ""


def _quotes(value: Any, node: Schema | None) -> str:  # noqa: ANN401 - JSON
    """A hint at quotes that are missing or too many."""
    kind = node.get("type") if node else None
    if isinstance(value, int | float) and node and (kind == "string" or INT_OR_STRING in node):
        quoted = json.dumps(value)
        return "; put it in quotes" if re.fullmatch(node.get("pattern", ".*"), quoted) else ""
    if kind in ("integer", "number", "boolean") and isinstance(value, str):
        return "; write it without quotes" if _reads_as(value, kind) else ""
    return ""


def _reads_as(text: str, kind: str) -> bool:
    if kind == "boolean":
        return text in ("true", "false")
    return text.removeprefix("-").replace(".", "", 1).isdecimal()
