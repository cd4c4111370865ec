"""What is searched: for every hole a scope in which its rule is needed, and scopes where all rules hold."""

from dataclasses import dataclass, replace
from typing import Any

from model.planning import Planners, Planning
from model.processes import Work
from model.publisher import Publishing
from model.publishing import Drivers
from model.rules import Rule, without
from model.search import Model
from model.units import Units

Scope = Work | Publishing | Planning


def model_of(scope: Scope) -> Model[Any, Any]:
    """The model to be searched."""
    match scope:
        case Work():
            return Units(scope)
        case Publishing():
            return Drivers(scope)
        case Planning():
            return Planners(scope)


@dataclass(frozen=True)
class Hole:
    """A hole of the protocol as first written.

    Attributes:
        number: in section 1 of `docs/ledger.md`; letters: found by this model in the program.
        rules: those that close it.
        scope: with all rules.
        found: what is found without them, or the beginning of it.
        steps: length of the shortest trace.
    """

    number: str
    rules: tuple[Rule, ...]
    scope: Scope
    found: str
    steps: int

    @property
    def open_scope(self) -> Scope:
        """The same without the rules."""
        return replace(self.scope, rules=without(*self.rules))


DOOMED = "the end cannot be reached any more"
_ONE = Work(workers=1, suspicions=0)
_TWO = Work(suspicions=0)
_DELETED = Publishing(units=2, committed=2, targets=(1, 1), recreation=True)

HOLES = (
    Hole(
        "1, a claim",
        (Rule.CLAIMS_READ_BACK, Rule.UNLISTED_IS_ABANDONED),
        replace(_TWO, faults=1),
        DOOMED,
        2,
    ),
    Hole(
        "1, a commit",
        (Rule.RESULTS_READ_BACK,),
        replace(_ONE, faults=1),
        "unit 0: the commit names a part that is not there",
        5,
    ),
    Hole(
        "2",
        (Rule.PUT_AGAIN_WHAT_IS_ABSENT,),
        replace(_ONE, faults=1),
        "a worker ends although unit 0 is not committed",
        7,
    ),
    Hole("3", (Rule.UNLISTED_IS_ABANDONED,), replace(_TWO, faults=1), DOOMED, 4),
    Hole(
        "4",
        (Rule.BEAT_NUMBERS,),
        replace(_TWO, spare_beats=1),
        "a claim is called orphaned while w0 works on it",
        5,
    ),
    Hole(
        "5",
        (Rule.PART_CONFIRMED_BEFORE_COMMIT,),
        replace(_ONE, faults=1),
        "unit 0: the commit names a part that is not there",
        4,
    ),
    Hole(
        "6",
        (Rule.MERGE_BY_KEY,),
        Work(suspicions=2, makers=True),
        "unit 0: a key is twice in the part",
        19,
    ),
    Hole(
        "7",
        (Rule.GC_READS_THE_COMMIT,),
        replace(_ONE, collectors=1),
        "unit 0: the commit names a part that is not there",
        7,
    ),
    Hole(
        "8",
        (Rule.NEW_ID_PER_PROCESS,),
        replace(_TWO, makers=True),
        "unit 0: the part is not the one that was committed",
        11,
    ),
    Hole(
        "9",
        (Rule.COUNTED_AGAINST_THE_PLAN,),
        replace(_ONE, replacement=True),
        "unit 0: unit 0: 1 rows committed, 2 planned",
        6,
    ),
    Hole(
        "10",
        (Rule.RANDOM_RUN_ID,),
        replace(_TWO, recreation=True),
        "unit 0: a sample of another run is committed",
        5,
    ),
    Hole(
        "11",
        (Rule.PLAN_NAMES_ITS_TABLE,),
        Planning(),
        "the plan is not that of its table",
        12,
    ),
    Hole("12", (Rule.GROUP_RECORDS,), Publishing(), "a key is published twice", 18),
    Hole(
        "13",
        (Rule.DATA_PUT_IF_ABSENT,),
        Publishing(),
        "data(0) has not the bytes that its done record says",
        14,
    ),
    Hole(
        "14, a checkpoint",
        (Rule.GONE_MEANS_LOOK_AT_THE_COMMIT,),
        Work(suspicions=1),
        "a worker fails at unit 0, which is committed",
        14,
    ),
    Hole(
        "14, a part",
        (Rule.GONE_MEANS_LOOK_AT_THE_DONE_RECORD,),
        Publishing(units=2, committed=2, sweeper=True),
        "a driver fails a healthy run: a part is gone",
        17,
    ),
    Hole(
        "15",
        (Rule.EXIT_ONLY_WHEN_ALL_IS_COMMITTED,),
        replace(_TWO, crashes=1, successors=(False,)),
        DOOMED,
        5,
    ),
    Hole(
        "16, shared rows twice",
        (Rule.HELPERS_DO_NOT_COMMIT,),
        replace(_TWO, helpers=True),
        "unit 0: a key is committed twice",
        9,
    ),
    Hole(
        "16, shared rows missing",
        (Rule.OWNERS_DO_WHAT_IS_MISSING,),
        replace(_TWO, helpers=True, crashes=1, successors=(False,)),
        DOOMED,
        5,
    ),
    Hole(
        "A: a commit that nobody tells the driver of",
        (Rule.FOUND_COMMITS_ARE_REPORTED, Rule.DRIVERS_LIST_WHEN_NOBODY_IS_LEFT),
        replace(_TWO, driver=True, crashes=1, successors=(False,)),
        DOOMED,
        5,
    ),
    Hole(
        "A: a last heartbeat overwritten by a late one",
        (Rule.DRIVERS_LIST_WHEN_NOBODY_IS_LEFT,),
        replace(_ONE, driver=True, faults=1, spare_beats=1),
        DOOMED,
        9,
    ),
    Hole(
        "B: the manifest of a run that was deleted",
        (Rule.MANIFEST_OF_THIS_RUN,),
        _DELETED,
        "a driver reports success with the manifest of run 0",
        17,
    ),
    Hole(
        "C: a file of a run that was deleted",
        (Rule.NO_STRAY_FILES,),
        _DELETED,
        "the run is declared complete beside a file of another run",
        22,
    ),
    Hole(
        "D: a driver of a run that was deleted",
        (Rule.DRIVERS_READ_THE_SPEC_AGAIN,),
        _DELETED,
        DOOMED,
        2,
    ),
    Hole(
        "E: a claim cut off by the death of an engine",
        (Rule.CUT_OFF_CLAIMS_ARE_LET_GO,),
        replace(_TWO, crashes=1, engine_deaths=True, successors=()),
        DOOMED,
        2,
    ),
)

SMALL: dict[str, Scope] = {
    "two workers": Work(),
    "two workers, a faulty put": Work(faults=1, suspicions=1),
    "two workers, a crash": Work(crashes=1, suspicions=1),
    "two workers, a drain": Work(crashes=1, drains=True, suspicions=0),
    "two workers, heartbeats out of order": Work(spare_beats=1, suspicions=1),
    "two workers, an engine's death": Work(
        crashes=1, engine_deaths=True, suspicions=1, successors=()
    ),
    "two workers, failing samples": Work(failures=True, makers=True, suspicions=1),
    "three workers": Work(workers=3, suspicions=1),
    "two units": Work(units=2, suspicions=1),
    "owner and helper, a crash": Work(helpers=True, crashes=1, suspicions=1),
    "gc twice": Work(collectors=2, suspicions=1),
    "output deleted and used again": Work(recreation=True, suspicions=1),
    "source replaced": Work(replacement=True, suspicions=1),
    "a driver that hears of commits": Work(driver=True, crashes=1, suspicions=0),
    "two planners, a faulty put, a crash": Planning(faults=1, crashes=1),
    "two drivers": Publishing(),
    "two drivers, a faulty put": Publishing(units=2, faults=1),
    "two drivers, a sweep": Publishing(units=2, sweeper=True),
    "two drivers, output deleted": Publishing(
        units=2, committed=2, targets=(1, 1), recreation=True, faults=1
    ),
}
"""All rules hold; seconds together."""

LARGE: dict[str, Scope] = {
    "two workers, two faulty puts": Work(faults=2, suspicions=1),
    "two workers, a faulty put, called stale twice": Work(faults=1, makers=True),
    "two workers, a faulty put, a crash": Work(faults=1, crashes=1, suspicions=1),
    "two workers, a drain, called stale twice": Work(crashes=1, drains=True),
    "two workers, heartbeats late and out of order": Work(spare_beats=1, faults=1, suspicions=1),
    "two workers, an engine's death, a faulty put": Work(
        crashes=1, engine_deaths=True, faults=1, suspicions=1, successors=()
    ),
    "three workers, called stale twice": Work(workers=3),
    "three workers, a faulty put": Work(workers=3, faults=1, suspicions=1),
    "three workers, one lost for good": Work(
        workers=3, crashes=1, suspicions=1, successors=(False,)
    ),
    "two units, a faulty put": Work(units=2, faults=1, suspicions=1),
    "owner and helper, a faulty put": Work(helpers=True, faults=1, suspicions=1),
    "two rivals and a helper": Work(workers=3, helpers=True, suspicions=1),
    "two rivals and a helper, one lost for good": Work(
        workers=3, helpers=True, crashes=1, suspicions=0, successors=(False,)
    ),
    "gc twice, a faulty put": Work(collectors=2, faults=1, suspicions=1),
    "output deleted and used again, two faulty puts": Work(recreation=True, faults=2, suspicions=1),
    "output deleted and used again, two of the old run": Work(
        workers=3, recreation=True, suspicions=1
    ),
    "three planners, two faulty puts": Planning(drivers=3, faults=2),
    "two drivers, two faulty puts": Publishing(faults=2),
    "two drivers, a faulty put, a crash, a sweep": Publishing(
        faults=1, crashes=1, sweeper=True, committed=2
    ),
    "two drivers, output deleted, two faulty puts": Publishing(
        committed=3, targets=(1, 1), recreation=True, faults=2
    ),
}
"""All rules hold; minutes together."""


WALKS: dict[str, Scope] = {
    "three workers": Work(
        workers=3,
        units=3,
        faults=5,
        crashes=3,
        suspicions=3,
        drains=True,
        engine_deaths=True,
        spare_beats=2,
        collectors=2,
        helpers=True,
        driver=True,
        makers=True,
    ),
    "three workers, output deleted and used again": Work(
        workers=4,
        units=3,
        faults=5,
        crashes=3,
        successors=(True,),
        suspicions=3,
        drains=True,
        engine_deaths=True,
        collectors=2,
        helpers=True,
        makers=True,
        recreation=True,
    ),
    "three drivers": Publishing(units=6, targets=(1, 2, 3), faults=5, crashes=3, sweeper=True),
    "three drivers, output deleted": Publishing(
        units=5, targets=(2, 1, 2), faults=5, crashes=3, recreation=True
    ),
}
"""Too large to be searched; all rules hold."""
