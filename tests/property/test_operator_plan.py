"""The invariants at the head of `plan`, over a small cluster that carries plans out."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api import names
from rephrase_operator.settings import Settings
from support.looks import two_pools
from support.small_cluster import Cluster

ONE: dict[str, Any] = {"workers": {"max": 3}}
POOLS = two_pools({"max": 2}, {"max": 2}, max=3)
ENDINGS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "preempted": (75, {"disruption": "EvictionByEvictionAPI"}),
    "killed": (137, {"disruption": "TerminationByKubelet", "reason": "Terminated"}),
    "failed": (1, {"reason": "Error"}),
    "refused": (69, {"reason": "Error", "message": "AccessRefused: x"}),
    "done": (0, {"reason": "Completed"}),
    "drained": (75, {}),
    "lost": (137, {"reason": "ContainerStatusUnknown"}),
    "rejected": (None, {"reason": "OutOfcpu"}),
}
EVENTS = st.sampled_from(
    [
        *("look", "look", "look", "wait", "wait", "lost patch", "restart", "worked", "vanished"),
        *("silent", "scale", "image", "driver dies", "driver silent", "no nodes", "nodes"),
        *ENDINGS,
    ]
)
STORY = st.lists(st.tuples(EVENTS, st.integers(0, 5)), max_size=40)
Story = list[tuple[str, int]]


def live_through(cluster: Cluster, story: Story) -> None:
    for _ in range(3):
        cluster.look()
        cluster.pass_time(1)
    for event, number in story:
        running = [pod for pod in cluster.live() if pod.phase == "Running"]
        pod = running[number % len(running)] if running else None
        match event:
            case "look":
                cluster.look()
            case "lost patch":
                cluster.look(written=False)
            case "wait":
                cluster.pass_time((5, 30, 60, 120, 600, 1)[number])
            case "restart":
                cluster.restart()
            case "scale":
                cluster.scale(number)
            case "image":
                cluster.change_image()
            case "no nodes" | "nodes":
                cluster.nodes = 0 if event == "no nodes" else 10
            case "driver silent":
                cluster.answers = not cluster.answers
            case "driver dies":
                for driver in cluster.live(names.DRIVER):
                    cluster.ends(driver, 1, reason="Error")
            case "worked" if pod is not None:
                cluster.worked.add(pod.uid)
            case "vanished" if pod is not None:
                cluster.vanish(pod.uid)
            case "silent" if pod is not None:
                cluster.pods[pod.uid] = replace(
                    pod, node="silent", deletion=cluster.now, disruption="DeletionByTaintManager"
                )
            case _ if pod is not None and event in ENDINGS:
                code, more = ENDINGS[event]
                cluster.ends(pod, code, **more)
            case _:
                pass


@settings(max_examples=200)
@given(story=STORY, pools=st.booleans())
def test_after_all_faults_the_wanted_workers_run_and_every_pod_is_counted_once(
    story: Story, *, pools: bool
) -> None:
    cluster = Cluster(POOLS if pools else ONE)

    live_through(cluster, story)
    cluster.calm()

    wanted = min(cluster.run.spec.workers.max, 4 if pools else 10)
    owners = {job.uid: job for job in cluster.jobs.values()}
    templates = [owners[pod.owner].template_hash for pod in cluster.ready()]
    assert templates == [f"t{cluster.template}"] * wanted
    assert len(cluster.jobs) == wanted + 1
    assert cluster.status.observed_generation == cluster.generation
    assert sorted(cluster.counted) == sorted(cluster.used.keys() - cluster.lost)
    settled = sum(pool.gpu_seconds for pool in cluster.status.settled)
    assert settled == sum(cluster.used[uid] for uid in cluster.counted)


@settings(max_examples=20)
@given(STORY)
def test_a_stop_leaves_no_job_and_its_end_brings_all_back(story: Story) -> None:
    cluster = Cluster(ONE)

    live_through(cluster, story)
    cluster.edit(suspend=True)
    for uid in [uid for uid, pod in cluster.pods.items() if pod.node == "silent"]:
        cluster.vanish(uid)
    cluster.calm()

    assert cluster.jobs == {}
    assert cluster.status.phase == "Suspended"

    cluster.edit(suspend=False)
    cluster.calm()

    assert len(cluster.ready()) == cluster.run.spec.workers.max


@settings(max_examples=20)
@given(STORY)
def test_the_end_of_a_run_leaves_no_job_and_then_no_run(story: Story) -> None:
    cluster = Cluster(ONE)
    cluster.edit(ttlSecondsAfterFinished=0)

    live_through(cluster, story)
    cluster.committed, cluster.finished, cluster.answers = cluster.planned, True, True
    last = cluster.watch(30)

    assert cluster.jobs == {}
    assert cluster.status.phase == "Succeeded"
    assert [type(action).__name__ for action in last.actions] == ["DeleteRun"]


def test_a_preempted_worker_is_back_before_the_back_off_would_let_it() -> None:
    cluster = Cluster({"workers": {"max": 1}})
    cluster.calm()
    waits = []

    for _ in range(12):
        (pod,) = cluster.live()
        cluster.ends(pod, 75, disruption="EvictionByEvictionAPI")
        since = cluster.now
        while not any(one.phase == "Running" for one in cluster.live()):
            cluster.pass_time(5)
            cluster.look()
        waits.append((cluster.now - since).total_seconds())

    assert max(waits) <= 30
    assert sum(pool.disruptions for pool in cluster.status.settled) >= 11
    assert sum(pool.failures for pool in cluster.status.settled) == 0


@pytest.mark.parametrize("trouble", ["none", "no nodes", "broken"])
def test_a_new_spec_takes_only_a_tenth_of_the_workers_away_at_a_time(trouble: str) -> None:
    cluster = Cluster({"workers": {"max": 20}})
    cluster.nodes = 20
    cluster.watch(10)
    assert len(cluster.ready()) == 20

    cluster.change_image()
    cluster.nodes = 19 if trouble == "no nodes" else 20
    cluster.broken_template = 1 if trouble == "broken" else -1
    fewest = 20
    for _ in range(400):
        cluster.pass_time(5)
        cluster.look()
        fewest = min(fewest, len(cluster.ready()))

    new = [job for job in cluster.jobs.values() if job.template_hash == "t1"]
    assert fewest >= (17 if trouble == "no nodes" else 18)
    assert (len(new) == 20) == (trouble != "broken")
    assert cluster.status.observed_generation == (1 if trouble == "broken" else 2)


@pytest.mark.parametrize("cure", [{"model": {"engine": {"args": ["--a=1"]}}}, {"suspend": True}])
def test_a_worker_that_always_fails_stops_the_run_until_somebody_acts(cure: dict[str, Any]) -> None:
    cluster = Cluster({"workers": {"max": 1}}, settings=Settings(crash_loop_failures=8))
    cluster.broken_template = 0
    cluster.watch(100)

    assert cluster.jobs == {}
    assert (cluster.status.phase, cluster.status.worker_failures) == ("Suspended", 8)
    assert cluster.status.stop is not None
    assert cluster.status.stop.reason == "WorkersNeverReady"

    cluster.broken_template = -1
    cluster.edit(**cure)
    cluster.calm()
    cluster.edit(suspend=False)
    cluster.calm()

    assert len(cluster.ready()) == 1
