"""What there is of a run: kopf's indexes, what they have missed, the driver's word, and why things wait."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.cluster import Cluster
from rephrase_operator.driver_client import DriverClient
from rephrase_operator.jobs import driver_job
from rephrase_operator.memory import Memory
from rephrase_operator.observed import JobSeen, Observed, PodSeen, doubtful, job_seen, telling
from rephrase_operator.settings import Settings

logger = logging.getLogger(__name__)
_BLOCKED_SECONDS = 3
"""A Job without a pod for so long is asked for the reason."""
_MOST_QUESTIONS = 5


class Observer:
    """Asks the API server and drivers for what no watch tells.

    Args:
        cluster: the API server.
        drivers: of runs.
        settings: the operator's.
    """

    def __init__(self, cluster: Cluster, drivers: DriverClient, settings: Settings) -> None:
        self._cluster = cluster
        self._drivers = drivers
        self._settings = settings

    async def call_roll(
        self, run: RephraseRun, memory: Memory, known: list[JobSeen | PodSeen]
    ) -> None:
        """Find out which Jobs and pods, or the run itself, went while no watch could tell.

        After a watch that was too old kopf lists anew; what has gone meanwhile stays in its indexes.
        """
        if not memory.roll_call_is_due(known, _now()):
            return
        namespace, name = run.metadata.namespace or "", run.metadata.name
        memory.latest = await self._cluster.get_run(namespace, name, run.metadata.uid or "")
        there = await self._cluster.uids_of_children(namespace, name)
        with suppress(InvalidSpec):  # of such a spec there is no Job to ask with
            job = driver_job(run, settings=self._settings)
            memory.namespace_ends = await self._cluster.is_ending(namespace, job)
        for one in memory.call_roll(known, there, _now()):
            logger.warning("went unseen", extra={"run": name, "object": one.name})

    async def observe(
        self,
        run: RephraseRun,
        before: RephraseRunStatus,
        memory: Memory,
        jobs: Iterable[JobSeen],
        pods: Iterable[PodSeen],
    ) -> Observed:
        """What there is now.

        Args:
            run: whose.
            before: its status as it was last written.
            memory: of it; what it has not seen yet is added.
            jobs: of its name, as the index has them.
            pods: likewise.

        Raises:
            Refused: the API server will not tell, or does not answer.
        """
        uid = run.metadata.uid
        mine, ours = memory.children(
            before,
            (job for job in jobs if job.owner == uid),
            (pod for pod in pods if pod.run == uid),
        )
        observed = Observed(mine, ours, None, {}, dict(memory.attempts))
        in_doubt = doubtful(observed, settled=before.settling)
        if in_doubt:
            observed = replace(observed, jobs=await self._read_anew(mine, in_doubt, run, memory))
        driver = observed.driver_pod
        progress = None
        if driver is not None and driver.phase == "Running" and driver.ip and driver.port:
            progress = await self._drivers.progress(driver.ip, driver.port)
        warnings = await self._warnings(run.metadata.namespace or "", observed)
        return replace(observed, progress=progress, warnings=warnings)

    async def _read_anew(
        self, jobs: Iterable[JobSeen], in_doubt: Iterable[JobSeen], run: RephraseRun, memory: Memory
    ) -> list[JobSeen]:
        """The Jobs, with those in doubt as the API server has them now."""
        namespace = run.metadata.namespace or ""
        wanted = {job.uid: job.name for job in in_doubt}
        found = await self._cluster.get_jobs(namespace, run.metadata.name, wanted)
        memory.vanished.update(uid for uid, job in found.items() if job is None)
        latest = {uid: job_seen(job) for uid, job in found.items() if job is not None}
        return [latest.get(job.uid, job) for job in jobs if job.uid not in memory.vanished]

    async def _warnings(self, namespace: str, observed: Observed) -> dict[str, str]:
        """Why Jobs have no pod, pods no node, and containers do not start, for some that wait a while."""
        late = _now() - timedelta(seconds=_BLOCKED_SECONDS)
        waiting = [
            job.uid
            for job in observed.jobs
            if not job.finished and not observed.pods_of(job) and job.created < late
        ]
        waiting += [
            pod.uid
            for pod in observed.pods
            if pod.phase == "Pending" and pod.created < late and not pod.gone
        ]
        asked = waiting[:_MOST_QUESTIONS]
        told = await asyncio.gather(*(self._cluster.warnings_of(namespace, uid) for uid in asked))
        return {uid: telling(events) for uid, events in zip(asked, told, strict=True) if events}


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the edge that hands it to the pure ones
