"""Models → structural schema, as an API server wants it. Pure.

pydantic writes JSON Schema; a CRD takes a small part of it, and silently prunes or refuses the
rest. So every construct is rewritten by name, and one that is not known here is an error, never
passed on. An unbounded string, list, map or number is an error too: the API server estimates the
cost of CEL rules from the bounds, and refuses what might be too dear.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic_core import to_jsonable_python

from rephrase_api.v1alpha1.base import Model, camel
from rephrase_api.v1alpha1.fields import INT32, WORDS
from rephrase_api.v1alpha1.tree import model_of

Schema = dict[str, Any]
Validations = Mapping[type[Model], list[dict[str, str]]]

INT_OR_STRING = "x-kubernetes-int-or-string"
PRESERVE_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
_EXTENSIONS = {
    INT_OR_STRING,
    PRESERVE_UNKNOWN,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
_COPIED = {"pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
_COPIED |= {"maxProperties", *_EXTENSIONS}
_LEFT_OUT = {"title", "description", "default", WORDS}
"""Handled apart: titles are the attribute's name again, the other two come from the model's
field."""


class UnknownConstruct(Exception):
    """A model uses what this module does not know how to write for an API server."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}")


@cache
def _json_schema(model: type[Model]) -> Schema:
    return model.model_json_schema(by_alias=True, mode="validation")


def structural(
    model: type[Model],
    path: str,
    validations: Validations | None = None,
    *,
    with_words: bool = False,
) -> Schema:
    """The structural schema of `model`: all references inlined, every field described and bounded.

    Args:
        model: class to describe.
        path: where it stands, for error messages, as in ``spec``.
        validations: CEL rules by class; those of a base class hold for its subclasses too.
        with_words: keep the words of patterns (`WORDS`), which an API server would refuse.

    Raises:
        UnknownConstruct: a field cannot be written, or has no description or no bound.
    """
    whole = _json_schema(model)
    writer = _Writer(whole.get("$defs", {}), validations or {}, {WORDS} if with_words else set())
    return writer.model(model, whole, path)


class _Writer:
    def __init__(self, definitions: Schema, validations: Validations, kept: set[str]) -> None:
        self._definitions = definitions
        self._validations = validations
        self._copied = _COPIED | kept

    def model(self, model: type[Model], definition: Schema, path: str) -> Schema:
        properties = {}
        for name, field in model.model_fields.items():
            key = camel(name)
            here = f"{path}.{key}"
            node = self._node(definition["properties"][key], model_of(field.annotation), here)
            if not field.description:
                raise UnknownConstruct(here, "has no description")
            default = {} if field.is_required() else self._default(node, field.default)
            properties[key] = {"description": _words(field.description), **default, **node}
        node = {"type": "object", "properties": properties}
        if required := [camel(n) for n, field in model.model_fields.items() if field.is_required()]:
            node["required"] = required
        rules = [
            rule
            for on, found in self._validations.items()
            if issubclass(model, on)
            for rule in found
        ]
        if rules:
            node["x-kubernetes-validations"] = rules
        return node

    def _node(self, given: Schema, model: type[Model] | None, path: str) -> Schema:
        given = self._present(given, path)
        if "$ref" in given:
            definition = self._definitions[given["$ref"].removeprefix("#/$defs/")]
            if model is not None:
                return self.model(model, definition, path)
            return self._node(definition, None, path)
        node = {key: given[key] for key in given if key in self._copied}
        used = {*self._copied, *_LEFT_OUT, "type"}
        match given:
            case {"x-kubernetes-int-or-string": True} | {
                "x-kubernetes-preserve-unknown-fields": True
            }:
                node |= {"type": given["type"]} if "type" in given else {}
            case {"type": "object", "additionalProperties": dict(values)}:
                used.add("additionalProperties")
                node |= {"type": "object"}
                node["additionalProperties"] = self._node(values, None, f"{path}.*")
            case {"type": "array", "items": dict(items)}:
                used.add("items")
                node = {"type": "array", "x-kubernetes-list-type": "atomic", **node}
                node["items"] = self._item(items, model, f"{path}[]")
            case {"type": "integer" | "number" | "boolean" | "string"}:
                used |= {"enum", "format", "exclusiveMinimum"}
                node = _scalar(given, node)
            case _:
                raise UnknownConstruct(path, f"has an unknown schema: {given}")
        if unknown := given.keys() - used:
            raise UnknownConstruct(path, f"has unknown keys: {', '.join(sorted(unknown))}")
        _check_bounds(node, path)
        return node

    def _item(self, given: Schema, model: type[Model] | None, path: str) -> Schema:
        node = self._node(given, model, path)
        if model is None:
            return node
        return {"description": _words(model.__doc__ or ""), **node}

    @staticmethod
    def _present(given: Schema, path: str) -> Schema:
        """Without the `null` of an optional field: for the API server, null is absence already."""
        if "anyOf" not in given:
            return given
        alternatives = [option for option in given["anyOf"] if option != {"type": "null"}]
        if len(alternatives) != 1:
            raise UnknownConstruct(path, f"is a union: {given['anyOf']}")
        return {**alternatives[0], **{key: given[key] for key in given if key != "anyOf"}}

    @staticmethod
    def _default(node: Schema, default: object) -> Schema:
        """The default to write; `{}` is enough for an object whose own fields have defaults.

        Where a CEL rule stands at or below such an object it is written out, since the API server
        checks the rule against the default before it fills in what is below.
        """
        if not isinstance(default, Model):
            empty = default in (None, (), {})
            return {} if empty else {"default": to_jsonable_python(default)}
        wanted, below = _pruned(default.to_api()), _defaults_below(node)
        if not wanted:
            return {}
        if wanted == below and not _has_rules(node):
            return {"default": {}}
        return {"default": wanted}


def _scalar(given: Schema, copied: Schema) -> Schema:
    node = {"type": given["type"], **copied}
    if "exclusiveMinimum" in given:  # in the API server's dialect a flag beside `minimum`
        node |= {"minimum": given["exclusiveMinimum"], "exclusiveMinimum": True}
    if given["type"] == "integer":
        bounds = (node.get("minimum", 0), node.get("maximum", 0))
        node["format"] = "int32" if max(map(abs, bounds)) <= INT32 else "int64"
    return node | {key: given[key] for key in ("format", "enum") if key in given}


def _words(docstring: str) -> str:
    return " ".join(docstring.split())


def _defaults_below(node: Schema) -> Schema:
    found = {}
    for key, below in node.get("properties", {}).items():
        if "default" in below:
            found[key] = below["default"] or _defaults_below(below)
    return found


def _pruned(value: Schema) -> Schema:
    """Without empty lists and objects, which say nothing."""
    found = {
        key: _pruned(below) if isinstance(below, dict) else below for key, below in value.items()
    }
    return {key: below for key, below in found.items() if below not in ({}, [])}


def _has_rules(node: Schema) -> bool:
    below = [*node.get("properties", {}).values(), node.get("items", {})]
    return "x-kubernetes-validations" in node or any(_has_rules(child) for child in below if child)


_BOUNDS = {
    "string": ["maxLength"],
    "array": ["maxItems"],
    "integer": ["minimum", "maximum"],
    "number": ["minimum", "maximum"],
    "object": ["maxProperties"],
}


def _check_bounds(node: Schema, path: str) -> None:
    if node.get(PRESERVE_UNKNOWN) or node.keys() & {"enum"} or node.get("format") == "date-time":
        return
    for bound in _BOUNDS.get(node.get("type", "string"), []):
        if bound not in node:
            raise UnknownConstruct(path, f"has no {bound}")
