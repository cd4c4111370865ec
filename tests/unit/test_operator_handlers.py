"""What the handlers keep of a run that is gone."""

import gc
from typing import Any

import kopf

from rephrase_api import names
from rephrase_operator.handlers import Handlers
from rephrase_operator.observed import PodSeen
from rephrase_operator.settings import Settings
from support.looks import a_pod_body

RUN = kopf.Body(
    {
        "metadata": {
            **{"namespace": "team", "name": "faq", "uid": "run-uid"},
            "deletionTimestamp": "2026-11-23T09:00:00Z",
        },
        "spec": {},
    }
)


def a_pod(uid: str) -> kopf.Body:
    body: Any = a_pod_body(meta={"uid": uid, "labels": {names.RUN_UID_LABEL: "run-uid"}})
    return kopf.Body(body)


def kept(uid: str) -> int:
    gc.collect()
    return sum(isinstance(one, PodSeen) and one.uid == uid for one in gc.get_objects())


async def test_a_pod_that_goes_is_kept_to_be_counted() -> None:
    handlers = Handlers(Settings())
    await handlers.remember_gone(type="DELETED", body=a_pod("of-a-live-run"))

    assert kept("of-a-live-run") == 1


async def test_a_pod_that_goes_after_its_run_is_not_kept_for_ever() -> None:
    handlers = Handlers(Settings())
    await handlers.drain(body=RUN, jobs={}, pods={})
    await handlers.remember_gone(type="DELETED", body=a_pod("of-a-run-that-is-gone"))

    assert kept("of-a-run-that-is-gone") == 0
