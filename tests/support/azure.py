"""Azurite, the emulator of Azure Blob Storage: installed from npm into a cache when a test asks for it."""

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.s3 import free_ports
from support.waiting import wait_until

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has; its documentation names both."""
CONTAINER = "tests"
_CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rephrase-tests" / "azurite"
)
_INSTALL = ["npm", "install", "--no-audit", "--no-fund", "--prefix"]


@dataclass(frozen=True, slots=True)
class Azure:
    """A container in an Azurite."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """Environment of a process that is to reach it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "NO_PROXY": "127.0.0.1",
        }


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    """A container in an Azurite of its own; skips where there is neither npm nor its registry."""
    program = azurite()
    folder = tmp_path_factory.mktemp("azurite")
    (port,) = free_ports(1)
    command = ["node", str(program), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    listen = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--disableTelemetry"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([*command, *listen], stdout=log, stderr=log, cwd=folder)
    try:
        place = Azure(f"http://127.0.0.1:{port}/{ACCOUNT}")
        wait_until(lambda: _make_container(place.endpoint), "azurite answers", within=60)
        yield place
    finally:
        process.kill()
        process.wait()


def azurite() -> Path:
    """Its blob server, installed if need be."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("azurite: there is no npm here")
    program = _CACHE / VERSION / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        program.parents[5].mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(_CACHE / VERSION),
                f"azurite@{VERSION}",
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            pytest.skip(f"azurite cannot be installed: {done.stderr[-300:]}")
    return program


def _make_container(endpoint: str) -> bool:
    """Create the container, signed with the account's key; False while nobody answers.

    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """
    now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")  # noqa: TID251 - the request's date
    headers = {"x-ms-date": now, "x-ms-version": "2021-12-02"}
    canonical = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{canonical}{resource}"
    signature = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    headers["Content-Length"] = "0"
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        raise AssertionError(f"azurite refuses: {error} {error.read()!r}") from error
    except OSError:
        return False
    return True
