"""Samples to bytes and back; what several checkpoints say together."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner import parts
from rephrase_runner.parts import Origin, UnreadablePart
from rephrase_runner.rows import Key, Sample, Status

ORIGIN = Origin(run="r", unit=3, plan="p", etag='"e"', filtered=2)
KEPT = pa.schema([("url", pa.string()), ("score", pa.float64())])
FILES = ["a.parquet", "b.parquet"]


def a_sample(
    row: int = 0, prompt: str = "faq", *, status: Status = Status.WRITTEN, text: str = "t"
) -> Sample:
    return Sample(
        key=Key(1, row, prompt, 0),
        source_id=f"d{row}",
        status=status,
        text=text,
        finish_reason="stop",
        prompt_tokens=12,
        completion_tokens=7,
        flags=("kept_null",),
        attempt_seed=99,
        attempts=1,
        kept={"url": "http://x", "score": 0.5},
        source_text="source",
    )


def encoded(samples: list[Sample]) -> bytes:
    return parts.encode(samples, origin=ORIGIN, kept=KEPT, source_files=FILES)


def test_what_was_encoded_comes_back_in_source_order() -> None:
    samples = [a_sample(row, prompt) for row in (2, 0, 1) for prompt in ("math", "faq")]

    origin, found = parts.decode(encoded(samples))

    assert origin == ORIGIN
    assert found == sorted(samples, key=lambda sample: sample.key)


def test_the_same_samples_are_the_same_bytes_in_any_order() -> None:
    samples = [a_sample(row) for row in range(10)]

    assert encoded(samples) == encoded(samples[::-1])


def test_a_part_without_samples_is_a_part() -> None:
    assert parts.decode(encoded([])) == (ORIGIN, [])


def test_columns_are_read_alone_whatever_dots_are_in_their_names() -> None:
    kept = pa.schema([("a", pa.int64()), ("a.b", pa.string()), ("tags", pa.list_(pa.string()))])
    sample = a_sample()._replace(kept={"a": 1, "a.b": "two", "tags": ["three"]})
    data = parts.encode([sample], origin=ORIGIN, kept=kept, source_files=FILES)
    names = ["kept.a.b", "kept.a", "kept.tags", "status"]

    origin, table = parts.read_table(data, names)

    assert origin == ORIGIN
    assert table.select(names).to_pylist() == [
        {"kept.a.b": "two", "kept.a": 1, "kept.tags": ["three"], "status": "written"}
    ]
    assert table.num_columns == len(names)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-10], lambda data: b"", lambda data: b"x" * 99]
)
def test_damaged_bytes_are_unreadable(damage: object) -> None:
    assert callable(damage)

    with pytest.raises(UnreadablePart):
        parts.decode(damage(encoded([a_sample()])))


def test_parquet_of_others_is_unreadable() -> None:
    sink = pa.BufferOutputStream()
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["x"]}), sink)

    with pytest.raises(UnreadablePart, match="no footer of ours"):
        parts.decode(bytes(sink.getvalue()))


def test_a_written_sample_goes_before_a_failed_one_whatever_the_name() -> None:
    written, failed = a_sample(), a_sample(status=Status.FAILED)

    assert parts.merge([("a", [failed]), ("b", [written])]) == {written.key: written}
    assert parts.merge([("a", [written]), ("b", [failed])]) == {written.key: written}


def test_of_two_written_samples_the_one_from_the_smallest_name_stays() -> None:
    first, second = a_sample(text="first"), a_sample(text="second")

    assert parts.merge([("b", [second]), ("a", [first])]) == {first.key: first}


CHECKPOINTS = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=3),
        st.lists(
            st.builds(a_sample, st.integers(0, 4), status=st.sampled_from(Status)), max_size=4
        ),
    ),
    max_size=5,
    unique_by=lambda named: named[0],
)


@given(CHECKPOINTS, st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_the_order_of_a_listing(
    checkpoints: list[tuple[str, list[Sample]]], random: object
) -> None:
    shuffled = list(checkpoints)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert parts.merge(checkpoints) == parts.merge(shuffled)
