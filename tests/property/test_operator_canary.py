"""What holds of a canary in a small cluster, whatever happens to it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api import names
from support.small_cluster import UNIT, Cluster

CANARY: dict[str, Any] = {"canary": {"documents": 3 * UNIT - 1}, "workers": {"max": 4}}
MANUAL = {"documents": 3 * UNIT - 1, "approval": "Manual"}
EVENTS = st.lists(
    st.sampled_from(
        [
            *("look", "wait", "wait", "lost patch", "restart", "preempted", "failed", "vanished"),
            *("driver silent", "driver dies", "no nodes", "nodes", "image", "scale"),
        ]
    ),
    max_size=25,
)


def a_cluster(**spec: Any) -> Cluster:  # noqa: ANN401
    """Workers that do a unit in five minutes."""
    cluster = Cluster({**CANARY, **spec})
    cluster.speed = UNIT / 300
    return cluster


def happen(cluster: Cluster, event: str) -> None:
    running = [pod for pod in cluster.live() if pod.phase == "Running"]
    match event:
        case "look":
            cluster.look()
        case "wait":
            cluster.pass_time(60)
            cluster.look()
        case "lost patch":
            cluster.look(written=False)
        case "restart":
            cluster.restart()
        case "preempted" if running:
            cluster.ends(running[0], 75, disruption="EvictionByEvictionAPI")
        case "failed" if running:
            cluster.ends(running[0], 1, reason="Error")
        case "vanished" if running:
            cluster.vanish(running[0].uid)
        case "driver silent":
            cluster.answers = not cluster.answers
        case "driver dies":
            for driver in cluster.live(names.DRIVER):
                cluster.ends(driver, 1, reason="Error")
        case "no nodes" | "nodes":
            cluster.nodes = 0 if event == "no nodes" else 10
        case "image":
            cluster.change_image()
        case "scale":
            cluster.scale(6)
        case _:
            pass


def one_at_most(cluster: Cluster) -> None:
    jobs = [job for job in cluster.jobs.values() if job.role == names.WORKER]
    assert cluster.committed >= cluster.canary_units or len(jobs) <= 1


@settings(max_examples=100)
@given(EVENTS)
def test_there_is_one_worker_until_the_canary_has_passed_and_then_there_are_all(
    story: list[str],
) -> None:
    cluster = a_cluster()

    for event in story:
        happen(cluster, event)
        one_at_most(cluster)
    cluster.answers, cluster.nodes, cluster.broken_template = True, 10, -1
    for _ in range(200):
        cluster.pass_time(60)
        cluster.look()
        one_at_most(cluster)
        if cluster.committed >= cluster.canary_units + 2:
            break

    assert {job.units for job in cluster.jobs.values()} == {0}
    assert len(cluster.ready()) == cluster.run.spec.workers.max
    assert cluster.status.canary is not None
    assert cluster.status.canary.committed == 3


@settings(max_examples=30)
@given(EVENTS)
def test_nobody_works_before_it_is_approved(story: list[str]) -> None:
    cluster = a_cluster(canary=MANUAL)

    for event in story:
        happen(cluster, event)
        one_at_most(cluster)
    cluster.answers, cluster.nodes = True, 10
    cluster.watch(120, 60)
    waiting = cluster.committed
    cluster.restart()
    cluster.watch(20, 60)

    assert (waiting, cluster.committed) == (3, 3)
    assert cluster.jobs == {}
    assert [one.reason for one in cluster.status.conditions if one.type == "Suspended"] == [
        "AwaitingApproval"
    ]

    cluster.edit(canary={**MANUAL, "approved": True})
    cluster.watch(10)

    assert len(cluster.ready()) == cluster.run.spec.workers.max


@settings(max_examples=30)
@given(EVENTS)
def test_one_that_failed_too_much_stays_stopped_until_the_limit_is_raised(
    story: list[str],
) -> None:
    cluster = a_cluster()
    cluster.failed_documents = UNIT

    for event in story:
        happen(cluster, event)
        one_at_most(cluster)
    cluster.answers, cluster.nodes = True, 10
    cluster.watch(120, 60)

    assert (cluster.committed, cluster.jobs) == (3, {})
    assert cluster.status.stop is not None
    assert cluster.status.stop.reason == "FailureLimit"

    cluster.edit(retries={"maxFailedDocuments": {"share": "50%"}})
    cluster.watch(10)

    assert len(cluster.ready()) == cluster.run.spec.workers.max
