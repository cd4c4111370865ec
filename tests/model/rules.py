"""The rules that close the holes of the ledger protocol, each a switch.

With a rule off, the search must find its hole again: a model that cannot find the known holes proves
nothing. The numbers are those of the table in section 1 of `docs/ledger.md`.
"""

from enum import Enum


class Rule(Enum):
    """A rule, by the number of its hole; letters: found later by this model."""

    CLAIMS_READ_BACK = "1, a claim"
    RESULTS_READ_BACK = "1, a part or commit"
    PUT_AGAIN_WHAT_IS_ABSENT = "2"
    UNLISTED_IS_ABANDONED = "3"
    BEAT_NUMBERS = "4"
    PART_CONFIRMED_BEFORE_COMMIT = "5"
    MERGE_BY_KEY = "6"
    GC_READS_THE_COMMIT = "7"
    NEW_ID_PER_PROCESS = "8"
    COUNTED_AGAINST_THE_PLAN = "9"
    RANDOM_RUN_ID = "10"
    PLAN_NAMES_ITS_TABLE = "11"
    GROUP_RECORDS = "12"
    DATA_PUT_IF_ABSENT = "13"
    GONE_MEANS_LOOK_AT_THE_COMMIT = "14, checkpoints"
    EXIT_ONLY_WHEN_ALL_IS_COMMITTED = "15"
    HELPERS_DO_NOT_COMMIT = "16, helpers"
    OWNERS_DO_WHAT_IS_MISSING = "16, owners"
    GONE_MEANS_LOOK_AT_THE_DONE_RECORD = "14, parts"
    FOUND_COMMITS_ARE_REPORTED = "A, finders"
    DRIVERS_LIST_WHEN_NOBODY_IS_LEFT = "A, drivers"
    MANIFEST_OF_THIS_RUN = "B"
    NO_STRAY_FILES = "C"
    CUT_OFF_CLAIMS_ARE_LET_GO = "E"
    DRIVERS_READ_THE_SPEC_AGAIN = "D"


Rules = frozenset[Rule]
ALL: Rules = frozenset(Rule)


def without(*rules: Rule) -> Rules:
    """All rules but these."""
    return ALL - set(rules)
