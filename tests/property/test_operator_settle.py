"""Every ended pod is counted exactly once, whatever is lost, stale or seen twice."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_operator.observed import PodSeen
from rephrase_operator.settle import Settlement, settle
from support.looks import NOW, a_job, a_pod, a_preempted_pod, an_ended_pod, observed

JOBS = [a_job(slot) for slot in range(4)]
PODS = [
    *(an_ended_pod(JOBS[0]), a_preempted_pod(JOBS[0], 1), an_ended_pod(JOBS[1], code=0)),
    *(an_ended_pod(JOBS[2], gpus=4), a_preempted_pod(JOBS[3])),
]
Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ends", "look", "lost", "stale", "restart", "goes"]),
        st.integers(0, len(PODS) - 1),
    ),
    max_size=40,
)


class World:
    """Pods that come, end and go, and an operator that writes a status with bad luck."""

    def __init__(self) -> None:
        self.statuses = [RephraseRunStatus()]
        self.there = {pod.uid: a_live(index) for index, pod in enumerate(PODS)}
        self.gone: set[str] = set()
        self.ended: set[str] = set()

    def step(self, kind: str, index: int) -> None:
        pod = PODS[index]
        match kind:
            case "ends" if pod.uid in self.there:
                self.there[pod.uid] = pod
                self.ended.add(pod.uid)
            case "goes" if pod.uid in self.there and pod.uid in self.ended:
                self.gone.add(pod.uid)  # remembered until a status that lists it was seen
                del self.there[pod.uid]
            case "look":
                self.look(self.statuses[-1], written=True)
            case "lost":
                self.look(self.statuses[-1], written=False)
            case "stale" if len(self.statuses) > 1 and self.only_grew():
                self.look(self.statuses[-2], written=True)
            case "restart":
                self.statuses = [self.statuses[-1]]
            case _:
                pass

    def only_grew(self) -> bool:
        """What the operator remembers of gone pods outlives the status that does not list them yet."""
        old, new = self.statuses[-2:]
        return all(uid in self.there or uid in self.gone for uid in {*new.settling, *old.settling})

    def look(self, status: RephraseRunStatus, *, written: bool) -> None:
        gone = [replace(pod, gone=True) for pod in PODS if pod.uid in self.gone]
        found = settle(status, observed(JOBS, [*self.there.values(), *gone]), now=NOW)
        if written:
            self.statuses.append(status_with(found))
            self.gone -= set(
                status.settling
            )  # written before this look, so it will not be asked again


def a_live(index: int) -> PodSeen:
    pod = PODS[index]
    return a_pod(next(job for job in JOBS if job.uid == pod.owner), 0, name=pod.name, uid=pod.uid)


def status_with(found: Settlement) -> RephraseRunStatus:
    status = RephraseRunStatus(
        settled=tuple(found.pools.values()), settling=found.settling, recent_failures=found.failures
    )
    return RephraseRunStatus.from_api(status.to_api())


@given(STEPS)
def test_every_ended_pod_is_counted_exactly_once(steps: list[Step]) -> None:
    world = World()

    for kind, index in steps:
        world.step(kind, index)
    world.look(world.statuses[-1], written=True)

    counted = [pod for pod in PODS if pod.uid in world.ended]
    (pool,) = world.statuses[-1].settled or (None,)
    assert (pool.gpu_seconds if pool else 0) == sum(600 * max(1, pod.gpus) for pod in counted)
    assert (pool.disruptions if pool else 0) == sum(bool(pod.disruption) for pod in counted)
    failures = [pod for pod in counted if pod.exit_code == 1]
    assert (pool.failures if pool else 0) == len(failures)
    assert len(world.statuses[-1].recent_failures) == len(failures)
    assert len(set(world.statuses[-1].settling)) == len(world.statuses[-1].settling)
