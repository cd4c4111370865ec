"""What a look at a run costs does not depend on how large its plan is."""

import gc
import json
import sys
from types import FrameType
from typing import Any

from rephrase_api.progress import Progress
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.look import decide
from rephrase_operator.observed import Observed
from rephrase_operator.settings import Settings
from rephrase_operator.status import status_of
from rephrase_operator.transitions import changes, events, is_urgent
from support.looks import NOW, a_driver_job, a_job, a_pod, a_progress, a_run, at_work

WORKERS = 20
FEW, MANY = 10_000, 10_000_000


def a_word(units: int) -> bytes:
    """Of a driver that has committed a third of its units."""
    pods = [a_pod(a_job(slot)) for slot in range(WORKERS)]
    told = a_progress(
        units,
        units // 3,
        workers=at_work(*pods),
        rates={"documentsPerSecond": units / 1000, "completionTokensPerSecond": 50_000},
    )
    return told.model_dump_json(by_alias=True).encode()


def a_look_at(word: bytes, before: dict[str, Any]) -> dict[str, Any]:
    """From the words of driver and API server to the status that is written."""
    driver, jobs = a_driver_job(), [a_job(slot) for slot in range(WORKERS)]
    decided = decide(
        a_run(workers={"max": WORKERS}),
        RephraseRunStatus.from_api(before),
        Observed(
            [driver, *jobs],
            [a_pod(driver), *(a_pod(job) for job in jobs)],
            Progress.model_validate_json(word),
            {},
        ),
        refused=None,
        prices={},
        template_hashes={"": "now", "default": "now"},
        settings=Settings(),
        now=NOW,
    )
    after = status_of(decided)
    changes(before, after.to_api())
    events(decided.before, after)
    is_urgent(decided.before, after)
    return after.to_api()


def lines_of_a_look(units: int) -> tuple[int, dict[str, Any]]:
    """How many lines of Python a later look at a run executes, and the status after it."""
    word = a_word(units)
    before = a_look_at(word, a_look_at(word, {}))  # what Python looks up once it has looked up then
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401 - a trace function
        nonlocal lines
        lines += event == "line"
        return count

    gc.disable()  # it calls functions when it pleases
    sys.settrace(count)
    try:
        after = a_look_at(word, before)
    finally:
        sys.settrace(None)
        gc.enable()
    return lines, after


def test_a_look_takes_as_many_steps_for_ten_million_units_as_for_ten_thousand() -> None:
    few, _ = lines_of_a_look(FEW)
    many, status = lines_of_a_look(MANY)

    assert status["progress"]["units"] == {"planned": MANY, "claimed": 0, "committed": MANY // 3}
    assert many == few


def test_the_size_of_a_status_grows_by_the_digits_of_its_numbers_only() -> None:
    def shape(status: dict[str, Any]) -> str:
        return "".join("0" if c.isdigit() else c for c in json.dumps(status))

    _, few = lines_of_a_look(FEW)
    _, many = lines_of_a_look(MANY)

    assert len(json.dumps(many)) - len(json.dumps(few)) < 50
    assert squeezed(shape(many)) == squeezed(shape(few))


def squeezed(text: str) -> str:
    """With one zero for each row of them."""
    while "00" in text:
        text = text.replace("00", "0")
    return text
