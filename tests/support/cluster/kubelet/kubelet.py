"""A kubelet whose containers are local processes: several nodes, served by one thread of this process.

    with Kubelet(client, folder) as kubelet:
        node = kubelet.add_node("spot-1", Shape(gpus=1))
        ...
        node.lose_power()

Pods that the scheduler binds to its nodes run as real processes of this machine (`launcher.py`), so that
signals, exit codes, files and sockets are what they would be. Needs root, for mounts and users; a pod that
runs as root is root of this machine, so only pods of the tests' own belong here. There is one
network, that of this machine: each pod has an address of its own, which its servers must bind to, and there
are no Services but headless ones, whose names the containers know that start later. Images are only names:
pods must carry a `command`.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

from support.cluster.client import Client
from support.cluster.kubelet.addresses import Addresses
from support.cluster.kubelet.host import Host, image_environment
from support.cluster.kubelet.limits import REASON, unsupported
from support.cluster.kubelet.log_server import LogServer
from support.cluster.kubelet.node import Node, Shape
from support.cluster.kubelet.pod import Pod
from support.cluster.kubelet.watching import Watching
from support.cluster.wire import Object, Refused, Unreachable

T = TypeVar("T")
_ASSIGNED = "spec.nodeName!="
_AGAIN_SECONDS = 0.5


class Kubelet:
    """Runs the pods of its nodes; a context manager.

    Args:
        client: that may do everything.
        folder: for logs and volumes, which stay.

    Attributes:
        host: images that cannot be pulled, how long pulls take and the like; may be changed at any time.
        errors: what went wrong in the kubelet itself: a test's kubelet should have none.
    """

    def __init__(self, client: Client, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.host = Host(
            client,
            folder,
            folder / "logs",
            Addresses(),
            _logger(folder / "kubelet.log"),
            image_environment(client.wire.access.server),
        )
        self.errors: list[BaseException] = []
        self._nodes: dict[str, Node] = {}
        self._bound: dict[str, Object] = {}
        self._pods: dict[str, tuple[Pod, asyncio.Task[None]]] = {}
        self._log_server = LogServer(self.host.addresses, folder / "certificates", self._log_files)
        self._loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self._loop.run_forever, name="kubelet", daemon=True)
        pods = Watching(
            client, "pods", self.host.log, self._loop,
            listed=self._see_all, seen=self._see, gone=self._lose_sight, fields=_ASSIGNED,
        )  # fmt: skip
        self._watches = [pods]
        self._adopts = ""
        self._adopted: dict[str, asyncio.Task[None]] = {}
        self._machines: set[asyncio.Task[None]] = set()

    # -- for tests --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._looping.start()
        self.do(self._log_server.start)
        self._watches[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill everything that runs; nodes that were not removed are left as they are."""
        for watching in self._watches:
            watching.stop()
        self.do(self._power_off_all)
        self.do(self._log_server.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._looping.join()
        self._loop.close()
        self.host.close()

    def add_node(self, name: str, shape: Shape = Shape()) -> Node:  # noqa: B008 - it is frozen
        """Register a node, Ready when this returns."""
        node = Node(name, shape, self.host, self)
        self._nodes[name] = node
        node.boot()
        return node

    def adopt(self, annotation: str) -> None:
        """From now on be the machine of every Node that somebody else makes with this annotation.

        It boots when the Node comes, with what that says it has, and is gone at once when the Node goes.
        """
        self._adopts = annotation
        nodes = Watching(
            self.host.client, "nodes", self.host.log, self._loop,
            listed=self._see_all_nodes, seen=self._see_node, gone=self._lose_node,
        )  # fmt: skip
        self._watches.append(nodes)
        nodes.start()

    def remove_node(self, node: Node) -> None:
        """Kill what runs on a node and delete it."""
        node.vanish()
        self._nodes.pop(node.name, None)

    def pod(self, namespace: str, name: str) -> Pod:
        """A pod that it runs, or ran and nobody has deleted yet.

        Raises:
            LookupError: there is none of that name.
        """
        for pod, _ in list(self._pods.values()):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise LookupError(f"no pod {namespace}/{name} on nodes of this kubelet")

    def run_out_of_memory(self, namespace: str, name: str, container: str) -> bool:
        """Kill a container as the kernel kills what exceeds its memory limit; whether it was running."""

        async def kill() -> bool:
            lives = [one for one in self.pod(namespace, name).running if one.name == container]
            for life in lives:
                life.run_out_of_memory()
            return bool(lives)

        return self.do(kill)

    def log_of(self, namespace: str, pod: str) -> str:
        """All that the containers of a pod have written, in all their starts."""
        files = sorted((self.host.logs / namespace).glob(f"{pod}_*/*.log"))
        return "".join(file.read_text(errors="replace") for file in files)

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Carry out work in the kubelet's loop and wait for it; from any thread but that."""

        async def wrapped() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result()

    # -- for nodes, in the loop -------------------------------------------------------------------

    def pods_on(self, node: Node) -> list[Pod]:
        """Pods that run on a node."""
        return [pod for pod, _ in self._pods.values() if pod.node == node.name]

    async def take_up(self, node: Node) -> None:
        """Run what is bound to a node, and nothing else."""
        for uid, (pod, task) in list(self._pods.items()):
            if pod.node == node.name and uid not in self._bound:
                self._pods.pop(uid)
                task.cancel()
        for found in list(self._bound.values()):
            if found["spec"]["nodeName"] == node.name:
                self._see(found)

    async def drop(self, node: Node) -> None:
        """Kill everything on a node and tell nobody."""
        lost = [uid for uid, (pod, _) in self._pods.items() if pod.node == node.name]
        tasks = [self._pods.pop(uid)[1] for uid in lost]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _log_files(self, namespace: str, pod: str, container: str) -> tuple[list[Path], bool]:
        try:
            found = self.pod(namespace, pod)
        except LookupError:
            return [], False
        starts = sorted(
            found.logs.glob(f"{container}-*.log"), key=lambda path: path.stat().st_mtime
        )
        return starts, any(life.name == container for life in found.running)

    async def _power_off_all(self) -> None:
        for machine in self._adopted.values():
            machine.cancel()
        await asyncio.gather(*self._machines, return_exceptions=True)
        for node in list(self._nodes.values()):
            await node.power_off()

    # -- what the API server says -----------------------------------------------------------------

    def _see_all_nodes(self, nodes: list[Object]) -> None:
        there = {node["metadata"]["name"] for node in nodes}
        for name in self._adopted.keys() - there:
            self._lose_node({"metadata": {"name": name}})
        for node in nodes:
            self._see_node(node)

    def _see_node(self, found: Object) -> None:
        name = found["metadata"]["name"]
        if self._adopts in found["metadata"].get("annotations", {}) and name not in self._nodes:
            node = self._nodes[name] = Node(name, Shape.of(found), self.host, self)
            machine = self._adopted[name] = self._loop.create_task(self._be(node), name=name)
            self._machines.add(machine)
            machine.add_done_callback(self._machines.discard)
            machine.add_done_callback(self._ended)

    def _lose_node(self, found: Object) -> None:
        name = found["metadata"]["name"]
        if machine := self._adopted.pop(name, None):
            machine.cancel()
            del self._nodes[name]

    async def _be(self, node: Node) -> None:
        """A machine from its boot until it is cancelled."""
        try:
            while not node.powered:
                try:
                    await node.power_on()
                except (Refused, *Unreachable) as trouble:  # its Node may be gone already
                    self.host.log.warning("%s: boot: %s", node.name, trouble)
                    await asyncio.sleep(_AGAIN_SECONDS)
            await asyncio.Event().wait()
        finally:
            await node.power_off()

    def _see_all(self, pods: list[Object]) -> None:
        there = {pod["metadata"]["uid"] for pod in pods}
        for uid in self._bound.keys() - there:
            self._lose_sight(self._bound[uid])
        for pod in pods:
            self._see(pod)

    def _see(self, found: Object) -> None:
        node = self._nodes.get(found["spec"]["nodeName"])
        uid = found["metadata"]["uid"]
        self._bound[uid] = found
        if node is None or not node.powered or not node.online.is_set():
            return
        if uid in self._pods:
            self._pods[uid][0].update(found)
            return
        pod = Pod(found, self.host, node.address, node.shape.capacity, node.online)
        if lacking := unsupported(found["spec"]):
            node.rejections.insert(0, (REASON, f"not supported: {', '.join(lacking)}"))
        life = pod.reject(*node.rejections.pop(0)) if node.rejections else pod.live()
        task = self._loop.create_task(life, name=pod.name)
        task.add_done_callback(self._ended)
        self._pods[uid] = (pod, task)

    def _lose_sight(self, found: Object) -> None:
        uid = found["metadata"]["uid"]
        self._bound.pop(uid, None)
        node = self._nodes.get(found["spec"]["nodeName"])
        if uid in self._pods and node is not None and node.online.is_set():
            self._pods.pop(uid)[1].cancel()  # deleted by force: nobody is to be told

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.errors.append(error)
            self.host.log.error("%s", task.get_name(), exc_info=error)


def _logger(path: Path) -> logging.Logger:
    logger = logging.Logger(f"kubelet {path}")  # whom nobody else's settings reach
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger
