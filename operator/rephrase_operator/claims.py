"""What live runs claim: an output of their own, and a place among the runs of their namespace. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rephrase_api import names
from rephrase_api.semantic import canonical_uri
from rephrase_api.v1alpha1.conditions import ConditionType, Reason

MANAGED_BY = f"{names.GROUP}/operator"
Key = tuple[str, str]
"""Namespace and name."""
_WAITS = {Reason.OUTPUT_IN_USE, Reason.TOO_MANY_RUNS}
"""Refusals that end by themselves: somebody else has what it claims."""


class Claim(NamedTuple):
    """The least of those on the same thing has it.

    Attributes:
        waiting: it has not begun: it is not accepted, and has no plan whose units somebody may be at.
        made: when its run was.
        whose: the run.
        uid: of that.
        refused: its spec, as it is now, was found to be wrong.
    """

    waiting: bool
    made: str
    whose: Key
    uid: str
    refused: bool


def claim_of(body: Mapping[str, Any]) -> dict[str, Claim]:
    """The claim of a run, by the output that it is on; none if it is over, ends, or is not for us."""
    meta, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    conditions = status.get("conditions", [])
    true = {one["type"] for one in conditions if one["status"] == "True"}
    over = true & {ConditionType.COMPLETE, ConditionType.FAILED}
    uri = spec.get("output", {}).get("uri")
    others = spec.get("managedBy", MANAGED_BY) != MANAGED_BY
    if not uri or over or others or "deletionTimestamp" in meta:
        return {}
    claim = Claim(
        waiting=ConditionType.ACCEPTED not in true and not status.get("progress"),
        made=str(meta["creationTimestamp"]),
        whose=(str(meta["namespace"]), str(meta["name"])),
        uid=str(meta["uid"]),
        refused=any(_refuses(one, meta["generation"]) for one in conditions),
    )
    return {canonical_uri(uri): claim}


def _refuses(condition: Mapping[str, Any], generation: int) -> bool:
    return (
        condition["type"] == ConditionType.ACCEPTED
        and condition["status"] == "False"
        and condition["reason"] not in _WAITS
        and condition.get("observedGeneration") == generation
    )


def holder(claims: Iterable[Claim], key: Key) -> Key | None:
    """Another run that has the output that these claims are on; None if this one has it."""
    same = sorted(claims)
    known = any(one.whose == key for one in same)
    return same[0].whose if known and same[0].whose != key else None


def ahead(claims: Iterable[Claim], key: Key) -> list[str]:
    """Runs that have their places in the namespace before this one; those that are refused need none."""
    near = sorted(one for one in claims if one.whose[0] == key[0])
    mine = next((one for one in near if one.whose == key), None)
    return [one.whose[1] for one in near if mine is not None and one < mine and not one.refused]
