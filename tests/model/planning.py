"""Two drivers that begin the same run (section 8), while the source gets another file.

What a driver sees of the source stands for all that it looks up: model revision, prompts, the files.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from model.objects import Plan
from model.rules import ALL, Rule, Rules
from model.search import Move
from model.world import Name, Put, World, carry_on

SPEC: Name = ("spec",)
PLAN: Name = ("plan",)


class At(StrEnum):
    """Where a planner stands: what its next request is."""

    LOOK = "looks at the source"
    SPEC = "puts the spec"
    ADOPT_SPEC = "reads the spec"
    TABLE = "puts the table"
    PLAN = "puts the plan"
    ADOPT_PLAN = "reads the plan"
    OUT = "has planned"


class Planner(NamedTuple):
    """A driver that plans. `saw`: of the source; `spec`, `plan`: what it goes on with."""

    at: At = At.LOOK
    saw: int = 0
    spec: Hashable = None
    plan: Hashable = None
    put: Put | None = None


class Outside(NamedTuple):
    """The network and the user."""


Local = Planner | Outside
Moves = Iterator[Move[World, Local]]


@dataclass(frozen=True)
class Planning:
    """How many drivers plan, what may happen, and the rules that hold."""

    drivers: int = 2
    faults: int = 0
    crashes: int = 0
    rules: Rules = ALL


class Planners:
    """The model. Processes: the outside, then the planners.

    Args:
        planning: what may happen.
    """

    def __init__(self, planning: Planning) -> None:
        self._planning = planning
        self._rules = planning.rules

    def start(self) -> tuple[World, Sequence[Local]]:
        """An empty output."""
        planning = self._planning
        world = World(faults=planning.faults, crashes=planning.crashes)
        return world, [Outside(), *(Planner() for _ in range(planning.drivers))]

    def who(self, process: int, local: Local) -> str:
        """The name of a process in traces."""
        return f"driver {process}" if isinstance(local, Planner) else "outside:"

    def moves(self, process: int, world: World, local: Local) -> Moves:
        """Everything that a process can do next."""
        if isinstance(local, Planner):
            yield from self._plan(world, local)
            return
        for label, after in world.landings():
            yield Move(label, after, local, fair=False)
        if not world.deeds:
            grown = world._replace(deeds=1)
            yield Move("the source gets another file", grown, local, fair=False)

    def _plan(self, world: World, me: Planner) -> Moves:
        if me.at is At.OUT:
            return
        if world.crashes:
            fewer = world._replace(crashes=world.crashes - 1)
            yield Move("dies, another starts", fewer, Planner(), fair=False)
        match me.at:
            case At.LOOK:
                looked = me._replace(at=At.SPEC, saw=world.deeds)
                yield Move("looks at the source", world, looked)
            case At.ADOPT_SPEC:
                adopted = me._replace(at=At.TABLE, spec=world.store.get(SPEC))
                yield Move("reads the spec", world, adopted)
            case At.ADOPT_PLAN:
                adopted = me._replace(at=At.OUT, plan=world.store.get(PLAN))
                yield Move("reads the plan", world, adopted)
            case _:
                yield from self._putting(world, me, me.put or self._put(me))

    def _table(self, saw: int) -> Name:
        return ("table", saw if Rule.PLAN_NAMES_ITS_TABLE in self._rules else 0)

    def _put(self, me: Planner) -> Put:
        match me.at:
            case At.SPEC:
                return Put(SPEC, me.saw)
            case At.TABLE:
                return Put(self._table(me.saw), me.saw, own_name=True)
            case _:
                return Put(PLAN, Plan(self._table(me.saw), me.saw))

    def _putting(self, world: World, me: Planner, put: Put) -> Moves:
        following = {At.SPEC: At.ADOPT_SPEC, At.TABLE: At.PLAN, At.PLAN: At.ADOPT_PLAN}
        for step in carry_on(world, put, self._rules):
            if isinstance(step.then, Put):
                after = me._replace(put=step.then)
            else:
                after = me._replace(put=None, at=following[me.at])
            yield Move(step.label, step.world, after, fair=step.fair)

    def fault(self, world: World) -> str | None:
        """The plan that counts names a table that is there and has what it says."""
        plan: Plan | None = world.store.get(PLAN)
        if plan is None or world.store.get(plan.table) == plan.saw:
            return None
        return "the plan is not that of its table"

    def wrong(self, claim: Hashable, locals_: Sequence[Local]) -> str | None:
        """No step states anything."""
        raise AssertionError(claim)

    def ended(self, world: World) -> bool:
        """Whether the run is planned."""
        return world.store.has(PLAN)

    def at_rest(self, local: Local) -> bool:
        """Whether a process may be like this at the end."""
        return not isinstance(local, Planner) or local.at is At.OUT
