"""Which settings are tried and which one wins, with engines that are functions."""

from collections.abc import Callable
from typing import Any

import pytest

from rephrase_api.launch import engine_arguments
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1.spec import RephraseRunSpec
from rephrase_runner.tuning import (
    Args,
    Attempt,
    Trial,
    Verdict,
    changed,
    needs_as_much,
    patch,
    rounds_seconds,
    search,
    steady_rate,
    tiers,
)
from support.manifests import merged
from support.tuning import searched

SMALL: dict[str, Any] = {
    "source": {"uri": "s3://corpus/web"},
    "prompts": [{"name": "faq", "builtIn": "faq"}],
    "model": {"name": "a/b", "engine": {"args": ["--enforce-eager", "--max-num-seqs=256"]}},
    "output": {"uri": "s3://rewritten/web"},
}
NGRAM = '--speculative-config={"method":"ngram","num_speculative_tokens":6}'
TIERS = (
    [{"--max-num-seqs": f"={number}"} for number in (512, 1024, 64)],
    [{"--gpu-memory-utilization": "=0.95"}, {"--enforce-eager": ""}],
)


def trial(attempt: Attempt, rate: float | None, *, start: float = 10, reason: str = "") -> Trial:
    seconds = start if rate is None else start + attempt.window_seconds
    return Trial(
        attempt.args, rate, start, seconds, reason, out_of_memory=reason == "out of memory"
    )


def tuned(
    engine: Callable[[Attempt], Trial], *, base: Args = (), seconds: float = 3600
) -> tuple[Verdict, list[Trial]]:
    return searched(search(base, TIERS, seconds=seconds, window_seconds=10), engine)


# -- the steady window --


def test_what_is_answered_while_the_engine_fills_is_not_counted() -> None:
    ramp = [(30.0 + number / 100, 100) for number in range(64)]
    steady = [(40.0 + number / 2, 50) for number in range(101)]

    assert steady_rate(ramp + steady, ramp=64) == pytest.approx(100)


def test_answers_that_come_in_waves_make_the_rate_of_whole_waves() -> None:
    waves = [(10.0 * wave, 128) for wave in range(1, 8) for _ in range(32)]

    assert steady_rate(waves, ramp=32) == pytest.approx(32 * 128 / 10)


@pytest.mark.parametrize("answers", [[], [(1.0, 5)], [(float(at), 5) for at in range(12)]])
def test_too_few_answers_make_no_rate(answers: list[tuple[float, int]]) -> None:
    assert steady_rate(answers, ramp=8) is None


# -- the search --


def test_the_run_itself_is_measured_first_and_what_is_fastest_wins() -> None:
    rates = {
        (): 100,
        ("--max-num-seqs=1024",): 130,
        ("--max-num-seqs=1024", "--enforce-eager"): 150,
    }

    verdict, trials = tuned(lambda attempt: trial(attempt, rates.get(attempt.args, 90)))

    assert trials[0].args == ()
    assert verdict == Verdict(("--max-num-seqs=1024", "--enforce-eager"), 150, 100)


def test_the_winner_and_the_run_itself_are_measured_once_more_for_the_same_time() -> None:
    windows: list[tuple[Args, float]] = []

    def engine(attempt: Attempt) -> Trial:
        windows.append((attempt.args, attempt.window_seconds))
        lucky = len(windows) == 2  # one of the first round, by chance
        return trial(attempt, 200 if lucky else 100)

    verdict, _ = tuned(engine)

    assert windows[-2:] == [((), 20), (("--max-num-seqs=512",), 20)]
    assert verdict == Verdict((), 100, 100)


def test_a_gain_of_a_percent_or_two_is_none() -> None:
    verdict, _ = tuned(lambda attempt: trial(attempt, 102 if attempt.args else 100))

    assert verdict.best == ()


def test_running_out_of_memory_is_a_result_and_nothing_larger_is_tried() -> None:
    def engine(attempt: Attempt) -> Trial:
        too_much = "--max-num-seqs=512" in attempt.args
        return trial(attempt, None, reason="out of memory") if too_much else trial(attempt, 100)

    verdict, trials = tuned(engine, base=("--max-num-seqs=128",))

    assert "--max-num-seqs=1024" not in {argument for one in trials for argument in one.args}
    assert [one.args for one in trials].count(("--max-num-seqs=512",)) == 1
    assert verdict.best == ("--max-num-seqs=128",)


def test_settings_that_fail_otherwise_are_not_tried_again() -> None:
    def engine(attempt: Attempt) -> Trial:
        return trial(attempt, None if "--enforce-eager" in attempt.args else 100, reason="broken")

    _, trials = tuned(engine)

    assert sum("--enforce-eager" in one.args for one in trials) == 1


def test_where_the_runs_own_settings_do_not_work_others_are_found() -> None:
    def engine(attempt: Attempt) -> Trial:
        fits = "--max-num-seqs=64" in attempt.args
        return trial(attempt, 80) if fits else trial(attempt, None, reason="out of memory")

    verdict, _ = tuned(engine, base=("--max-num-seqs=256",))

    assert verdict == Verdict(("--max-num-seqs=64",), 80, None)


def test_where_nothing_works_there_is_no_winner() -> None:
    verdict, _ = tuned(lambda attempt: trial(attempt, None, reason="broken"))

    assert verdict == Verdict(None, None, None)


def test_with_little_time_fewer_settings_are_tried_the_first_ones() -> None:
    verdict, trials = tuned(lambda attempt: trial(attempt, 100), seconds=180)

    tried = {argument for one in trials for argument in one.args}
    assert "--max-num-seqs=512" in tried
    assert "--max-num-seqs=64" not in tried
    assert sum(one.seconds for one in trials) <= 180
    assert verdict.best == ()


def test_where_starts_are_slow_one_other_setting_is_tried_at_least() -> None:
    _, trials = tuned(lambda attempt: trial(attempt, 100, start=100), seconds=230)

    assert [one.args for one in trials] == [(), ("--max-num-seqs=512",)]


def test_halving_takes_what_it_is_said_to_take() -> None:
    assert rounds_seconds(4, 10, 20) == 3 * 30 + 2 * 50  # the first is known, for the first time


@pytest.mark.parametrize(
    ("args", "failed", "expected"),
    [
        (("--max-num-seqs=512",), ("--max-num-seqs=256",), True),
        (("--max-num-seqs=256",), ("--max-num-seqs=512",), False),
        (("--max-num-seqs=512", "--a"), ("--max-num-seqs=256",), False),
        (("--max-num-seqs=512",), ("--max-num-batched-tokens=256",), False),
        (("--max-num-seqs=many",), ("--max-num-seqs=256",), False),
    ],
)
def test_more_of_what_ran_out_of_memory_is_hopeless(
    args: Args, failed: Args, *, expected: bool
) -> None:
    assert needs_as_much(args, failed) == expected


# -- what there is to try --


def test_what_others_found_for_a_model_is_tried_first_and_what_is_fixed_never() -> None:
    known = ("--max-num-seqs=2048", "--gpu-memory-utilization=0.95")

    sizes, extras = tiers("VLLM", gpus=1, base=(), known=known)
    assert sizes[0] == {"--max-num-seqs": "=2048", "--gpu-memory-utilization": "=0.95"}
    assert {"--gpu-memory-utilization": "=0.95"} in extras

    fixed = tiers("VLLM", gpus=1, base=(), known=known, fixed={"--max-num-seqs"})
    assert fixed[0] == ()


def test_on_a_cpu_nothing_of_a_gpu_is_tried() -> None:
    flags = {flag for tier in tiers("VLLM", gpus=0, base=()) for change in tier for flag in change}

    assert "--gpu-memory-utilization" not in flags
    assert "--max-num-seqs" in flags


def test_an_engine_without_settings_has_nothing_to_try() -> None:
    assert not any(tiers("OpenAI", gpus=0, base=()))


# -- the patch --


@pytest.mark.parametrize(
    ("engine", "change"),
    [
        ({}, {"--max-num-seqs": "=1024", "--max-num-batched-tokens": "=32768"}),
        ({}, {"--enforce-eager": None}),
        ({}, {"--speculative-config": NGRAM.removeprefix("--speculative-config")}),
        ({"speculation": {"method": "Suffix"}}, {"--speculative-config": None}),
        ({"args": [NGRAM]}, {"--speculative-config": None}),
        ({"speculation": {"method": "NGram"}}, {"--max-num-seqs": "=64"}),
    ],
    ids=["values", "a flag goes", "guess", "guess no more", "guessed by argument", "still guess"],
)
def test_a_run_with_the_patch_has_the_winners_settings_and_is_the_same_run(
    engine: dict[str, Any], change: dict[str, str | None]
) -> None:
    pool = {"name": "gpu", "engine": {"args": ["--seed-of-the-pool"]}}
    manifest = merged(SMALL, {"model": {"engine": engine}, "workers": {"pools": [pool]}})
    before = RephraseRunSpec.from_file(manifest)
    base = engine_arguments(before.model.engine, before.workers.pools[0].engine)
    best = changed(base, change)

    found = patch(before.model.engine.args, base, best)

    after = RephraseRunSpec.from_file(merged(manifest, found["spec"]))
    assert sorted(engine_arguments(after.model.engine, after.workers.pools[0].engine)) == sorted(
        best
    )
    assert spec_hash(declared(after)) == spec_hash(declared(before))
