"""The troubleshooting page has every reason of a condition and every Event, and none that is never told."""

import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from rephrase_api.v1alpha1.conditions import REASONS, ConditionStatus, ConditionType, Reason
from rephrase_api.v1alpha1.status import (
    Condition,
    PoolStatus,
    RecentFailure,
    RephraseRunStatus,
    ScalingStatus,
    WorkersStatus,
)
from rephrase_operator import handlers
from rephrase_operator.observed import Ending
from rephrase_operator.transitions import Event, events, interruptions
from support.looks import a_pod

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
Said = tuple[ConditionType, ConditionStatus, Reason]


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.removesuffix("|").split("|")[1:]] for line in lines[2:]]


def all_said() -> list[Said]:
    return [
        (kind, status, reason)
        for kind, by_status in REASONS.items()
        for status, reasons in by_status.items()
        for reason in reasons
    ]


def a_status(said: Said | None) -> RephraseRunStatus:
    if said is None:
        return RephraseRunStatus()
    kind, status, reason = said
    found = Condition(type=kind, status=status, reason=reason, last_transition_time=NOW)
    return RephraseRunStatus(conditions=(found,))


def told_events() -> set[tuple[str, str]]:
    """Reason and type of every Event that any transition of a status, an end of a pod or a handler makes."""
    found: list[Event] = []
    for kind in ConditionType:
        states = [None, *(said for said in all_said() if said[0] is kind)]
        for before, after in product(states, states[1:]):
            found += events(a_status(before), a_status(after))
    failure = RecentFailure(time=NOW, worker="w", reason="OOMKilled")
    short = WorkersStatus(pools=(PoolStatus(name="spot", stockout_until=NOW),))
    more = RephraseRunStatus(
        recent_failures=(failure,), workers=short, scaling=ScalingStatus(target=2)
    )
    found += events(RephraseRunStatus(), more)
    found += interruptions([(a_pod(), Ending.DISRUPTION)])
    source = Path(handlers.__file__).read_text(encoding="utf-8")
    said = re.findall(r'"?type"?[:=] ?"(\w+)", "?reason"?[:=] ?"(\w+)"', source)
    assert len(said) == source.count(".tell(") - 1  # the other repeats what was found above
    return {(event.reason, event.type) for event in found} | {(name, kind) for kind, name in said}


def test_every_reason_of_every_condition_is_explained_and_no_other() -> None:
    explained = [
        (kind, ConditionStatus(cells[1]), Reason(cells[0].strip("`")))
        for kind in ConditionType
        for cells in rows(kind)
    ]

    assert sorted(explained) == sorted(all_said())


def test_every_event_is_explained_with_its_type_and_no_other() -> None:
    explained = [
        (name.strip("`"), cells[1]) for cells in rows("Events") for name in cells[0].split(", ")
    ]

    assert sorted(explained) == sorted(told_events())


def test_what_is_wrong_has_a_place_to_look_and_a_remedy() -> None:
    warned = {name for name, kind in told_events() if kind == "Warning"}
    lacking = [
        (kind, cells[0])
        for kind in ConditionType
        for cells in rows(kind)
        if cells[0].strip("`") in warned and cells[1] != "True" and not all(cells)
    ]

    assert [cells for kind in ConditionType for cells in rows(kind) if len(cells) != 5] == []
    assert lacking == []
