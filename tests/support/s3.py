"""S3 servers for the tests: seaweedfs, a real one, and moto, a quick imitation that checks no signature.

Both listen on 127.0.0.1 on free ports, are started once per session when a test first asks for them, and
have one bucket. Each test gets a prefix of its own in it.
"""

import json
import socket
import subprocess
import warnings
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.tiers import weed
from support.waiting import wait_until

REGION = "us-east-1"
BUCKET = "tests"
_KEY, _SECRET = "test-key", "test-secret"
_GRPC_OFFSET = 10_000
"""seaweedfs listens there too, counted from each of its ports."""


@dataclass(frozen=True, slots=True)
class S3:
    """A place in an S3 server for one test.

    Attributes:
        endpoint: URL of the server.
        bucket: exists.
        prefix: folder in the bucket that no other test uses.
    """

    endpoint: str
    bucket: str
    prefix: str

    @property
    def env(self) -> dict[str, str]:
        """Environment of a process that is to reach it, for the cloud's own clients."""
        return {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def credentials(self) -> dict[str, str]:
        """Nothing but the key: where the server is, the manifest must say."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "NO_PROXY")
        return {name: self.env[name] for name in names}

    @property
    def storage(self) -> dict[str, Any]:
        """`spec.source.storage` or `spec.output.storage` of a manifest."""
        return {"endpoint": self.endpoint, "region": REGION, "allowHTTP": True}

    @property
    def options(self) -> str:
        """The same as options of a `rephrase` command."""
        return f"--endpoint {self.endpoint} --region {REGION} --allow-http"

    def uri(self, name: str) -> str:
        """``s3://`` URI of a folder or object of this test."""
        return f"s3://{self.bucket}/{self.prefix}/{name}"

    def client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes as it goes
        """A boto3 client, to look at what was written with other eyes than ours."""
        return _client(self.endpoint)

    def listed(self, name: str) -> list[str]:
        """Names of the objects below a folder of this test, from there on."""
        prefix = f"{self.prefix}/{name}/" if name else f"{self.prefix}/"
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [item["Key"] for page in found for item in page.get("Contents", [])]
        return [key.removeprefix(prefix) for key in keys]

    def download(self, name: str, folder: Path) -> None:
        """A folder of this test as one of this machine."""
        for path in self.listed(name):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            key = "/".join(filter(None, (self.prefix, name, path)))
            self.client().download_file(Filename=str(folder / path), Bucket=self.bucket, Key=key)


@pytest.fixture
def s3(seaweedfs: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A folder of its own in a real S3 server; this process has its environment while the test runs."""
    return _place(seaweedfs, request, monkeypatch)


@pytest.fixture
def moto_s3(
    moto_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> S3:
    """The same in moto: quicker, and it takes any credentials."""
    return _place(moto_server, request, monkeypatch)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a seaweedfs server with the bucket."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server.endpoint


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Endpoint of a moto server with the bucket."""
    with warnings.catch_warnings(action="ignore"):  # of its dependencies, while they are imported
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        _make_bucket(endpoint)
        yield endpoint
    finally:
        server.stop()


class SeaweedFS:
    """A seaweedfs server: master, volume server, filer and S3 gateway in one process.

    Args:
        folder: empty; for data and log.
        address: that its S3 gateway listens on; all else of it listens on 127.0.0.1.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self._folder = folder
        self._address = address
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""

    def __enter__(self) -> "SeaweedFS":
        for _ in range(3):  # somebody else may take a port between our look and its start
            self._start()
            try:
                wait_until(self._ready, "seaweedfs answers", within=60)
            except OSError:
                continue
            _make_bucket(self.endpoint)
            return self
        raise AssertionError(f"seaweedfs does not start:\n{self._log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:  # it takes its time to stop, and nothing of it is kept
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        s3, master, volume, filer = free_ports(4, offset=_GRPC_OFFSET)
        config = self._folder / "s3.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        flags = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
            "volume.port": volume,
            "volume.max": 20,
            "filer": "true",
            "filer.port": filer,
            "s3": "true",
            "s3.port": s3,
            "s3.ip.bind": self._address,
            "s3.config": config,
            "s3.port.iceberg": 0,  # these two would listen on fixed ports
            "s3.port.lance": 0,
        }
        command = [str(weed()), "server", *(f"-{name}={value}" for name, value in flags.items())]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder
            )
        self.endpoint = f"http://{self._address}:{s3}"

    def _ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise OSError("it ended")
        return _answers(self.endpoint)


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, and so was port + `offset`."""
    ports: list[int] = []
    while len(ports) < count:
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            port = listening.getsockname()[1]
        if port + offset <= 65535 and port not in ports and _is_free(port + offset):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _place(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    place = S3(endpoint, BUCKET, f"{name}-{zlib.crc32(request.node.nodeid.encode()):08x}")
    for variable, value in place.env.items():
        monkeypatch.setenv(variable, value)
    return place


def _answers(endpoint: str) -> bool:
    """Whether S3 requests are carried out: seaweedfs listens before it can."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client(endpoint).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def _make_bucket(endpoint: str) -> None:
    _client(endpoint).create_bucket(Bucket=BUCKET)


def _client(endpoint: str) -> Any:  # noqa: ANN401
    with warnings.catch_warnings(action="ignore"):  # of botocore, about what is to come
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
            config=Config(
                connect_timeout=2,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                proxies={"http": "", "https": ""},
                s3={"addressing_style": "path"},
            ),
        )
