"""The API reference holds every field of the CRD, and says of each whether it can be changed."""

import re
from collections.abc import Iterator
from typing import Any

from rephrase_api.crd import crd
from rephrase_api.reference import reference
from rephrase_api.semantic import MUTABLE, SEMANTIC

PAGE = reference(crd(with_words=True))
ROOT: dict[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, below in node.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, below
        yield from fields(below, here)
        yield from fields(below.get("items", {}), f"{here}[]")


def rows() -> dict[str, list[str]]:
    """Cells beside a field's name, by its path."""
    found = re.findall(r'^\| <a id="(\S+)"></a>`\w+` \| (.*) \|$', PAGE, re.MULTILINE)
    return {path: re.split(r" \| ", cells) for path, cells in found}


def test_every_field_has_a_row_with_its_values_and_description_and_no_other_has() -> None:
    known = {
        path: below
        for part in ("spec", "status")
        for path, below in fields(ROOT["properties"][part], part)
    }

    assert {
        path: cells[2].removesuffix(" **Fixed.**").replace(r"\|", "|")
        for path, cells in rows().items()
    } == {path: below["description"] for path, below in known.items()}
    assert [path for path, cells in rows().items() if not cells[0]] == []


def test_exactly_what_identifies_a_run_is_called_fixed() -> None:
    called = {path for path, cells in rows().items() if "**Fixed.**" in cells[2]}

    assert {f"spec.{leaf}" for leaf in SEMANTIC} <= called
    assert {f"spec.{leaf}" for leaf in MUTABLE} & called == {"spec.managedBy"}


def test_defaults_and_allowed_values_are_those_of_the_schema() -> None:
    found = rows()

    assert found["spec.source.format"][:2] == ["`Auto` · `Parquet` · `Jsonl`", "`Auto`"]
    assert found["spec.workers.max"][:2] == ["a whole number from 0 to 4096", "`1`"]
    assert found["spec.source.uri"][1] == "required"
    assert found["spec.prompts[].sampling.topP"][0] == "a number above 0 and at most 1"
    assert found["spec.workers.pools[].pricePerGPUHour"][0] == "an amount, as in '500' or '1.95'"


def test_rules_between_fields_are_told_where_they_hold() -> None:
    _, section = PAGE.split("### spec.durability\n", 1)

    assert (
        "- `leaseSeconds` must be at least three times heartbeatSeconds"
        in section.split("\n##", 1)[0]
    )
