"""A search for settings with an engine that is a function."""

from collections.abc import Callable

from rephrase_runner.tuning import Attempt, Search, Trial, Verdict


def searched(going: Search, engine: Callable[[Attempt], Trial]) -> tuple[Verdict, list[Trial]]:
    """Let the engine try what is asked for; what came of it, and every trial."""
    trials: list[Trial] = []
    try:
        attempt = next(going)
        while True:
            trials.append(engine(attempt))
            attempt = going.send(trials[-1])
    except StopIteration as stop:
        return stop.value, trials
