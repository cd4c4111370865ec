"""Random walks through what is too large to be searched; after each, a fair run must finish."""

import pytest

from model.scopes import WALKS, Scope, model_of
from model.walks import walk

each_scope = pytest.mark.parametrize("scope", WALKS.values(), ids=WALKS.keys())


@each_scope
def test_no_walk_breaks_an_invariant_and_each_can_be_ended(scope: Scope) -> None:
    model = model_of(scope)

    found = [violation for seed in range(100) if (violation := walk(model, seed)) is not None]

    assert not found, found[0]


@pytest.mark.full
@pytest.mark.timeout(1800)
@each_scope
def test_no_walk_of_thousands_breaks_an_invariant(scope: Scope) -> None:
    model = model_of(scope)

    found = [violation for seed in range(5000) if (violation := walk(model, seed)) is not None]

    assert not found, found[0]
