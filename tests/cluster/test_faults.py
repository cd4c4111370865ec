"""The operator when its API server is bad, when there are two of it, and when a namespace ends.

Operators here are processes of the test, with the token of the installed one's ServiceAccount; the genuine
API server stands behind a proxy that spoils requests and answers on their way.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rephrase_api.v1alpha1.conditions import ConditionType
from support.cluster.access import Access
from support.cluster.builders import a_namespace, holds
from support.cluster.client import Client
from support.cluster.faulty_api import (
    AWAY,
    BROKEN,
    BROKEN_WATCH,
    BUSY,
    CONFLICT,
    EXPIRED,
    LOST,
    RESET,
    Asked,
    FaultyAPI,
    Script,
    Trouble,
    calm,
    stormy,
)
from support.cluster.installed import SYSTEM, Operator
from support.cluster.kubelet.node import Node
from support.cluster.local_operator import LocalOperator
from support.cluster.runs import QUICK, SLOW, Runs
from support.cluster.seen import Seen
from support.cluster.wire import Object
from support.helm import RELEASE
from support.manifests import echo
from support.s3 import S3
from support.waiting import wait_until

AddNode = Callable[..., Node]
SLOWER = echo(concurrency=1, latency=0.5)
FEW = {"limit": {"documents": 60}}
SOON = 20
"""Seconds after the end of all faults within which the operator works again."""


@pytest.fixture(scope="module")
def token(operator: Operator, cluster_client: Client) -> Iterator[str]:
    """The operator's own; the installed one is away meanwhile."""
    operator.stop()
    try:
        yield cluster_client.in_namespace(SYSTEM).token(RELEASE)
    finally:
        operator.start()


@pytest.fixture
def runs(namespace: Client, add_node: AddNode, s3: S3, tmp_path: Path) -> Runs:
    """A namespace with a node, a source and credentials; two slow workers need half a minute."""
    add_node("cpu")
    return Runs(namespace, s3, tmp_path, documents=120)


@pytest.fixture
def api(cluster_client: Client, tmp_path: Path) -> Iterator[FaultyAPI]:
    """A proxy in front of the API server."""
    with FaultyAPI(cluster_client.wire.access, tmp_path / "proxy") as proxy:
        yield proxy


@pytest.fixture
def local(api: FaultyAPI, token: str, tmp_path: Path) -> Iterator[LocalOperator]:
    """An operator behind the proxy."""
    with LocalOperator(api.access(token), tmp_path) as operator:
        yield operator


def once_each(*wanted: tuple[str, str, Trouble]) -> Script:
    """The first request of each verb and resource meets its trouble, dry runs aside."""
    left = list(wanted)

    def script(asked: Asked) -> Trouble | None:
        for one in left:
            if one[:2] == (asked.verb, asked.resource) and not asked.dry:
                left.remove(one)
                return one[2]
        return None

    return script


def counted(run: Object) -> tuple[float, int, int]:
    """GPU seconds, disruptions and failures of ended pods."""
    settled = run["status"].get("settled") or []
    return (
        sum(pool["gpuSeconds"] for pool in settled),
        sum(pool["disruptions"] for pool in settled),
        sum(pool["failures"] for pool in settled),
    )


def running(runs: Runs) -> list[Object]:
    return [
        pod
        for pod in runs.pods("worker")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def evict_one(runs: Runs) -> None:
    """Take a worker away and wait for its end."""
    (pod, *_) = wait_until(lambda: running(runs), "a worker runs", within=60)
    runs.namespace.evict(pod["metadata"]["name"])
    runs.namespace.wait_gone("pods", pod["metadata"]["name"])


def hasten(runs: Runs) -> None:
    """Workers make way for quick ones."""
    runs.namespace.patch("rephraseruns", "test", QUICK)


def complete(runs: Runs, *operators: LocalOperator, within: float = 120) -> Object:
    """Wait until the run is complete and its pods are gone; operators that end are started again."""

    def there() -> bool:
        for operator in operators:
            operator.keep_alive()
        run = runs.get()
        left = runs.namespace.list("pods") or run["status"].get("settling")
        return holds(run, "Complete") and not left

    wait_until(there, "it is complete, and its pods are gone and counted", within=within)
    return runs.get()


def check_counted(runs: Runs, run: Object, seen: Seen, *, disruptions: int) -> None:
    """What the operator has counted is what a watch beside it has seen."""
    seconds, disrupted, failed = counted(run)
    assert (disrupted, failed) == (disruptions, 0), run["status"].get("recentFailures")
    assert abs(seconds - seen.seconds) < 0.5
    assert seen.doubles == [], seen.story
    assert runs.verify().returncode == 0


def test_lost_answers_refusals_and_cut_watches_change_nothing(
    runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    api.script = once_each(
        ("post", "jobs", LOST),
        ("post", "jobs", CONFLICT),
        ("post", "jobs", RESET),
        ("patch", "rephraseruns/status", LOST),
        ("patch", "rephraseruns/status", CONFLICT),
        ("patch", "rephraseruns", LOST),
        ("delete", "jobs", LOST),
        ("delete", "jobs", BUSY),
        ("watch", "pods", EXPIRED),
        ("watch", "jobs", AWAY),
        ("watch", "rephraseruns", BROKEN),
    )
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOW, source=FEW)
        wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
        api.cut_watches()
        evict_one(runs)
        run = complete(runs, local)

    assert api.troubles.total() == 11, api.troubles
    assert len(seen.jobs) == 4, seen.jobs  # one of the driver, one of each worker, one more
    check_counted(runs, run, seen, disruptions=1)
    assert local.starts == 1


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_a_run_in_a_storm_counts_every_pod_once(
    seed: int, runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOWER)
        wait_until(lambda: running(runs), "a worker runs", within=60)
        api.script = stormy(seed, 0.4)
        for _ in range(6):
            evict_one(runs)
            api.cut_watches()
        api.script = calm
        hasten(runs)
        run = complete(runs, local)

    assert api.troubles.total() > 10, api.troubles
    check_counted(runs, run, seen, disruptions=6)


@pytest.mark.full
@pytest.mark.parametrize("trouble", [BUSY, BROKEN, AWAY, RESET])
def test_an_api_server_that_refuses_everything_for_a_while_is_back_in_use_soon(
    trouble: Trouble, runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOWER)
        wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
        api.script = lambda _asked: trouble
        api.cut_watches()
        evict_one(runs)
        before = api.troubles.total()
        wait_until(lambda: api.troubles.total() > before + 60, "much is refused", within=120)
        api.script = calm
        began = time.monotonic()
        wait_until(lambda: len(running(runs)) == 2, "another worker runs", within=SOON)
        took = time.monotonic() - began
        hasten(runs)
        run = complete(runs, local)

    assert took < SOON
    assert local.starts == 1
    assert "look ended early" in local.log
    assert "will retry" in local.log
    check_counted(runs, run, seen, disruptions=1)


@pytest.mark.full
def test_watches_that_go_silent_are_noticed(
    runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOWER)
        wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
        api.silence_watches()
        evict_one(runs)
        wait_until(lambda: len(running(runs)) == 2, "another worker runs", within=60)
        hasten(runs)
        run = complete(runs, local)

    assert "is inactive, reconnecting" in local.log
    check_counted(runs, run, seen, disruptions=1)


@pytest.mark.full
def test_what_went_while_no_watch_could_tell_is_found_out(
    runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOWER)
        wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
        api.script = lambda asked: AWAY if asked.verb == "watch" else None
        api.cut_watches()
        wait_until(lambda: api.troubles["503"] > 3, "no watch is open")
        for job in runs.jobs("worker"):
            runs.namespace.delete("jobs", job["metadata"]["name"])
        wait_until(lambda: not runs.pods("worker"), "the workers are gone")
        api.script = once_each(*[("watch", what, EXPIRED) for what in ("jobs", "pods")])
        wait_until(lambda: api.troubles["410 in a watch"] == 2, "all is listed anew", within=60)
        wait_until(lambda: len(running(runs)) == 2, "new workers run", within=90)
        hasten(runs)
        run = complete(runs, local)

    seconds, disruptions, failures = counted(run)
    assert "went unseen" in local.log
    assert (disruptions, failures) == (0, 0)  # whoever deleted the Jobs stopped them
    assert seen.seconds - 0.5 < seconds < seen.seconds + 2 * 90  # nobody saw when they ended
    assert runs.verify().returncode == 0


@pytest.mark.full
def test_a_run_that_went_unseen_is_let_go(runs: Runs, api: FaultyAPI, local: LocalOperator) -> None:
    runs.apply(model=SLOWER)
    wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
    api.script = lambda asked: AWAY if asked.verb == "watch" else None
    api.cut_watches()
    wait_until(lambda: api.troubles["503"] > 3, "no watch is open")
    runs.namespace.delete("rephraseruns", "test")
    patch = [{"op": "remove", "path": "/metadata/finalizers"}]
    runs.namespace.patch("rephraseruns", "test", patch, how="application/json-patch+json")  # type: ignore[arg-type]
    runs.namespace.wait_gone("rephraseruns", "test")
    api.script = once_each(*[("watch", what, EXPIRED) for what in ("jobs", "pods", "rephraseruns")])
    wait_until(lambda: api.troubles["410 in a watch"] == 3, "all is listed anew", within=60)

    wait_until(lambda: "run is gone" in local.log, "that is found out", within=90)
    wait_until(lambda: not runs.jobs(), "garbage collection takes its Jobs", within=60)
    again = runs.manifest("again", model=QUICK["spec"]["model"])
    again["spec"]["output"] = runs.manifest("test")["spec"]["output"]
    runs.namespace.apply(again)
    runs.complete("again")

    assert runs.jobs(run="test") == []


@pytest.mark.full
def test_a_watch_that_ends_with_an_error_restarts_the_operator_and_nothing_else(
    runs: Runs, api: FaultyAPI, local: LocalOperator
) -> None:
    with Seen(runs.namespace) as seen:
        runs.apply(model=SLOWER)
        wait_until(lambda: len(running(runs)) == 2, "two workers run", within=60)
        api.script = once_each(("watch", "pods", BROKEN_WATCH))
        api.cut_watches()
        wait_until(lambda: api.troubles.total() == 1, "the watch has failed")
        wait_until(lambda: local.keep_alive() > 1, "it is started again")
        evict_one(runs)
        hasten(runs)
        run = complete(runs, local)

    check_counted(runs, run, seen, disruptions=1)


@pytest.mark.full
def test_two_operators_make_no_job_twice_and_count_every_pod_once(
    runs: Runs, token: str, cluster_client: Client, api: FaultyAPI, tmp_path: Path
) -> None:
    api.script = stormy(7, 0.15)
    direct = cluster_client.wire.access.with_token(token)
    with (
        Seen(runs.namespace) as seen,
        LocalOperator(direct, tmp_path, "first") as first,
        LocalOperator(api.access(token), tmp_path, "second") as second,
    ):
        runs.apply(model=SLOWER)
        for _ in range(5):
            evict_one(runs)
        hasten(runs)
        run = complete(runs, first, second)
        version = run["metadata"]["resourceVersion"]
        looks = _looks(api)
        wait_until(lambda: _looks(api) > looks, "they have looked again", within=60)

    assert runs.get()["metadata"]["resourceVersion"] == version
    check_counted(runs, run, seen, disruptions=5)


def _looks(api: FaultyAPI) -> int:
    return api.watches.total() // 6


@pytest.mark.full
def test_a_namespace_that_is_deleted_with_a_live_run_vanishes_and_others_go_on(
    runs: Runs,
    token: str,
    cluster_client: Client,
    s3: S3,
    tmp_path: Path,
) -> None:
    name = f"{runs.namespace.namespace}-ends"
    cluster_client.create(a_namespace(name))
    ending = cluster_client.in_namespace(name)
    ending.wait_for("serviceaccounts", "default", bool, "it is there")
    doomed = Runs(ending, s3, tmp_path)
    access: Access = cluster_client.wire.access.with_token(token)
    with LocalOperator(access, tmp_path) as local:
        doomed.apply(model=SLOW, output={"uri": s3.uri("output-doomed")})
        runs.apply(model=SLOW, source=FEW)
        wait_until(lambda: len(running(doomed)) == 2, "two workers run", within=60)
        cluster_client.delete("namespaces", name)
        cluster_client.wait_gone("namespaces", name, within=60)
        said = local.log
        hasten(runs)
        run = complete(runs, local)

    assert holds(run, ConditionType.COMPLETE)
    assert '"severity": "error"' not in said
    assert '"severity": "warning"' not in said
    assert runs.verify().returncode == 0
