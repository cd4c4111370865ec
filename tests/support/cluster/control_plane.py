"""A genuine Kubernetes control plane on this machine: real etcd, API server, controllers and scheduler.

Everything listens on free ports of 127.0.0.1 and ends with the process that started it, even when that is
killed. Several can run at once. Logs of all programs stay in the folder.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from support.cluster.access import Access
from support.cluster.binary import CONTROL_PLANE
from support.cluster.certificates import Authority, Pair, write_key
from support.cluster.client import Client
from support.cluster.wire import Refused, Unreachable
from support.s3 import free_ports
from support.waiting import wait_until

_HERE = "127.0.0.1"
_IN_PODS = "10.0.0.1"  # first of the services' addresses
_NAMES = (
    _HERE,
    "localhost",
    _IN_PODS,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
)
_START_SECONDS = 120.0


class Program:
    """One program of a cluster.

    Args:
        name: of the program, for messages.
        command: that it is.
        log: file that it writes to.
        environment: beside that of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its process; it has been started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, anew if it has ended."""
        # it dies with us, whatever we die of
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *self._command],
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C at the terminal is for those who started us
            )

    def kill(self) -> None:
        """Kill it as a power cut would; fine if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """See that it lives.

        Raises:
            AssertionError: it ended by itself; says its last words.
        """
        if not self.running:
            said = self.log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self.name} ended; the end of {self.log}:\n{said}")


class ControlPlane:
    """etcd, API server, controllers and scheduler; a context manager.

    Args:
        folder: empty; for data, certificates and logs.
        address: that its API server listens on, for nodes with a network of their own.
        node_grace_seconds: how long a node may be silent until it counts as lost. Kubernetes' own default
            is 50; nothing else about a cluster is quicker here than elsewhere.
        flags: more of them, by program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = _HERE,
        node_grace_seconds: int = 12,
        flags: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self._address = address
        self._node_grace_seconds = node_grace_seconds
        self._more_flags = flags
        for name in ("certificates", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        etcd, peers, secure, scheduler = free_ports(4)
        self.server = f"https://{address}:{secure}"
        self._authority = Authority(folder / "certificates")
        self.access = self.access_as("admin", "system:masters")
        self.kubeconfig = self.access.write_kubeconfig(folder / "kubeconfig")
        self.etcd = self._program("etcd", _etcd(folder, etcd, peers))
        self.api_server = self._program("kube-apiserver", self._api_server_flags(etcd, secure))
        self.controllers = self._program("kube-controller-manager", self._controller_flags())
        self.scheduler = self._program("kube-scheduler", self._scheduler_flags(scheduler))

    @property
    def programs(self) -> tuple[Program, ...]:
        """In the order they are started in."""
        return self.etcd, self.api_server, self.controllers, self.scheduler

    @property
    def authority(self) -> Path:
        """Certificate that all of it trusts."""
        return self._authority.file

    def access_as(self, user: str, *groups: str) -> Access:
        """Access for a user of these groups, by a certificate of its own."""
        pair = self._authority.issue(user, groups)
        return Access(self.server, self._authority.file, pair.certificate, pair.key)

    def client(self) -> Client:
        """A client that may do everything."""
        return Client(self.access)

    def __enter__(self) -> Self:
        try:
            self.etcd.start()
            self.api_server.start()
            self.wait_until_ready()
            self.controllers.start()
            self.scheduler.start()
            wait_until(self._has_service_accounts, "the controllers work", within=_START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs):
            program.kill()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)  # large, and of no use to anybody

    def wait_until_ready(self) -> None:
        """Wait until the API server serves all it has.

        Raises:
            AssertionError: it does not, or a program ended.
        """
        client = self.client()

        def ready() -> bool:
            self.etcd.check()
            self.api_server.check()
            try:
                return client.wire.text("/readyz") == "ok"
            except (Refused, *Unreachable):
                return False

        wait_until(ready, "the API server is ready", within=_START_SECONDS)

    def _has_service_accounts(self) -> bool:
        self.controllers.check()
        self.scheduler.check()
        return self.client().in_namespace("default").find("serviceaccounts", "default") is not None

    # -- how each is started ----------------------------------------------------------------------

    def _program(self, name: str, flags: Sequence[str]) -> Program:
        more = flags_of(self._more_flags.get(name, {}))
        command = [str(CONTROL_PLANE.binary()), name, *flags, *more]
        return Program(name, command, self.folder / "logs" / f"{name}.log")

    def _component_kubeconfig(self, name: str) -> str:
        file = self.folder / "certificates" / f"{name}.kubeconfig"
        return str(self.access_as(f"system:{name}").write_kubeconfig(file))

    def _api_server_flags(self, etcd: int, port: int) -> list[str]:
        serving: Pair = self._authority.issue("kube-apiserver", names=(*_NAMES, self._address))
        to_kubelets: Pair = self._authority.issue("kube-apiserver-client", ("system:masters",))
        self._accounts_key = write_key(self.folder / "certificates" / "service-accounts.key")
        return flags_of({
            "etcd-servers": f"http://{_HERE}:{etcd}",
            "bind-address": self._address,
            "advertise-address": self._address,
            "secure-port": port,
            "tls-cert-file": serving.certificate,
            "tls-private-key-file": serving.key,
            "client-ca-file": self._authority.file,
            "kubelet-client-certificate": to_kubelets.certificate,
            "kubelet-client-key": to_kubelets.key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._accounts_key,
            "service-account-signing-key-file": self._accounts_key,
            "authorization-mode": "Node,RBAC",
            "service-cluster-ip-range": "10.0.0.0/24",
            "allow-privileged": "true",
            # it wants no loopback address
            "endpoint-reconciler-type": "none" if self._address == _HERE else "lease",
            "max-requests-inflight": 1600,
            "max-mutating-requests-inflight": 800,
        })  # fmt: skip

    def _controller_flags(self) -> list[str]:
        kubeconfig = self._component_kubeconfig("kube-controller-manager")
        return flags_of({
            **_as(kubeconfig),
            "service-account-private-key-file": self._accounts_key,
            "root-ca-file": self._authority.file,
            "use-service-account-credentials": "true",
            "controllers": "*",
            "secure-port": 0,
            "node-monitor-grace-period": f"{self._node_grace_seconds}s",
            "node-monitor-period": "1s",
            "kube-api-qps": 1000,
            "kube-api-burst": 2000,
        })  # fmt: skip

    def _scheduler_flags(self, port: int) -> list[str]:
        kubeconfig = self._component_kubeconfig("kube-scheduler")
        return flags_of({
            **_as(kubeconfig),
            "bind-address": _HERE,
            "secure-port": port,
            "kube-api-qps": 1000,
            "kube-api-burst": 2000,
        })  # fmt: skip


def _etcd(folder: Path, port: int, peers: int) -> list[str]:
    clients = f"http://{_HERE}:{port}"
    flags = flags_of({
        "data-dir": folder / "etcd",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": f"http://{_HERE}:{peers}",
        "log-level": "warn",
    })  # fmt: skip
    return [*flags, "--unsafe-no-fsync"]


def _as(kubeconfig: str) -> dict[str, object]:
    uses = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return {**dict.fromkeys(uses, kubeconfig), "leader-elect": "false"}


def flags_of(values: Mapping[str, object]) -> list[str]:
    """As arguments of a program."""
    return [f"--{name}={value}" for name, value in values.items()]
