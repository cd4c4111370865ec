"""A namespace of a test's own, gone after it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from support.cluster.builders import a_namespace
from support.cluster.client import Client


@contextmanager
def own_namespace(client: Client, test: str) -> Iterator[Client]:
    """A client within a new namespace, which enforces Pod Security `restricted`.

    Args:
        client: may do everything.
        test: name of the test.
    """
    words = "".join(c if c.isalnum() else "-" for c in test.removeprefix("test_"))
    with new_namespace(client, f"{words[:40].strip('-').lower()}-{os.urandom(3).hex()}") as inside:
        yield inside


@contextmanager
def new_namespace(client: Client, name: str) -> Iterator[Client]:
    """The same of a given name."""
    client.create(a_namespace(name))
    inside = client.in_namespace(name)
    inside.wait_for("serviceaccounts", "default", bool, "it is there")
    yield inside
    client.delete("namespaces", name)
    for pod in inside.list("pods"):  # the next test does not wait for the grace of these
        inside.delete("pods", pod["metadata"]["name"], grace_seconds=0)
