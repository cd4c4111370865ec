"""Each rule of the ledger protocol is needed: without it the search finds its hole, with it nothing.

A model that cannot find the known holes proves nothing. Hole 17 is in `test_poison.py`, hole 18 in
`test_timelines.py`; 19 to 21 are about stores and documents and are tested on real ones.
"""

import pytest

from model.scopes import HOLES, Hole, model_of
from model.search import explore

each_hole = pytest.mark.parametrize("hole", HOLES, ids=[hole.number for hole in HOLES])


@each_hole
def test_without_its_rule_the_hole_is_found_by_the_shortest_way(hole: Hole) -> None:
    violation = explore(model_of(hole.open_scope)).violation

    assert violation is not None
    assert (violation.what, len(violation.trace)) == (hole.found, hole.steps), violation


@each_hole
def test_with_all_rules_the_same_scope_has_no_hole(hole: Hole) -> None:
    outcome = explore(model_of(hole.scope))

    assert outcome.violation is None, outcome.violation
    assert outcome.exhausted
