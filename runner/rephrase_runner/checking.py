"""Checks rewrites beside generation: a thread takes what is finished, the loop hands over and takes back.

A worker checks some hundreds a second with little of one core; what waits is bounded, since a unit is written
only when all of it is checked.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_runner.holding import Holding
from rephrase_runner.rows import Document, Sample, Status
from rephrase_runner.scrutiny import Original, scrutinize

Work = tuple[Document, Sequence[Sample], Holding]


class Checker:
    """The checks of one worker.

    Args:
        built_in: by prompt, the built-in one whose form it is to have; empty for others. None: check nothing.
    """

    def __init__(self, built_in: Mapping[str, str] | None) -> None:
        self._built_in = built_in
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checks")
        self._waiting: list[Work] = []
        self._going: asyncio.Future[None] | None = None

    def checks(self, sample: Sample) -> bool:
        """Whether a sample is to be checked."""
        return self._built_in is not None and sample.status is Status.WRITTEN

    def submit(self, document: Document, samples: Sequence[Sample], holding: Holding) -> None:
        """Check rewrites of one document; the holding waits for them before they are written."""
        holding.in_check(samples)
        self._waiting.append((document, samples, holding))
        if self._going is None:
            self._going = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        """All that waits at once, again and again: a hand-over for each document would cost more than it."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    checked = await loop.run_in_executor(self._threads, self._check, batch)
                except Exception as error:  # noqa: BLE001 - told to whoever waits, who would wait for ever
                    for _, _, holding in batch:
                        holding.check_failed(error)
                    continue
                for (_, samples, holding), found in zip(batch, checked, strict=True):
                    holding.checked(samples, found)
        finally:
            self._going = None

    def _check(self, batch: Sequence[Work]) -> list[list[Sample]]:
        built_in = self._built_in or {}
        return [checked(document, samples, built_in) for document, samples, _ in batch]

    def close(self) -> None:
        """Nothing more will be checked."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def checked(
    document: Document, samples: Sequence[Sample], built_in: Mapping[str, str]
) -> list[Sample]:
    """Rewrites of one document with what was noticed about them."""
    original = Original(document.text)
    found = []
    for sample in samples:
        seen = scrutinize(sample.text, original, built_in.get(sample.key.prompt, ""))
        found.append(sample._replace(flags=(*sample.flags, *seen.flags), notes=seen.notes))
    return found


def checks_of(spec: RephraseRunSpec) -> dict[str, str] | None:
    """By prompt, the built-in one whose form it is to have; None where the spec wants no checks."""
    if spec.quality.checks is False:
        return None
    return {prompt.name: prompt.built_in or "" for prompt in spec.prompts}
