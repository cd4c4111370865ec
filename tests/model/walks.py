"""Random walks through models too large to be searched, each ended by a fair run that must finish."""

from collections.abc import Hashable, Sequence
from random import Random  # noqa: TID251 - seeded by the caller
from typing import Any

from model.search import Model, Move, Violation

_FAIR = 0.9
"""Share of the steps that are no fault: trouble comes while work is under way, not all at the start."""
_LONGEST_FAIR_RUN = 20_000


def walk(model: Model[Any, Any], seed: int, *, steps: int = 120) -> Violation | None:
    """One walk: so many steps of any kind, then fair ones until the end.

    Args:
        model: walked through.
        seed: the same seed walks the same way.
        steps: before the fair run.
    """
    random = Random(seed)  # noqa: S311 - no secret
    world, first = model.start()
    locals_ = list(first)
    trace: list[str] = []
    for step in range(steps + _LONGEST_FAIR_RUN):
        if step >= steps and model.ended(world) and all(map(model.at_rest, locals_)):
            return None
        moves = [
            (process, move)
            for process, local in enumerate(locals_)
            for move in model.moves(process, world, local)
        ]
        fair = [one for one in moves if one[1].fair]
        unfair = [one for one in moves if not one[1].fair] if step < steps else []
        if not moves or not (fair or unfair):
            break
        some = fair if not unfair or (fair and random.random() < _FAIR) else unfair
        process, move = random.choice(some)
        trace.append(f"{model.who(process, locals_[process])} {move.label}")
        what = _wrong(model, move, locals_)
        if what is not None:
            return Violation(what, tuple(trace))
        world, locals_[process] = move.world, move.local
    if model.ended(world) and all(map(model.at_rest, locals_)):
        return None
    return Violation("the end was not reached by a fair run", tuple(trace[:steps]))


def _wrong(model: Model[Any, Any], move: Move[Any, Any], locals_: Sequence[Hashable]) -> str | None:
    wrong = model.wrong(move.claim, locals_) if move.claim is not None else None
    return wrong or model.fault(move.world)
