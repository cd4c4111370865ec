"""YAML text → plain JSON values, read as `kubectl` would read it. Pure.

What a stock YAML reader would do otherwise: turn times into objects, take the last of two equal
keys without a word, allow keys that are not strings, read ``1e-3`` as a string and ``12:30`` as a
number.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml
from typing_extensions import override


class NotOneDocument(Exception):
    """The text is not YAML, or not one document of it; the message says where and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML's JSON-compatible part."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are different strings."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(f"the key {key!r} must be a string; put it in quotes", key_node)
            if key in seen:
                raise _problem(f"the key {key} is there twice; leave one out", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _problem(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _refuse_tag(_: yaml.SafeLoader, node: yaml.Node) -> None:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    raise _problem(f"the tag {tag} is not known here; write a plain value", node)


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    **{
        f"tag:yaml.org,2002:{name}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{name}"]
        for name in _PLAIN
    },
    None: _refuse_tag,
}
_REREAD = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value", "int", "float")}
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REREAD]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_one(text: str) -> object:
    """The one run in `text`.

    Raises:
        NotOneDocument: the text is empty, is not YAML, or holds several documents.
    """
    documents = load_all(text)
    if not documents:
        raise NotOneDocument("the file is empty; write a RephraseRun, see examples/quickstart.yaml")
    if len(documents) > 1:
        raise NotOneDocument(
            f"must hold one run, got {len(documents)} documents; put each into a file of its own"
        )
    return documents[0]


def load_all(text: str) -> list[object]:
    """The documents of `text` that hold anything.

    Raises:
        NotOneDocument: it is not YAML.
    """
    try:
        found = yaml.load_all(text, Loader=_Loader)
        documents = [document for document in found if document is not None]
        json.dumps(documents)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise NotOneDocument(f"{line}not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise NotOneDocument(f"not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # of json: a reference to itself
        raise NotOneDocument("an anchor holds itself; write the values out") from error
    return documents


def line_of(text: str, path: Sequence[str]) -> int:
    """The line, from 1, on which a key stands in the one document of `text`; of the nearest one above it
    that is there.

    Args:
        text: what `load_all` could read.
        path: keys of mappings, from the outermost one in.
    """
    node, line = yaml.compose(text, Loader=_Loader), 1
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
