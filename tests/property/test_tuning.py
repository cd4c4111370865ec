"""The search for settings, over engines of any speed that may run out of memory or not start."""

from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.tuning import MARGIN, Args, Attempt, Trial, search, tiers
from support.tuning import searched

BASE = ("--max-num-seqs=128",)


@given(
    speeds=st.dictionaries(st.integers(0, 60), st.floats(1, 1000), max_size=60),
    most=st.integers(100, 100_000_000),
    broken=st.sets(st.integers(0, 60), max_size=10),
    start=st.floats(1, 60),
    seconds=st.floats(1, 5000),
)
def test_the_fastest_of_what_was_tried_wins_in_time_and_nothing_hopeless_is_tried(
    speeds: dict[int, float], most: int, broken: set[int], start: float, seconds: float
) -> None:
    numbers: dict[Args, int] = {}

    def engine(attempt: Attempt) -> Trial:
        args = attempt.args
        number = numbers.setdefault(args, len(numbers))
        values = dict(argument.partition("=")[::2] for argument in args)
        need = int(values["--max-num-seqs"]) * int(values.get("--max-num-batched-tokens", 1))
        window = start + attempt.window_seconds
        if window > attempt.limit_seconds:
            return Trial(args, None, 0, attempt.limit_seconds, "not done in time")
        if need > most:
            return Trial(args, None, 0, start, "out of memory", out_of_memory=True)
        if number in broken:
            return Trial(args, None, 0, start, "broken")
        return Trial(args, speeds.get(number, 10.0), start, window)

    going = search(BASE, tiers("VLLM", gpus=1, base=BASE), seconds=seconds, window_seconds=10)
    verdict, trials = searched(going, engine)

    assert sum(one.seconds for one in trials) <= seconds + 1e-6
    failed = [one.args for one in trials if one.out_of_memory or one.reason == "broken"]
    assert len(failed) == len(set(failed))
    rates = {one.args: one.rate for one in trials if one.rate is not None}
    fastest = max(rates.values(), default=None)
    if verdict.best is None:
        assert not rates
    elif verdict.best == BASE:
        assert fastest is not None
        assert fastest < rates[BASE] * MARGIN
    else:
        assert verdict.rate is not None
        assert verdict.rate == fastest
        assert verdict.rate >= rates.get(BASE, 0) * MARGIN
