"""A run whose model is an endpoint: its key comes from a Secret, as a file, to the workers alone."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cluster.client import Client
from support.cluster.installed import Operator
from support.cluster.kubelet.node import Node
from support.cluster.runs import Runs
from support.endpoint import MODEL, Endpoint, endpoint
from support.s3 import S3
from support.waiting import wait_until

pytestmark = pytest.mark.full


@contextmanager
def serving(tokenizer: Path) -> Iterator[Endpoint]:
    """An endpoint in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()
    context = endpoint(tokenizer)
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(30)
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def test_an_endpoint_is_asked_with_the_key_of_the_secret_which_is_told_to_nobody(
    operator: Operator,
    namespace: Client,
    add_node: Callable[..., Node],
    s3: S3,
    tmp_path: Path,
    model: Path,
) -> None:
    add_node("cpu", cpu="8")
    runs = Runs(namespace, s3, tmp_path, documents=60)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "endpoint"}}
    namespace.apply(secret | {"stringData": {"token": "sk-of-the-secret"}})

    with serving(model) as served:
        served.key = "sk-of-the-secret"
        runs.apply(
            model={
                "name": MODEL,
                "tokenizer": str(model),
                "maxModelLength": 4096,
                "engine": {
                    "type": "OpenAI",
                    "args": None,
                    "openAI": {
                        "baseURL": served.url,
                        "apiKeySecretRef": {"name": "endpoint", "key": "token"},
                    },
                },
            },
            sampling={"maxTokens": 32},
        )
        wait_until(lambda: bool(runs.pods("worker")), "a worker is there", within=120)
        objects = [*runs.jobs(), *runs.pods()]
        run = runs.complete()

    assert run["status"]["progress"]["samples"]["written"] == 60 * 3
    assert {one["Authorization"] for one in served.headers} == {"Bearer sk-of-the-secret"}
    assert "sk-of-the-secret" not in json.dumps([*objects, run])
    assert runs.verify().returncode == 0
