"""`make bench`: what one look of the operator at a large run costs, without the API server.

WORKERS pods that run and as many Jobs are extracted, settled, judged, planned and told, as after a restart;
once with a plan of ten thousand units and once with ten million. Fails if the size of the status or the plan
depends on the number of units.
"""

import argparse
import json
import sys
import time

from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import decide
from rephrase_operator.observed import Observed
from rephrase_operator.settings import Settings
from rephrase_operator.status import status_of
from rephrase_operator.transitions import changes
from support.looks import NOW, a_driver_job, a_job, a_pod, a_progress, a_run, at_work

LOOKS = 20
MORE_DIGITS = 100
"""Bytes by which larger numbers make a status longer."""


def main() -> int:
    """Measure, check, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    workers = parser.parse_args().workers
    sizes = []
    for units in (10_000, 10_000_000):
        observed = large(workers, units)
        began = time.process_time()
        for _ in range(LOOKS):
            status, actions = look(
                workers, Observed(observed.jobs, observed.pods, observed.progress, {})
            )
        seconds = (time.process_time() - began) / LOOKS
        size = len(json.dumps(status.to_api()))
        sizes.append((size, actions))
        print(
            f"look: {workers} workers, {units:,} units: {seconds * 1000:.0f} ms of CPU; status of {size:,} "
            f"bytes; {actions} actions"
        )
    (small, few), (big, many) = sizes
    if big - small > MORE_DIGITS or few != many:
        print("the status or the plan depends on the number of units")
        return 1
    return 0


def large(workers: int, units: int) -> Observed:
    """A run in which every worker generates."""
    driver = a_driver_job()
    jobs = [a_job(slot) for slot in range(workers)]
    pods = [a_pod(job) for job in jobs]
    progress = a_progress(units, units // 2, workers=at_work(*pods))
    return Observed([driver, *jobs], [a_pod(driver), *pods], progress, {})


def look(workers: int, observed: Observed) -> tuple[RephraseRunStatus, int]:
    """One look; the status and how many actions are planned."""
    run = a_run(workers={"max": workers})
    before = RephraseRunStatus()
    decided = decide(
        run,
        before,
        observed,
        refused=None,
        prices={},
        template_hashes={"": "now", "default": "now"},
        settings=Settings(),
        now=NOW,
    )
    status = status_of(decided)
    changes(before.to_api(), status.to_api())
    return status, len(decided.plan.actions)


if __name__ == "__main__":
    sys.exit(main())
