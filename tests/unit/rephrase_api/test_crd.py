"""The generated CRD, checked without an API server: what one would refuse is refused here."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from rephrase_api.crd import crd, files, immutability, main
from rephrase_api.schema import UnknownConstruct, structural
from rephrase_api.semantic import MUTABLE, SEMANTIC
from rephrase_api.v1alpha1 import RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.rules import RULES

ROOT = Path(__file__).parents[3]
VERSION = crd()["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
SPEC: dict[str, Any] = SCHEMA["properties"]["spec"]
KNOWN_KEYS = {
    *("type", "format", "description", "default", "enum", "pattern", "required", "properties"),
    *("items", "additionalProperties", "minimum", "maximum", "exclusiveMinimum"),
    *("minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations"),
}


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for key, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{key}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in node:
            yield from nodes(node[key], path + mark)


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    for part in ("spec", "status"):
        yield from nodes(SCHEMA["properties"][part], part)


def node_at(path: str) -> dict[str, Any]:
    """The node at a JSON path such as ``.spec.workers.max``."""
    node = SCHEMA
    for key in path.removeprefix(".").split("."):
        node = node["properties"][key]
    return node


def with_defaults(node: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What an API server makes of `value`: defaults filled in from the outside in."""
    found = dict(value)
    for key, below in node.get("properties", {}).items():
        if key not in found and "default" in below:
            found[key] = below["default"]
        if isinstance(found.get(key), dict):
            found[key] = with_defaults(below, found[key])
        if isinstance(found.get(key), list) and below.get("items", {}).get("type") == "object":
            found[key] = [with_defaults(below["items"], item) for item in found[key]]
    return found


def without_empties(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        found = {key: without_empties(below) for key, below in value.items()}
        return {key: below for key, below in found.items() if below not in ({}, [])}
    return [without_empties(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", files(), ids=str)
def test_the_committed_files_are_up_to_date(name: Path) -> None:
    assert (ROOT / name).read_text() == files()[name], "run `rephrase-crds --write`"


@pytest.mark.parametrize("name", files(), ids=str)
def test_the_check_fails_on_a_stale_file(
    name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(action: str) -> None:
        monkeypatch.setattr(sys, "argv", ["rephrase-crds", action, "--root", str(tmp_path)])
        main()

    with pytest.raises(SystemExit, match="not up to date"):
        run("--check")
    run("--write")
    run("--check")
    (tmp_path / name).write_text(files()[name] + "# edited\n")
    with pytest.raises(SystemExit, match="rephrase-crds --write"):
        run("--check")


def test_it_is_small_enough_for_a_client_side_apply() -> None:
    """`kubectl apply` keeps the object in an annotation, and those may have 256 KiB together."""
    assert len(yaml.safe_dump(crd())) < 200_000


def test_every_node_is_structural_and_bounded() -> None:
    for path, node in ours():
        assert node.keys() <= KNOWN_KEYS, path
        assert not {"properties", "additionalProperties"} <= node.keys(), path
        if "x-kubernetes-int-or-string" in node:
            assert "type" not in node, path
            continue
        match node["type"]:
            case "object":
                opaque = node.get("x-kubernetes-preserve-unknown-fields", False)
                assert opaque or node.keys() & {"properties", "maxProperties"}, path
            case "array":
                assert {"items", "maxItems", "x-kubernetes-list-type"} <= node.keys(), path
            case "string":
                assert node.keys() & {"maxLength", "enum", "format"}, path
            case "integer" | "number":
                assert {"minimum", "maximum"} <= node.keys(), path
                # the API server reads bounds as floating-point numbers
                assert int(float(node["maximum"])) == node["maximum"] <= 2**63 - 1024, path
                assert isinstance(node.get("exclusiveMinimum", True), bool), path
            case kind:
                assert kind == "boolean", path


def test_every_field_is_described_with_its_default_or_what_absence_means() -> None:
    for path, node in nodes(SPEC, "spec"):
        required = {f"{path}.{key}" for key in node.get("required", [])}
        for key, below in node.get("properties", {}).items():
            here = f"{path}.{key}"
            assert below["description"].endswith((".", "`", "?")), here
            if here not in required and below.get("type") != "object":
                words = below["description"]
                assert re.search("Default: |Absent: |Set if and only if", words), here


def test_patterns_are_anchored_and_need_no_lookaround() -> None:
    for path, node in ours():
        if "pattern" in node:
            assert node["pattern"].startswith("^"), path
            assert node["pattern"].endswith("$"), path
            assert "(?" not in node["pattern"], path


def test_keys_of_list_maps_are_required_strings() -> None:
    for path, node in ours():
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"], path
            assert node["items"]["properties"][key]["type"] == "string", path


def test_a_default_that_a_rule_looks_at_is_written_out() -> None:
    """The API server checks a rule against the default itself, before it fills in what is below."""
    for path, node in ours():
        default = node.get("default")
        rules = [
            rule
            for _, below in nodes(node, path)
            for rule in below.get("x-kubernetes-validations", [])
        ]
        if isinstance(default, dict) and rules:
            assert without_empties(with_defaults(node, default)) == default, path


def test_defaults_are_those_of_the_models() -> None:
    spec = {
        "source": {"uri": "a"},
        "prompts": [{"name": "faq", "builtIn": "faq"}],
        "model": {"name": "a/b"},
        "output": {"uri": "b"},
        "workers": {"pools": [{"name": "spot", "gpu": {}}]},
    }

    by_the_server = with_defaults(SPEC, spec)

    by_us = RephraseRunSpec.from_file(spec).to_api()
    assert without_empties(by_the_server) == without_empties(by_us)


def test_paths_of_columns_selectors_and_scale_lead_to_fields() -> None:
    paths = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]]
    paths += [field["jsonPath"] for field in VERSION["selectableFields"]]
    paths += VERSION["subresources"]["scale"].values()

    for path in paths:
        if "[?(" not in path and not path.startswith(".metadata"):
            assert node_at(path)["type"] in {"string", "integer", "number", "boolean"}


def test_the_scale_always_has_a_replica_count() -> None:
    assert "workers" not in SPEC["required"]
    assert with_defaults(SPEC, {})["workers"]["max"] == 1


def test_rules_blame_fields_that_exist_and_speak_in_one_line() -> None:
    for _, node in nodes(SCHEMA, ""):
        for rule in node.get("x-kubernetes-validations", []):
            assert "\n" not in rule["message"]
            assert len(rule["message"]) < 1000
            assert rule["reason"] in {"FieldValueInvalid", "FieldValueForbidden"}
            here = node
            for key in rule.get("fieldPath", "").split(".")[1:]:
                here = here["properties"][key]


def test_every_rule_with_an_expression_is_in_the_crd() -> None:
    written = [
        rule["rule"]
        for _, node in nodes(SCHEMA, "")
        for rule in node.get("x-kubernetes-validations", [])
    ]

    assert {rule.cel for rule in RULES if rule.cel is not None} <= set(written)


def test_exactly_the_semantic_fields_are_immutable() -> None:
    frozen = [rule["fieldPath"].removeprefix(".") for rule in immutability()]

    def covered(leaf: str) -> bool:
        plain = leaf.replace("[]", "")
        return any(plain == path or plain.startswith(f"{path}.") for path in frozen)

    assert all(covered(leaf) for leaf in SEMANTIC)
    assert [leaf for leaf in MUTABLE if covered(leaf)] == ["managedBy"]


def test_immutability_notices_that_a_field_is_added_or_removed() -> None:
    rules = {rule["fieldPath"]: rule["rule"] for rule in immutability()}

    assert rules[".model.revision"] == (
        "has(self.model.revision) == has(oldSelf.model.revision) &&"
        " (!has(self.model.revision) || self.model.revision == oldSelf.model.revision)"
    )


def test_an_object_of_the_api_server_may_know_more_than_we_do() -> None:
    stored = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    stored["metadata"] |= {"uid": "u", "generation": 2, "somethingNew": 1}
    stored["spec"]["sampling"]["somethingNew"] = {"a": 1}

    run = RephraseRun.from_api(stored)

    assert run.spec.sampling.max_tokens == 256


class _Union(Model):
    """Holds what has no one type."""

    either: Annotated[int, Field(ge=0, le=1)] | bool = False
    """One or the other."""


class _Unbounded(Model):
    """Holds a string of any length."""

    text: str = ""
    """Any length."""


class _Undescribed(Model):
    """Says nothing about its field."""

    flag: bool = False


class _Multiple(Model):
    """Bounds a number in a way that no API server is told of."""

    even: Annotated[int, Field(ge=0, le=10, multiple_of=2)] = 0
    """Even numbers."""


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (_Union, "a.either: is a union"),
        (_Unbounded, "a.text: has no maxLength"),
        (_Undescribed, "a.flag: has no description"),
        (_Multiple, "a.even: has unknown keys: multipleOf"),
    ],
)
def test_what_the_generator_does_not_know_is_an_error(model: type[Model], complaint: str) -> None:
    with pytest.raises(UnknownConstruct, match=re.escape(complaint)):
        structural(model, "a")
