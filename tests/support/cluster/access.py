"""Who may reach a test cluster, and how: the content of a kubeconfig, read and written.

A context that is not named for tests is refused before anything is asked of it, so that no test can ever
touch the cluster that a developer's own kubeconfig speaks of.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONTEXT = "rephrase-tests"
"""Name of the context of every test cluster."""


class NotForTests(Exception):
    """A kubeconfig speaks of a cluster that was not made for tests."""


@dataclass(frozen=True, slots=True)
class Access:
    """A server and credentials for it.

    Attributes:
        server: URL.
        authority: file of the certificate that the server's is checked with.
        certificate: file of the client's certificate; None if a token is used.
        key: file of its private key.
        token: of a ServiceAccount.
    """

    server: str
    authority: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None

    def with_token(self, token: str) -> "Access":
        """The same server for the bearer of a token, who has no certificate."""
        return Access(self.server, self.authority, token=token)

    def write_kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """Write it as a kubeconfig that holds all it needs, and return its path."""
        user: dict[str, str] = {}
        if self.certificate and self.key:
            user["client-certificate-data"] = _encoded(self.certificate)
            user["client-key-data"] = _encoded(self.key)
        if self.token:
            user["token"] = self.token
        cluster = {"server": self.server, "certificate-authority-data": _encoded(self.authority)}
        context = {"cluster": CONTEXT, "user": "user", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": cluster}],
            "contexts": [{"name": CONTEXT, "context": context}],
            "users": [{"name": "user", "user": user}],
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path


def read_kubeconfig(path: Path, folder: Path) -> Access:
    """Read a kubeconfig that `write_kubeconfig` wrote.

    Args:
        path: the kubeconfig.
        folder: for the files of its certificates.

    Raises:
        NotForTests: its current context is not named `CONTEXT`.
    """
    if not is_for_tests(path):
        raise NotForTests(f"{path}: the current context is not {CONTEXT!r}, so it is left alone")
    config = yaml.safe_load(path.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return Access(
        server=cluster["server"],
        authority=_decoded(folder / "ca.crt", cluster["certificate-authority-data"]),
        certificate=_decoded(folder / "client.crt", user["client-certificate-data"]),
        key=_decoded(folder / "client.key", user["client-key-data"]),
    )


def is_for_tests(path: Path) -> bool:
    """Whether a kubeconfig's current context is that of a test cluster."""
    try:
        config: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and config.get("current-context") == CONTEXT


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _decoded(path: Path, data: str) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(base64.b64decode(data))
    return path
