"""docs/security.md gives a reason for every right that the chart grants, and names no other."""

import re
from pathlib import Path
from typing import Any

import pytest

from support.helm import RELEASE, render

pytestmark = pytest.mark.needs("helm")
PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
Right = tuple[str, str, str]
"""API group, resource, verb."""


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head and code marks."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines[2:]]


def granted(role: dict[str, Any]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def explained(*places: str) -> list[Right]:
    """Rights of the operator that are given a reason for these places."""
    return [
        (group, resource, verb)
        for group, resource, verbs, why, where in rows("Rights of the operator")
        if where in places and why
        for verb in verbs.split(", ")
    ]


def role(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def test_every_right_of_the_operator_has_its_reason_once_and_no_other_is_named() -> None:
    of_cluster = granted(role(render("system"), "ClusterRole", RELEASE))
    of_namespace = granted(role(render("system", {"watchNamespaces": ["team"]}), "Role", RELEASE))

    assert sorted(explained("always", "cluster")) == sorted(of_cluster)
    assert sorted(explained("always")) == sorted(of_namespace)


def test_the_rights_of_people_are_those_that_the_chart_gives_to_the_cluster_s_roles() -> None:
    manifests = render("system")
    told = {"view": set[Right](), "edit": set[Right]()}
    for who, resources, verbs in rows("Rights of people"):
        told["view" if who.startswith("view") else "edit"] |= {
            ("rephrase.io", resource, verb)
            for resource in re.split(r"`, `", resources)
            for verb in verbs.split(", ")
        }

    for name, rights in told.items():
        assert granted(role(manifests, "ClusterRole", f"{RELEASE}-{name}")) == rights
