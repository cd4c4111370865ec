"""Every order of steps and faults within a scope: nothing wrong is reachable, the end always is."""

import pytest

from model.scopes import LARGE, SMALL, Scope, model_of
from model.search import explore


@pytest.mark.parametrize("scope", SMALL.values(), ids=SMALL.keys())
def test_no_order_of_steps_breaks_an_invariant_or_bars_the_end(scope: Scope) -> None:
    outcome = explore(model_of(scope))

    assert outcome.violation is None, outcome.violation
    assert outcome.exhausted


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scope", LARGE.values(), ids=LARGE.keys())
def test_no_order_of_steps_breaks_a_large_scope(scope: Scope) -> None:
    outcome = explore(model_of(scope))

    assert outcome.violation is None, outcome.violation
    assert outcome.exhausted
