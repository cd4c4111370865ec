"""Models → CustomResourceDefinition → `crds/` and `docs/api.md`. The console script `rephrase-crds`.

The schema comes from `rephrase_api.schema`, the CEL rules from `rephrase_api.v1alpha1.rules`; the
rules that make the semantic fields immutable are made here, from the table in
`rephrase_api.semantic`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from rephrase_api import names, reference
from rephrase_api.schema import Schema, UnknownConstruct, Validations, structural
from rephrase_api.semantic import SEMANTIC
from rephrase_api.v1alpha1.base import Model, camel
from rephrase_api.v1alpha1.rules import RULES
from rephrase_api.v1alpha1.run import Metadata, RephraseRun
from rephrase_api.v1alpha1.spec import RephraseRunSpec
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_api.v1alpha1.tree import is_list, leaves, model_of

FILE = f"{names.GROUP}_{names.PLURAL}.yaml"
HEADER = "# Generated from operator/rephrase_api by `rephrase-crds --write`; do not edit.\n"

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Progress", "string", ".status.progress.display", 0),
    ("Workers", "string", ".status.workers.display", 0),
    ("Tok/s", "number", ".status.throughput.completionTokensPerSecond", 0),
    ("Cost", "string", ".status.cost.total", 0),
    ("ETA", "string", ".status.eta", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="WorkersAvailable")].reason', 1),
    ("Model", "string", ".spec.model.name", 1),
    ("$/Mtok", "string", ".status.cost.perMillionTokens", 1),
    ("Failed", "integer", ".status.progress.samples.failed", 1),
)
_SELECTABLE = (".status.phase", ".spec.model.name", ".spec.suspend")
_FROZEN_BESIDE_SEMANTIC = frozenset({"managedBy"})
"""Not part of the run's identity, yet fixed: a run cannot change hands while it goes on."""


def crd(*, with_words: bool = False) -> Schema:
    """The CustomResourceDefinition of `RephraseRun`.

    Args:
        with_words: keep the words of patterns, which an API server would refuse, for the reference.

    Raises:
        UnknownConstruct: a model uses what the API server does not take.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": names.LIST_KIND,
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [_version(with_words=with_words)],
        },
    }


def _version(*, with_words: bool) -> Schema:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority}
            for name, kind, path, priority in _COLUMNS
        ],
        "selectableFields": [{"jsonPath": path} for path in _SELECTABLE],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.workers.max",
                "statusReplicasPath": ".status.workers.active",
                "labelSelectorPath": ".status.workers.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root(with_words=with_words)},
    }


def _root(*, with_words: bool) -> Schema:
    validations = _validations()
    return {
        "type": "object",
        "description": _sentence(RephraseRun),
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                "description": _sentence(RephraseRunSpec),
                **structural(RephraseRunSpec, "spec", validations, with_words=with_words),
            },
            "status": {
                "description": _sentence(RephraseRunStatus),
                **structural(RephraseRunStatus, "status"),
            },
        },
        "x-kubernetes-validations": validations[Metadata],
    }


def _sentence(model: type[Model]) -> str:
    return " ".join((model.__doc__ or "").split())


def _validations() -> Validations:
    found: dict[type[Model], list[dict[str, str]]] = {}
    for rule in RULES:
        if rule.cel is not None:
            validation = {"rule": rule.cel, "message": rule.sentence, "reason": "FieldValueInvalid"}
            if rule.on is Metadata:  # only the root sees any of it, and no path may lead there
                validation["message"] = f"metadata{rule.field} {rule.sentence}"
            elif rule.field:
                validation["fieldPath"] = rule.field
            found.setdefault(rule.on, []).append(validation)
    found.setdefault(RephraseRunSpec, []).extend(immutability())
    return found


def immutability() -> Iterator[dict[str, str]]:
    """Rules on `spec` that refuse a change of a semantic field, and adding or removing it.

    They stand on `spec` because a transition rule on an optional field is skipped when the field is
    absent before or after. Where all fields of an object are semantic, one rule covers it.
    """
    for path in _frozen(RephraseRunSpec, ""):
        new, old = f"self.{path}", f"oldSelf.{path}"
        why = "" if path in _FROZEN_BESIDE_SEMANTIC else "decides what is generated and "
        yield {
            "rule": f"has({new}) == has({old}) && (!has({new}) || {new} == {old})",
            "message": f"{path} {why}cannot be changed; make a new run"
            + (" with another output" if why else ""),
            "reason": "FieldValueForbidden",
            "fieldPath": f".{path}",
        }


def _frozen(model: type[Model], path: str) -> Iterator[str]:
    frozen = SEMANTIC | _FROZEN_BESIDE_SEMANTIC
    for name, field in model.model_fields.items():
        here = f"{path}.{camel(name)}".removeprefix(".")
        below = model_of(field.annotation)
        listed = is_list(field.annotation)
        found = [here] if below is None else list(leaves(below, f"{here}[]" if listed else here))
        if all(leaf in frozen for leaf in found):
            yield here
        elif below is not None and not listed and any(leaf in frozen for leaf in found):
            if not field.is_required() and field.default is None:
                raise UnknownConstruct(here, "may be absent, yet is immutable in part")
            yield from _frozen(below, here)
        elif any(leaf in frozen for leaf in found):
            raise UnknownConstruct(here, "is a list that is immutable in part")


class _Dumper(yaml.SafeDumper):
    """Block style throughout, and no anchors: a CRD is read in diffs."""

    @override
    def ignore_aliases(self, data: Any) -> bool:
        return True


def rendered() -> str:
    """The text of the CRD's file."""
    body = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return HEADER + body


def files() -> dict[Path, str]:
    """All generated files, relative to the root of the repository, with their texts."""
    return {
        Path("crds", FILE): rendered(),
        Path("docs", reference.FILE): reference.reference(crd(with_words=True)),
    }


def main() -> None:
    """Write CRD and API reference, or check that the committed ones are up to date (exit 1 if not)."""
    parser = argparse.ArgumentParser(prog="rephrase-crds", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="exit 1 unless they are up to date")
    action.add_argument("--write", action="store_true", help="write them")
    parser.add_argument("--root", type=Path, default=Path(), help="of the repository; default: .")
    arguments = parser.parse_args()
    for name, text in files().items():
        path = arguments.root / name
        if arguments.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is not up to date; run `rephrase-crds --write`")
