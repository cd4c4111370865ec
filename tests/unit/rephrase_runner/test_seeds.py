from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.seeds import attempt_seed, document_hash, keep, sample_id, sample_seed

ids = st.text()
names = st.from_regex(r"[a-z0-9][-a-z0-9_]{0,20}", fullmatch=True)
seeds = st.integers(0, 2**63 - 1)
fractions = st.decimals(0, 1, allow_nan=False, allow_infinity=False)


def test_the_numbers_are_the_same_for_ever() -> None:
    # a ledger written by one version is continued by the next
    assert sample_seed(17, "urn:uuid:1", "faq", 0) == 9005221647320978836
    assert attempt_seed(9005221647320978836, 1) == 6278086905257155949
    assert sample_id("s3://corpus/a.parquet", 12, "faq", 1) == "2e956d28304df016e335172bedb753aa"
    assert document_hash("urn:uuid:1", 1) == 2108801217716875547


@given(seeds, ids, names, st.integers(0, 63))
def test_a_sample_seed_is_one_that_vllm_accepts(
    seed: int, source_id: str, prompt: str, rollout: int
) -> None:
    assert 0 <= sample_seed(seed, source_id, prompt, rollout) < 2**63


@given(seeds, ids, ids, names, names)
def test_samples_that_differ_in_anything_have_different_seeds_and_ids(
    seed: int, one: str, other: str, prompt: str, other_prompt: str
) -> None:
    keys = {(one, prompt, 0), (other, prompt, 0), (one, other_prompt, 0), (one, prompt, 1)}

    assert len({sample_seed(seed, *key) for key in keys}) == len(keys)
    assert len({sample_id(file, 3, prompt, rollout) for file, prompt, rollout in keys}) == len(keys)


def test_rows_of_a_file_have_different_ids() -> None:
    assert len({sample_id("f", row, "faq", 0) for row in range(10_000)}) == 10_000


@given(seeds)
def test_the_first_call_keeps_the_seed_and_each_further_one_has_its_own(seed: int) -> None:
    assert attempt_seed(seed, 0) == seed
    assert len({attempt_seed(seed, attempt) for attempt in range(5)}) == 5


@given(ids, seeds)
def test_fraction_0_keeps_no_document_and_1_keeps_all(source_id: str, seed: int) -> None:
    assert not keep(source_id, Decimal(0), seed)
    assert keep(source_id, Decimal("1.000"), seed)


@given(ids, seeds, fractions, fractions)
def test_a_larger_fraction_keeps_all_that_a_smaller_one_keeps(
    source_id: str, seed: int, one: Decimal, other: Decimal
) -> None:
    small, large = sorted((one, other))

    assert keep(source_id, large, seed) or not keep(source_id, small, seed)


@given(ids, seeds)
def test_a_fraction_is_exact_to_the_last_of_64_bits(source_id: str, seed: int) -> None:
    place = document_hash(source_id, seed)

    def sixty_fourths(number: int) -> Decimal:
        """number / 2**64, whose 64 decimal places no float and no default context could hold."""
        return Decimal((0, tuple(map(int, str(number * 5**64))), -64))

    assert not keep(source_id, sixty_fourths(place), seed)
    assert keep(source_id, sixty_fourths(place + 1), seed)


def test_a_fraction_keeps_about_its_share_whatever_the_seed() -> None:
    kept = [
        sum(keep(f"<urn:uuid:{number}>", Decimal("0.1"), seed) for number in range(20_000))
        for seed in range(3)
    ]

    assert all(abs(count - 2_000) < 150 for count in kept)
    assert all(one != other for one, other in pairwise(kept))
