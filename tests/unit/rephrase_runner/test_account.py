"""Counts that must balance, and groups that must tile the units."""

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.account import Account, group_digest, group_end, imbalances, tally
from rephrase_runner.records import Commit, Counts, Tokens
from rephrase_runner.rows import Key, Sample, Status

MIB = 2**20


def a_commit(
    unit: int = 0, *, rows: int = 10, filtered: int = 0, size: int = MIB, **counts: int
) -> Commit:
    documents = rows - filtered
    values = {"in": documents, "written": documents, "skipped": 0, "failed": 0} | counts
    return Commit(
        run="r",
        unit=unit,
        epoch=1,
        worker="w",
        beat=1,
        part="p",
        sha256=f"{unit}",
        bytes=size,
        rows=rows,
        filtered=filtered,
        counts={"faq": Counts(bytes=size, **values)},
        reasons={},
        tokens=Tokens(prompt=5, completion=3),
    )


def test_a_balanced_unit_has_no_faults() -> None:
    assert imbalances(a_commit(filtered=3), rows=10, rollouts={"faq": 1}) == []


def test_a_lost_sample_is_named() -> None:
    (fault,) = imbalances(a_commit(written=9), rows=10, rollouts={"faq": 1})

    assert fault == "unit 0, prompt faq: 10 in, 9 accounted for"


def test_rows_that_are_not_the_plans_are_named() -> None:
    """Hole 9: the source was replaced by a shorter file, and the unit balances by itself."""
    assert imbalances(a_commit(rows=8), rows=10, rollouts={"faq": 1}) == [
        "unit 0: 8 rows committed, 10 planned"
    ]


def test_a_rollout_too_few_is_named() -> None:
    faults = imbalances(a_commit(), rows=10, rollouts={"faq": 2})

    assert faults == ["unit 0, prompt faq: 10 in, 20 expected"]


def test_a_prompt_that_is_missing_is_named() -> None:
    assert "prompts ['faq'], expected ['faq', 'math']" in " ".join(
        imbalances(a_commit(), rows=10, rollouts={"faq": 1, "math": 1})
    )


def a_sample(row: int, prompt: str, status: Status) -> Sample:
    return Sample(
        key=Key(0, row, prompt, 0),
        source_id="d",
        status=status,
        text="x" * row,
        completion_tokens=row,
        truncated=row % 2 == 0,
        flags=("tiny",) if row < 3 else ("length",),
        reason="" if status is Status.WRITTEN else "why",
    )


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 20), st.sampled_from(["faq", "math"])),
        st.sampled_from(Status),
        max_size=30,
    )
)
def test_a_tally_balances_and_counts_every_sample(
    outcomes: dict[tuple[int, str], Status],
) -> None:
    samples = [a_sample(row, prompt, status) for (row, prompt), status in outcomes.items()]

    found = tally(samples, ["faq", "math"], part_bytes=1000)

    assert sum(counts.in_ for counts in found.counts.values()) == len(samples)
    for counts in found.counts.values():
        assert counts.in_ == counts.written + counts.skipped + counts.failed
    assert sum(found.reasons.values()) == sum(1 for sample in samples if sample.reason)
    assert sum(counts.bytes for counts in found.counts.values()) <= 1000
    assert sum(counts.tokens for counts in found.counts.values()) == found.tokens.completion
    assert sum(found.flags.values()) == len(samples)


def test_a_group_waits_for_its_units() -> None:
    commits = {0: a_commit(0), 2: a_commit(2)}

    assert group_end(commits, first=0, units=3, target_bytes=10 * MIB) is None


def test_a_group_closes_when_its_largest_prompt_is_large_enough() -> None:
    commits = {unit: a_commit(unit) for unit in range(10)}

    assert group_end(commits, first=0, units=10, target_bytes=3 * MIB) == 3


def test_the_last_group_closes_where_the_units_end() -> None:
    commits = {unit: a_commit(unit) for unit in range(10)}

    assert group_end(commits, first=9, units=10, target_bytes=3 * MIB) == 10


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 10))
def test_groups_tile_the_units(sizes: list[int], target: int) -> None:
    commits = {unit: a_commit(unit, size=size) for unit, size in enumerate(sizes)}
    first, bounds = 0, []
    while first < len(sizes):
        end = group_end(commits, first=first, units=len(sizes), target_bytes=target)
        assert end is not None
        assert end > first
        bounds.append((first, end))
        first = end

    assert bounds[-1][1] == len(sizes)


def test_a_digest_names_the_parts_and_their_order() -> None:
    one, two = a_commit(0), a_commit(1)

    assert group_digest([one, two]) != group_digest([two, one])
    assert group_digest([one]) != group_digest([one, two])


def test_an_account_is_the_sum_of_its_commits() -> None:
    account = Account()
    for unit in range(3):
        account.add(a_commit(unit, filtered=1, written=8, failed=1))

    assert (account.units, account.rows, account.filtered) == (3, 30, 3)
    assert account.samples == Counts(in_=27, written=24, skipped=0, failed=3, bytes=3 * MIB)
    assert account.tokens == Tokens(prompt=15, completion=9)


def test_failed_documents_are_those_of_the_worst_prompt() -> None:
    account = Account()
    account.add(a_commit(0, written=7, failed=3))
    account.add(a_commit(1, written=8, failed=2))

    assert account.failed_documents({"faq": 1}) == 5
    assert account.failed_documents({"faq": 2}) == 3
    assert Account().failed_documents({"faq": 1}) == 0
