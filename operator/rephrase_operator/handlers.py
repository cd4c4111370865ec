"""Every kopf decorator. One timer over two indexes looks at a run: parse, observe, judge, plan, apply, write.

Nothing is remembered that a restart must not lose: a look starts from what the API server and the driver
say. `Memory` holds what no watch has told, or tells again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import kopf
from pydantic import ValidationError

from rephrase_api import names
from rephrase_api.errors import InvalidSpec
from rephrase_api.manifest import problems_of
from rephrase_api.prices import PoolPrices, pool_prices
from rephrase_api.semantic import canonical_uri
from rephrase_api.sentences import sentences
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.conditions import ConditionType, Reason
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.claims import MANAGED_BY, Claim, Key, ahead, claim_of, holder
from rephrase_operator.cluster import (
    Cluster,
    ComingAndGoing,
    Gone,
    NameTaken,
    Outdated,
    Refused,
)
from rephrase_operator.conditions import refused_status
from rephrase_operator.driver_client import DriverClient
from rephrase_operator.expected import expected_rate
from rephrase_operator.jobs import driver_job, template_hash, worker_job
from rephrase_operator.limits import not_allowed
from rephrase_operator.look import decide
from rephrase_operator.memory import Memory
from rephrase_operator.metrics import Metrics
from rephrase_operator.observed import JobSeen, PodSeen, job_seen, pod_seen
from rephrase_operator.observing import Observer
from rephrase_operator.plan import (
    Action,
    DeleteJob,
    Plan,
    PutOffStop,
    StartDriver,
    StartWorker,
)
from rephrase_operator.price_file import PriceFile
from rephrase_operator.settings import Settings
from rephrase_operator.status import status_of
from rephrase_operator.transitions import Event, changes, events, interruptions, is_urgent
from rephrase_operator.verdict import Cause, true_condition

logger = logging.getLogger(__name__)
_RUN_RESOURCE = (names.GROUP, names.VERSION, names.PLURAL)
_OURS = {names.RUN_LABEL: kopf.PRESENT}
_CHECK_AGAIN_SECONDS = 15
"""After the API server has refused the Jobs of a spec."""
_GRACE_AFTER_GRACE_SECONDS = 30
_STUCK_SECONDS = 120


class Handlers:
    """The operator's handlers and what they share.

    Args:
        settings: the operator's.

    Raises:
        InvalidSpec: the price list cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._price_file = PriceFile(settings.prices)
        self._cluster = Cluster(self.metrics.request)
        self._drivers = DriverClient()
        self._observer = Observer(self._cluster, self._drivers, settings)
        self._memories: dict[str, Memory] = {}
        self._last_look: datetime | None = None

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Declare the handlers to kopf."""
        jobs, pods = ("batch", "v1", "jobs"), ("", "v1", "pods")
        kopf.on.startup(registry=registry)(self.start)
        kopf.on.cleanup(registry=registry)(self.stop)
        kopf.on.probe(registry=registry, id="looks", errors=kopf.ErrorsMode.PERMANENT)(self.probe)
        kopf.index(*jobs, registry=registry, id="jobs", labels=_OURS)(self.index_job)
        kopf.index(*pods, registry=registry, id="pods", labels=_OURS)(self.index_pod)
        kopf.index(*_RUN_RESOURCE, registry=registry, id="outputs")(self.index_output)
        kopf.on.event(*pods, registry=registry, id="gone", labels=_OURS)(self.remember_gone)
        kopf.on.event(*_RUN_RESOURCE, registry=registry, id="counted")(self.note_counted)
        kopf.timer(
            *_RUN_RESOURCE,
            registry=registry,
            id="look",
            interval=self.settings.reconcile_seconds,
            errors=kopf.ErrorsMode.TEMPORARY,
            backoff=self.settings.reconcile_seconds,
        )(self.look)
        kopf.on.delete(*_RUN_RESOURCE, registry=registry, id="drain", backoff=2)(self.drain)

    async def start(self, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
        """Connect."""
        await self._cluster.open()
        await self._drivers.open()

    async def stop(self, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
        """Disconnect."""
        await self._cluster.close()
        await self._drivers.close()

    async def probe(self, **keywords: Any) -> str:  # noqa: ANN401 - kopf's, the indexes among them
        """Whether runs are being looked at.

        Raises:
            RuntimeError: there are some, and no look has ended for too long.
        """
        if self._last_look is not None and len(keywords["outputs"]):
            age = (_now() - self._last_look).total_seconds()
            if age > _STUCK_SECONDS:
                raise RuntimeError(f"no look at any run has ended for {age:.0f} s")
        return str(self._last_look)

    # -- what is there --

    async def index_job(self, *, body: kopf.Body, **_: Any) -> dict[Key, JobSeen]:  # noqa: ANN401
        """Jobs by run."""
        seen = job_seen(body)
        if memory := self._memories.get(seen.owner):
            memory.note_attempt(seen)
        return {_key_of_child(body): seen}

    async def index_pod(self, *, body: kopf.Body, **_: Any) -> dict[Key, PodSeen]:  # noqa: ANN401
        """Pods by run."""
        return {_key_of_child(body): pod_seen(body)}

    async def index_output(self, *, body: kopf.Body, **_: Any) -> dict[str, Claim]:  # noqa: ANN401
        """Runs that are not over, by output."""
        return claim_of(body)

    async def note_counted(self, *, body: kopf.Body, **_: Any) -> None:  # noqa: ANN401
        """Keep in mind which pods a status has counted, even if it is another operator's."""
        if memory := self._memories.get(str(body["metadata"]["uid"])):
            memory.note_counted(body.get("status", {}).get("settling", ()))

    async def remember_gone(self, *, type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: ANN401
        """Keep a deleted pod until the next look has counted it."""
        if type != "DELETED":
            return
        seen = pod_seen(body)
        if seen.role == names.WORKER:  # it may go before the first look of this operator
            memory = self._memories.setdefault(seen.run, Memory())
            if not memory.over:  # nobody counts it any more
                memory.keep(seen, _now())

    # -- a look at a run --

    async def look(
        self,
        *,
        body: kopf.Body,
        **keywords: Any,  # noqa: ANN401 - kopf's, the indexes among them
    ) -> None:
        """Look at a run and do what is next."""
        if body["spec"].get("managedBy", MANAGED_BY) != MANAGED_BY:
            return
        memory = self._memories.setdefault(body["metadata"]["uid"], Memory())
        if not memory.looked:
            memory.looked = True
            await self._say_started(body)
        latest = memory.latest_of(body)
        meta = latest["metadata"]
        key = (str(meta["namespace"]), str(meta["name"]))
        if memory.over or "deletionTimestamp" in meta:
            return
        began = time.perf_counter()
        result = "canceled"
        try:
            await self._look(latest, key, keywords["jobs"], keywords["pods"], keywords["outputs"])
            result = "done"
        except Outdated as outdated:
            result = "outdated"
            memory.latest = outdated.latest
            logger.info("look at an old status", extra={"run": key[1]})
        except Gone:
            result = "gone"
            self._memories[body["metadata"]["uid"]] = Memory(looked=True, over=True)
            self.metrics.forget(*key)
            logger.warning("run is gone", extra={"run": key[1]})
        except Refused as refused:
            result = "refused"
            logger.log(
                logging.INFO if refused.namespace_ends else logging.WARNING,
                "look ended early",
                extra={"run": key[1], "error": str(refused)},
            )
        except Exception:
            result = "error"
            raise
        finally:
            self.metrics.looked(result, time.perf_counter() - began)
        self._last_look = _now()
        self.metrics.last_reconcile.set(self._last_look.timestamp())

    async def _say_started(self, body: kopf.Body) -> None:
        """Of a run that was under way already: there was no operator for a while, or another."""
        status = body.get("status", {})
        if status.get("phase") is None or "completionTime" in status:
            return
        message = f"an operator has started and goes on with this run ({status['phase']})"
        what = {"type": "Normal", "reason": "OperatorStarted", "message": message}
        await self._cluster.tell(body, **what, now=_now())

    async def _look(
        self,
        body: Mapping[str, Any],
        key: Key,
        jobs: Mapping[Key, Iterable[JobSeen]],
        pods: Mapping[Key, Iterable[PodSeen]],
        outputs: Mapping[str, Iterable[Claim]],
    ) -> None:
        memory = self._memories[body["metadata"]["uid"]]
        before = RephraseRunStatus.from_api(dict(body.get("status", {})))
        try:
            run = RephraseRun.from_api(_plain(body))
        except ValidationError as error:
            cause = Cause(Reason.INVALID_SPEC, "; ".join(sentences(error)))
            generation = body["metadata"]["generation"]
            after = refused_status(before, cause, generation=generation, now=_now())
            await self._write(body, memory, before, after, interval=0)
            return
        hashes, unreadable = self._template_hashes(run, memory, jobs.get(key, ()))
        over = true_condition(before, ConditionType.COMPLETE) or true_condition(
            before, ConditionType.FAILED
        )
        await self._observer.call_roll(run, memory, [*jobs.get(key, ()), *pods.get(key, ())])
        if memory.namespace_ends:
            await self._let_go(run, jobs.get(key, ()))
            return
        observed = await self._observer.observe(
            run, before, memory, jobs.get(key, ()), pods.get(key, ())
        )
        now = _now()
        prices = self.prices_of(run)
        refused = None if over else _refusal(run, key, self._claims(run, outputs), prices)
        if refused is None and not over:
            before_it = ahead(self._all_claims(outputs), key)
            refused = not_allowed(run, before, ahead=before_it, settings=self.settings)
        if refused is None and not over:
            refused = unreadable or await self._checked(run, memory, now)
        look = decide(
            run,
            before,
            observed,
            refused=refused,
            prices=prices.known,
            template_hashes=hashes,
            settings=self.settings,
            now=now,
        )
        look = replace(look, applied=await self._apply(run, look.plan, memory))
        after = status_of(look)
        interval = run.spec.observability.status_interval_seconds
        told = interruptions(look.settlement.ended)
        await self._write(body, memory, before, after, interval=interval, told=told)
        if self._memories.get(run.metadata.uid or "") is not memory:
            return  # deleted meanwhile: its series are gone, and must not come back
        self.metrics.transition(before, after, look.settlement.ended)
        if not over:
            which = {"namespace": key[0], "run": key[1], "phase": after.phase}
            logger.info("looked", extra=which | {"actions": len(look.plan.actions)})
        memory.let_go(before)
        budget, deadline = run.spec.scaling.budget, run.spec.scaling.deadline
        self.metrics.record(
            *key,
            after,
            budget=(budget.amount, budget.currency) if budget is not None else None,
            deadline=deadline.timestamp() if deadline is not None else None,
            expected_rate=expected_rate(look),
            fresh=look.progress is not None and look.progress.units.planned > 0,
        )

    def prices_of(self, run: RephraseRun) -> PoolPrices:
        """What is known of the prices of a run's pools, by its spec and the price list as it is now."""
        found = pool_prices(run.spec, self._price_file.current())
        self.metrics.price_list_refused.set(self._price_file.refused)
        return found

    async def _let_go(self, run: RephraseRun, jobs: Iterable[JobSeen]) -> None:
        """Delete the Jobs of a run whose namespace is being deleted.

        Since 1.33 its pods go first, and all else only when there are none. But a Job with a limit for each
        index keeps its last failed pod until it has made another, which it cannot: one waits for the other.
        """
        for job in list(jobs):  # kopf changes its index while we wait
            if job.owner == run.metadata.uid and not job.deleting:
                logger.info("namespace ends", extra={"run": run.metadata.name, "job": job.name})
                await self._cluster.delete_job(run.metadata.namespace or "", job.name, job.uid)

    def _claims(self, run: RephraseRun, outputs: Mapping[str, Iterable[Claim]]) -> list[Claim]:
        """Of live runs on the output of this one."""
        return [c for c in outputs.get(canonical_uri(run.spec.output.uri), ()) if self._lives(c)]

    def _all_claims(self, outputs: Mapping[str, Iterable[Claim]]) -> list[Claim]:
        return [claim for uri in outputs for claim in outputs[uri] if self._lives(claim)]

    def _lives(self, claim: Claim) -> bool:
        return claim.uid not in self._memories or not self._memories[claim.uid].over

    async def _checked(self, run: RephraseRun, memory: Memory, now: datetime) -> Cause | None:
        """Let the API server look at the Jobs this spec asks for, once for each generation."""
        same = memory.checked_generation == run.metadata.generation
        if same and (memory.refused is None or not _passed(memory.checked_at, now)):
            return memory.refused
        wanted = [driver_job(run, settings=self.settings)] + [
            self._worker_job(run, StartWorker(0, 1, pool.name, 0, "")) for pool in run.spec.pools()
        ]
        memory.refused = None
        for job in wanted:
            try:
                await self._cluster.create_job(job, dry_run=True)
            except NameTaken as error:
                memory.refused = Cause(
                    Reason.NAME_CONFLICT, f"{error}; delete it, or give this run another name"
                )
            except Refused as refused:
                memory.namespace_ends |= refused.namespace_ends
                if not refused.for_good:
                    raise
                memory.refused = Cause(
                    Reason.POD_TEMPLATE_REJECTED,
                    f"the API server refuses Job {job['metadata']['name']}: {refused.message}",
                )
        memory.checked_generation, memory.checked_at = run.metadata.generation, now
        return memory.refused

    def _template_hashes(
        self, run: RephraseRun, memory: Memory, jobs: Iterable[JobSeen]
    ) -> tuple[Mapping[str, str], Cause | None]:
        """Of the Jobs the spec asks for now: of each pool by its name, of the driver by "".

        And why none can be made of it: an overlay is no pod template. What runs then goes on, and is still
        counted, stopped and deleted.
        """
        if memory.hashed_generation == run.metadata.generation:
            return memory.hashes, None
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "": partial(driver_job, run, settings=self.settings)
        }
        for pool in run.spec.pools():
            makers[pool.name] = partial(self._worker_job, run, StartWorker(0, 1, pool.name, 0, ""))
        there = {job.pool: job.template_hash for job in jobs if job.owner == run.metadata.uid}
        hashes: dict[str, str] = {}
        cause = None
        for name, make in makers.items():
            try:
                hashes[name] = template_hash(make())
            except InvalidSpec as error:
                hashes[name] = there.get(name, "")
                cause = Cause(Reason.POD_TEMPLATE_REJECTED, str(error))
        if cause is None:
            memory.hashes, memory.hashed_generation = hashes, run.metadata.generation
        return hashes, cause

    def _worker_job(self, run: RephraseRun, action: StartWorker) -> dict[str, Any]:
        (pool,) = (pool for pool in run.spec.pools() if pool.name == action.pool)
        return worker_job(
            run,
            pool,
            slot=action.slot,
            attempt=action.attempt,
            start=action.start,
            avoid=action.avoid,
            stop_at=action.stop_at,
            units=action.units,
            settings=self.settings,
        )

    # -- what is done --

    async def _apply(self, run: RephraseRun, todo: Plan, memory: Memory) -> bool:
        """Carry out a plan; True if nothing is left of it. What failed is planned again at the next look."""
        results = await asyncio.gather(
            *(self._carry_out(run, action, memory) for action in todo.actions)
        )
        return all(results)

    async def _carry_out(
        self,
        run: RephraseRun,
        action: Action,
        memory: Memory,
    ) -> bool:
        namespace, name = run.metadata.namespace or "", run.metadata.name
        kind = type(action).__name__
        result = "done"
        try:
            if isinstance(action, StartDriver):
                job = driver_job(run, settings=self.settings)
                memory.note_made(job_seen(await self._cluster.create_job(job)))
            elif isinstance(action, StartWorker):
                job = self._worker_job(run, action)
                memory.note_made(job_seen(await self._cluster.create_job(job)))
            elif isinstance(action, DeleteJob):
                await self._cluster.delete_job(namespace, action.name, action.uid)
                memory.made.pop(action.uid, None)
            elif isinstance(action, PutOffStop):
                until = action.until.isoformat() if action.until is not None else None
                told = {names.STOP_AT_ANNOTATION: until}
                await self._cluster.annotate_pod(namespace, action.pod, action.uid, told)
            else:
                await self._cluster.delete_run(namespace, name, run.metadata.uid or "")
        except ComingAndGoing:
            result = "later"
        except NameTaken as taken:
            result = "refused"
            memory.checked_generation, memory.checked_at = run.metadata.generation, _now()
            memory.refused = Cause(Reason.NAME_CONFLICT, str(taken))
        except Refused as refused:
            memory.namespace_ends |= refused.namespace_ends
            result = "later" if refused.namespace_ends else "refused"
            logger.log(
                logging.INFO if refused.namespace_ends else logging.WARNING,
                "action refused",
                extra={"run": name, "action": kind, "code": refused.code, "error": refused.message},
            )
            if refused.for_good:
                memory.checked_generation, memory.checked_at = run.metadata.generation, _now()
                memory.refused = Cause(Reason.POD_TEMPLATE_REJECTED, refused.message)
        self.metrics.actions.labels(kind, result).inc()
        logger.info("action", extra={"run": name, "action": str(action), "result": result})
        return result == "done"

    async def _write(
        self,
        body: Mapping[str, Any],
        memory: Memory,
        before: RephraseRunStatus,
        after: RephraseRunStatus,
        *,
        interval: float,
        told: Iterable[Event] = (),
    ) -> None:
        """Write what changed: conditions at once, numbers now and then; tell transitions as Events.

        Args:
            body: the run.
            memory: of it.
            before: status as it was last written.
            after: as it is now.
            interval: seconds between two writes of numbers.
            told: what else is to be told once it is written.
        """
        now = _now()
        patch = changes(before.to_api(), after.to_api())
        recent = memory.written_at is not None and not _passed(memory.written_at, now, interval)
        if not patch or (recent and not is_urgent(before, after)):
            return
        memory.latest = await self._cluster.patch_status(body, patch)
        memory.written_at = now
        for event in (*events(before, after), *told):
            what = {"type": event.type, "reason": event.reason, "message": event.message}
            await self._cluster.tell(body, **what, now=now)

    # -- the end of a run object --

    async def drain(
        self,
        *,
        body: kopf.Body,
        **keywords: Any,  # noqa: ANN401 - kopf's, the indexes among them
    ) -> None:
        """Stop workers and driver of a deleted run before it goes; dataset and ledger stay."""
        jobs: Mapping[Key, Iterable[JobSeen]] = keywords["jobs"]
        pods: Mapping[Key, Iterable[PodSeen]] = keywords["pods"]
        meta = body["metadata"]
        key, uid = (str(meta["namespace"]), str(meta["name"])), meta["uid"]
        workers = body["spec"].get("workers", {})
        grace = workers.get("terminationGracePeriodSeconds", 60) + _GRACE_AFTER_GRACE_SECONDS
        deadline = datetime.fromisoformat(meta["deletionTimestamp"]) + timedelta(seconds=grace)
        deleted: set[str] = set()
        told = False
        while True:
            vanished = self._memories.get(uid, Memory()).vanished
            mine = [j for j in jobs.get(key, ()) if j.owner == uid and j.uid not in vanished]
            for job in mine:
                if not job.deleting and job.uid not in deleted:
                    await self._cluster.delete_job(key[0], job.name, job.uid)
                    deleted.add(job.uid)
            left = [
                pod
                for pod in pods.get(key, ())
                if pod.run == uid and not pod.terminal and pod.uid not in vanished
            ]
            if not left and all(job.deleting for job in mine):
                break
            if _now() > deadline:
                logger.warning("pods outlive the run", extra={"run": key[1], "pods": len(left)})
                break
            if not told:
                told = True
                message = f"{len(left)} pods save their samples before the run is deleted"
                await self._say_terminating(body, message)
            await asyncio.sleep(0.5)
        self._memories[uid] = Memory(over=True)  # its pods' objects go after it
        self.metrics.forget(*key)

    async def _say_terminating(self, body: kopf.Body, message: str) -> None:
        try:
            await self._cluster.patch_status(body, {"phase": "Terminating"})
        except (Gone, Outdated, Refused) as error:  # nothing depends on it
            logger.info("phase not written", extra={"error": str(error)})
        await self._cluster.tell(
            body, type="Normal", reason="Draining", message=message, now=_now()
        )


def _refusal(
    run: RephraseRun, key: Key, claims: Iterable[Claim], prices: PoolPrices
) -> Cause | None:
    """Why the spec is not accepted, as far as the API server's schema could not tell."""
    if problems := problems_of(run):
        return Cause(Reason.INVALID_SPEC, "; ".join(problems))
    if run.spec.scaling.budget is not None and prices.unknown:
        return Cause(
            Reason.PRICE_MISSING,
            "spec.scaling.budget needs a price of every pool; set pricePerGPUHour of "
            f"{', '.join(prices.unknown)}: {'; '.join(prices.unknown.values())}",
        )
    if (other := holder(claims, key)) is not None:
        return Cause(
            Reason.OUTPUT_IN_USE,
            f"{run.spec.output.uri} is the output of the run {'/'.join(other)}; delete that one, or name "
            "another output",
        )
    return None


def _key_of_child(body: kopf.Body) -> Key:
    meta = body["metadata"]
    return str(meta["namespace"]), str(meta["labels"][names.RUN_LABEL])


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in ("apiVersion", "kind", "metadata", "spec")}


def _passed(since: datetime | None, now: datetime, seconds: float = _CHECK_AGAIN_SECONDS) -> bool:
    return since is None or now >= since + timedelta(seconds=seconds)


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the edge that hands it to the pure ones
