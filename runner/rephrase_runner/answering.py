"""Keeps the engine full: submits documents as there is room, retries requests, turns answers to samples."""

import asyncio
from collections.abc import Sequence
from random import Random  # noqa: TID251 - jitter of retries; nothing that is written depends on it

from rephrase_runner.checking import Checker
from rephrase_runner.engines.base import Completion, Engine, Request, RequestFailed
from rephrase_runner.holding import Holding
from rephrase_runner.prepare import Asked, Prepared, Preparer
from rephrase_runner.rows import Problem, Sample, Status
from rephrase_runner.seeds import attempt_seed
from rephrase_runner.vitals import Vitals


class Slots:
    """Room for requests in the engine. One feeder takes, every answer gives back.

    There is room as long as the engine has fewer than it is to have. A document may bring more than are
    missing: if it had to wait until all of them fit, a small batch would run empty before many do.

    Args:
        engine: says how many it is to have, again whenever one of them is answered.
    """

    def __init__(self, engine: Engine) -> None:
        self.taken = 0
        self._engine = engine
        self._freed = asyncio.Event()

    async def take(self, count: int) -> None:
        """Wait until there is any room, and take so much of it."""
        await self.some()
        self.taken += count

    async def some(self) -> None:
        """Wait until there is any room."""
        while self.taken >= self._engine.max_in_flight:
            self._freed.clear()
            await self._freed.wait()

    async def none_taken(self) -> None:
        """Wait until nothing is in flight."""
        while self.taken:
            self._freed.clear()
            await self._freed.wait()

    def give(self, count: int) -> None:
        """These requests are answered."""
        self.taken -= count
        self._freed.set()


class Answerer:
    """Gets the samples of documents from the engine.

    Args:
        engine: ready to answer.
        preparer: turns completions into samples.
        vitals: counts what is finished.
        checker: looks at rewrites beside generation.
        attempts: engine calls per sample before it fails.
        retry_seconds: wait before the second call, half to one and a half of it; doubled for each further
            one.
    """

    def __init__(
        self,
        engine: Engine,
        preparer: Preparer,
        vitals: Vitals,
        checker: Checker,
        *,
        attempts: int,
        retry_seconds: float,
    ) -> None:
        self.slots = Slots(engine)
        self.asked = 0
        """Requests that the engine has now; one that waits for its next attempt is not among them."""
        self.answers = 0
        """Grows with every outcome, failures too: a sign of life of the engine."""
        self._engine = engine
        self._preparer = preparer
        self._vitals = vitals
        self._checker = checker
        self._attempts = attempts
        self._retry_seconds = retry_seconds
        self._random = Random()  # noqa: S311 - jitter is no secret

    def record_problems(self, prepared: Prepared, holding: Holding) -> None:
        """Samples of a document that need no engine: it is empty, broken, or does not fit."""
        for key, problem in prepared.problems:
            self._record(holding, holding.outcome(prepared.document, key, problem))

    def record(self, prepared: Prepared, holding: Holding, problem: Problem) -> None:
        """Give a document up: the problem for every key that would have been asked."""
        for asked in prepared.requests:
            self._record(holding, holding.outcome(prepared.document, asked.key, problem))

    async def answer(self, prepared: Prepared, holding: Holding) -> None:
        """Ask until each request of one document has its sample. Its slots must have been taken.

        Raises:
            EngineDead: the engine is gone; what was answered before is recorded.
        """
        waiting: Sequence[Asked] = prepared.requests
        open_slots = len(waiting)
        unanswered = 0
        failed: list[Asked] = []
        written: list[Sample] = []

        def deliver(index: int, outcome: Completion | RequestFailed) -> None:
            nonlocal open_slots, unanswered
            asked = waiting[index]
            unanswered -= 1
            self.asked -= 1
            self.answers += 1
            if isinstance(outcome, RequestFailed) and outcome.retryable and attempt < last:
                failed.append(asked)
                return
            open_slots -= 1
            sample = self._sample(prepared, asked, outcome, holding, attempt)
            check = self._checker.checks(sample)
            if self._record(holding, sample, unchecked=check) and check:
                written.append(sample)
            if not open_slots:
                hand_over()
            self.slots.give(1)

        def hand_over() -> None:
            """Before the last slot is given back: who waits for all of them then saves what there is."""
            if written:
                self._checker.submit(prepared.document, tuple(written), holding)
                written.clear()

        last = self._attempts
        try:
            for attempt in range(1, last + 1):
                failed = []
                unanswered = len(waiting)
                self.asked += unanswered
                await self._engine.generate([asked.request for asked in waiting], deliver)
                if not failed:
                    return
                pause = self._retry_seconds * 2 ** (attempt - 1)
                await asyncio.sleep(pause * (0.5 + self._random.random()))
                waiting = [_again(asked, attempt) for asked in failed]
        finally:
            self.asked -= unanswered
            hand_over()
            self.slots.give(open_slots)

    def _sample(
        self,
        prepared: Prepared,
        asked: Asked,
        outcome: Completion | RequestFailed,
        holding: Holding,
        attempt: int,
    ) -> Sample:
        document = prepared.document
        if isinstance(outcome, RequestFailed):
            problem = Problem(Status.FAILED, outcome.reason, outcome.message)
            return holding.outcome(document, asked.key, problem, attempts=attempt)
        text = holding.source_text(document)
        return self._preparer.sample(document, asked, outcome, attempts=attempt, source_text=text)

    def _record(self, holding: Holding, sample: Sample, *, unchecked: bool = False) -> bool:
        new = holding.add(sample, unchecked=unchecked)
        if sample.status is Status.WRITTEN:
            self._vitals.openings[sample.key.prompt].add(sample.text)
        self._vitals.sample(
            sample.prompt_tokens,
            sample.completion_tokens,
            failed=sample.status is Status.FAILED,
        )
        return new


def _again(asked: Asked, attempt: int) -> Asked:
    """The same request with the seed of the next attempt, if it has one."""
    request = asked.request
    if request.seed is None:
        return asked
    seed = attempt_seed(request.seed, attempt)
    return Asked(
        asked.key,
        Request(request.prompt_token_ids, request.sampling, seed),
        truncated=asked.truncated,
    )
