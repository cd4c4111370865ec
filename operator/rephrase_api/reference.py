"""CRD → `docs/api.md`, the reference of all fields for people. Pure.

One section for each object, in the order of the CRD; each field has a row, whose anchor is the field's path.
What a value must be is told in the words that a manifest's problems are told in.
"""

import json
from collections.abc import Iterator

from rephrase_api.schema import PRESERVE_UNKNOWN, Schema
from rephrase_api.sentences import must

FILE = "api.md"
_HEADER = "<!-- Generated from operator/rephrase_api by `rephrase-crds --write`; do not edit. -->\n"
_FORBIDDEN = "FieldValueForbidden"
"""The reason of rules that refuse a change, as against those that refuse a value."""


def reference(crd: Schema) -> str:
    """The page on all fields.

    Args:
        crd: the CustomResourceDefinition, with the words of patterns (`rephrase_api.fields.WORDS`).
    """
    version = crd["spec"]["versions"][0]
    names = crd["spec"]["names"]
    root = version["schema"]["openAPIV3Schema"]
    api_version = f"{crd['spec']['group']}/{version['name']}"
    spec, status = (root["properties"][name] for name in ("spec", "status"))
    fixed = tuple(
        f"spec{rule['fieldPath']}"
        for rule in spec["x-kubernetes-validations"]
        if rule["reason"] == _FORBIDDEN
    )
    lines = [
        "# API reference",
        _HEADER,
        f"`{api_version}`, kind `{names['kind']}`, namespaced, short `{names['shortNames'][0]}`. "
        f"`kubectl explain {names['plural']}.spec --recursive` tells the same.",
        "",
        "```yaml",
        f"apiVersion: {api_version}",
        f"kind: {names['kind']}",
        "metadata: {}   # name, namespace ...",
        "spec: {}       # what you want: written by you, never by the operator",
        "status: {}     # what is: written by the operator alone",
        "```",
        "",
        *[f"- {rule['message']}" for rule in root["x-kubernetes-validations"]],
        "",
        "**Fixed** fields decide what is generated from what: they cannot be changed in an object, and an "
        "output is continued only by the same ones. All others can be changed while a run goes on.",
        "",
        *_object("spec", spec, fixed, depth=2),
        *_object("status", status, (), depth=2),
        "## kubectl",
        "",
        "| column | value |",
        "| --- | --- |",
        *[
            f"| {column['name']}{' (`-o wide`)' if column['priority'] else ''} | `{column['jsonPath']}` |"
            for column in version["additionalPrinterColumns"]
        ],
        "",
        "`--field-selector` takes "
        + ", ".join(f"`{field['jsonPath'][1:]}`" for field in version["selectableFields"])
        + f". `kubectl scale` sets `{version['subresources']['scale']['specReplicasPath'][1:]}`.",
    ]
    return "\n".join(lines) + "\n"


def _object(path: str, node: Schema, fixed: tuple[str, ...], *, depth: int) -> Iterator[str]:
    """The section of an object, and those of the objects in it."""
    yield f"{'#' * min(depth, 4)} {path}"
    yield ""
    if "description" in node:
        yield node["description"]
        yield ""
    yield "| field | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    required = node.get("required", [])
    for name, below in node["properties"].items():
        here = f"{path}.{name}"
        default = "required" if name in required else _default(below)
        words = [below["description"], *(["**Fixed.**"] if _is_fixed(here, fixed) else [])]
        anchor = f'<a id="{here}"></a>`{name}`'
        cells = [anchor, _value(here, below), default, " ".join(words)]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    rules = [
        rule for rule in node.get("x-kubernetes-validations", []) if rule["reason"] != _FORBIDDEN
    ]
    for rule in rules:
        field = rule.get("fieldPath", "").removeprefix(".")
        yield f"- {f'`{field}` ' if field else ''}{rule['message']}"
    if rules:
        yield ""
    for name, below in node["properties"].items():
        inner = _object_in(f"{path}.{name}", below)
        if inner is not None:
            yield from _object(*inner, fixed, depth=depth + 1)


def _object_in(path: str, node: Schema) -> tuple[str, Schema] | None:
    """The object that a field holds, itself or as a list's items, with its path; None for a value."""
    if "properties" in node:
        return path, node
    if "properties" in node.get("items", {}):
        return f"{path}[]", node["items"]
    return None


def _is_fixed(path: str, fixed: tuple[str, ...]) -> bool:
    """Whether it, or an object it is in, cannot be changed."""
    return any(f"{path}.".startswith((f"{one}.", f"{one}[")) for one in fixed)


def _value(path: str, node: Schema) -> str:
    """What a value must be."""
    inner = _object_in(path, node)
    if inner is not None:
        what, link = ("list of objects" if "items" in node else "object"), _slug(inner[0])
        most = f", at most {node['maxItems']}" if "items" in node else ""
        return f"[{what}](#{link}){most}"
    if node.get(PRESERVE_UNKNOWN):
        return "an object"
    if "items" in node:
        return f"{_words(node)}, each {_words(node['items'])}"
    if "additionalProperties" in node:
        return f"at most {node['maxProperties']} keys, each value {_words(node['additionalProperties'])}"
    if "enum" in node:
        return " · ".join(f"`{one}`" for one in node["enum"])
    return _words(node)


def _words(node: Schema) -> str:
    return must(node).removeprefix("must be ")


def _default(node: Schema) -> str:
    """As it is written in YAML; that of an object stands with its own fields."""
    if "default" not in node or isinstance(node["default"], dict):
        return ""
    default = node["default"]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _slug(heading: str) -> str:
    """The anchor that is made from a heading."""
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "-_")
