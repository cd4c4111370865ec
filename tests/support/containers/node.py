"""A genuine node: kubelet, kube-proxy, CoreDNS, containerd and runc, on a machine of namespaces.

Its pods are containers of images that it pulls from a registry; they reach each other, services, this machine
and nothing beyond.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from support.cluster.binary import DNS, NODE
from support.cluster.builders import holds
from support.cluster.control_plane import ControlPlane
from support.containers.machine import ADDRESS, BRIDGE, CGROUP, GATEWAY, PODS, Machine
from support.tiers import CNI
from support.waiting import wait_until

DOMAIN = "cluster.local"
_SOCKET = "/run/containerd/containerd.sock"


class GenuineNode:
    """The node; a context manager.

    Args:
        plane: of its cluster.
        machine: that it runs on.
        registry: host and port of a registry that speaks plain HTTP.
        name: of its Node.
    """

    def __init__(
        self,
        plane: ControlPlane,
        machine: Machine,
        registry: str,
        name: str = "machine",
    ) -> None:
        self.name = name
        self._plane = plane
        self._machine = machine
        self._registry = registry
        self._folder = machine.folder / "node"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir()
        with ExitStack() as stack:
            self._start(stack, "dns", *self._dns())
            containerd = self._start(
                stack, "containerd", "containerd", f"--config={self._containerd()}"
            )

            def answers() -> bool:
                containerd.check()
                return self._machine.path(_SOCKET).exists()

            wait_until(answers, "containerd listens")
            kubelet = self._start(stack, "kubelet", str(NODE.binary()), "kubelet", *self._kubelet())
            proxy = self._start(
                stack, "kube-proxy", str(NODE.binary()), "kube-proxy", *self._proxy()
            )

            def is_ready() -> bool:
                kubelet.check()
                proxy.check()
                found = self._plane.client().find("nodes", self.name)
                return found is not None and holds(found, "Ready")

            wait_until(is_ready, "the node is ready", within=120)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ctr(self, *arguments: str) -> str:
        """What containerd's own client says of the pods' containers."""
        return self._machine.run("ctr", "--namespace=k8s.io", *arguments)

    def _start(self, stack: ExitStack, name: str, *command: str) -> Any:  # noqa: ANN401
        program = self._machine.program(name, command)
        stack.callback(program.kill)
        program.start()
        return program

    def _dns(self) -> list[str]:
        zone = f"kubernetes {DOMAIN} {{\n kubeconfig {self._plane.kubeconfig}\n}}"
        config = f".:53 {{\nbind {GATEWAY}\nerrors\n{zone}\n}}\n"
        return [str(DNS.binary()), "-conf", str(_write(self._folder / "Corefile", config))]

    def _containerd(self) -> Path:
        networks = self._folder / "networks"
        networks.mkdir()
        _write(networks / "pods.conflist", json.dumps(_NETWORK))
        mirror = self._folder / "registries" / self._registry
        mirror.mkdir(parents=True)
        (mirror / "hosts.toml").write_text(f'[host."http://{self._registry}"]\n')
        return _write(
            self._folder / "containerd.toml",
            f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{self._registry}/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
cni = {{bin_dir = "{CNI}", conf_dir = "{networks}"}}
registry = {{config_path = "{mirror.parent}"}}
""",
        )

    def _kubelet(self) -> list[str]:
        access = self._plane.access_as(f"system:node:{self.name}", "system:nodes")
        kubeconfig = access.write_kubeconfig(self._folder / "kubelet.kubeconfig")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(self._plane.authority)},
            },
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "clusterDNS": [GATEWAY],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "evictionHard": {"memory.available": "100Mi"},  # the disk is not this node's alone
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            "nodeStatusUpdateFrequency": "4s",
            "resolvConf": "",
        }
        file = _write(self._folder / "kubelet.yaml", yaml.safe_dump(config))
        return [
            f"--config={file}", f"--kubeconfig={kubeconfig}", f"--hostname-override={self.name}",
            f"--node-ip={ADDRESS}",
        ]  # fmt: skip

    def _proxy(self) -> list[str]:
        access = self._plane.access_as("system:kube-proxy")
        kubeconfig = access.write_kubeconfig(self._folder / "kube-proxy.kubeconfig")
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": PODS,
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"
            },
            "hostnameOverride": self.name,
            "mode": "nftables",
        }  # fmt: skip
        file = _write(self._folder / "kube-proxy.yaml", yaml.safe_dump(config))
        return [f"--config={file}"]


_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS, "gateway": GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
