"""What is known of one run between two looks; losing it costs a repeated check, question or write. Pure.

Watches tell most of it, but not all: one may be behind what was written, or have been too old to tell what
went. And the pods of a run may be counted by another operator.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rephrase_api import names
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.observed import JobSeen, PodSeen
from rephrase_operator.verdict import Cause

ROLL_CALL = timedelta(seconds=60)
SOON = timedelta(seconds=5)
"""To the next roll call while somebody is missed, a Job is so old and no watch has told of it, or an ended
pod that was deleted still is there."""


@dataclass(slots=True)
class Memory:
    """What is known of one run.

    Attributes:
        checked_generation: the last one whose Jobs the API server was asked about.
        checked_at: when that was.
        refused: what it said to that.
        hashed_generation: the last one whose Jobs' templates were hashed.
        hashes: of those templates, by pool.
        written_at: when the status was last written.
        gone: pods that were deleted and are not counted yet, by uid.
        counted: pods that a status has counted: one that is told to be gone after that is not counted again.
        made: Jobs that were made and that no watch has told of yet, by uid.
        latest: the run as it was last written or read, if a watch has not told of that yet.
        called_at: when it was last asked which Jobs and pods there are.
        attempts: the highest seen of each slot; another operator's next Job may not be told of yet.
        missed: those that were not there then: a watch may be about to tell.
        vanished: Jobs and pods that no longer are, though no watch has told so.
        looked: whether there has been a look at the run.
        over: the run itself no longer is, though no watch has told so.
        namespace_ends: its namespace is being deleted: nothing new can be made there.
    """

    checked_generation: int | None = None
    checked_at: datetime | None = None
    refused: Cause | None = None
    hashed_generation: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    written_at: datetime | None = None
    gone: dict[str, PodSeen] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    made: dict[str, JobSeen] = field(default_factory=dict)
    latest: Mapping[str, Any] | None = None
    called_at: datetime | None = None
    attempts: dict[int, int] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    looked: bool = False
    over: bool = False
    namespace_ends: bool = False

    def latest_of(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The newer of what the watch has told last and what was last written or read."""
        if self.latest is None or _version(self.latest) <= _version(body):
            self.latest = None
            return dict(body)  # kopf puts the next state into its own while we look
        return self.latest

    def note_made(self, job: JobSeen) -> None:
        """A Job is there: a watch that is behind must not have it made again."""
        self.made[job.uid] = job
        self.note_attempt(job)

    def note_attempt(self, job: JobSeen) -> None:
        """A Job was there, perhaps for less time than there is between two looks."""
        self.attempts[job.slot] = max(self.attempts.get(job.slot, 0), job.attempt)

    def keep(self, pod: PodSeen, now: datetime) -> None:
        """A worker's pod is gone: keep it until it is counted."""
        if pod.role == names.WORKER and pod.uid not in self.counted:
            self.gone[pod.uid] = replace(pod, gone=True, finished=pod.finished or now)

    def note_counted(self, uids: Iterable[str]) -> None:
        """These pods are counted in a status that was written, whoever wrote it."""
        self.counted.update(uids)

    def let_go(self, before: RephraseRunStatus) -> None:
        """A look has seen the pods that were counted before it, and done what follows from their end."""
        self.counted.update(before.settling)
        for uid in before.settling:
            self.gone.pop(uid, None)

    def roll_call_is_due(self, known: Collection[JobSeen | PodSeen], now: datetime) -> bool:
        """Whether it is time to ask which of these there are, and of the Jobs that were made."""
        if self.called_at is None:  # all was listed just now
            self.called_at = now
        held = any(isinstance(one, PodSeen) and one.terminal and one.deletion for one in known)
        old = {uid for uid, job in self.made.items() if now >= job.created + SOON}
        untold = bool(old) and not old <= {one.uid for one in known}
        return now >= self.called_at + (SOON if held or untold or self.missed else ROLL_CALL)

    def call_roll(
        self, known: Iterable[JobSeen | PodSeen], there: Collection[str], now: datetime
    ) -> list[JobSeen | PodSeen]:
        """Find out who went while no watch could tell: who is missed twice.

        Args:
            known: Jobs and pods as watches told of them, before it was asked.
            there: uids that the API server told then.
            now: the time.

        Returns:
            Those found out now.
        """
        self.called_at = now
        either = {*there, *self.vanished}
        missing = {one.uid: one for one in (*self.made.values(), *known) if one.uid not in either}
        found = [one for uid, one in missing.items() if uid in self.missed]
        self.missed = missing.keys() - self.missed
        self.vanished.update(one.uid for one in found)
        for one in found:
            if isinstance(one, PodSeen):
                self.keep(one, now)
        return found

    def children(
        self, before: RephraseRunStatus, jobs: Iterable[JobSeen], pods: Iterable[PodSeen]
    ) -> tuple[list[JobSeen], list[PodSeen]]:
        """Jobs and pods to look at: those that are, and pods that went and are not counted.

        Args:
            before: the status that the look starts from.
            jobs: as watches told of them.
            pods: as watches told of them.
        """
        there = {pod.uid: pod for pod in pods if pod.uid not in self.vanished}
        told = {job.uid: job for job in jobs}
        self.made = {
            uid: job for uid, job in self.made.items() if uid not in {*told, *self.vanished}
        }
        for job in told.values():
            self.note_attempt(job)
        settling = set(before.settling)
        return (
            [job for job in {**self.made, **told}.values() if job.uid not in self.vanished],
            [
                pod
                for pod in {**self.gone, **there}.values()
                if pod.uid in settling or pod.uid not in self.counted  # else another saw it go
            ],
        )


def _version(run: Mapping[str, Any]) -> int:
    return int(run["metadata"]["resourceVersion"])
