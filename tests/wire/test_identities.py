"""Without a Secret, a pod reaches its buckets by the identity that the cloud gives it in its own way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from rephrase_runner.store import StorageOptions, Store
from support.loopback import answering

TOKEN = "token-of-the-pod"


class Cloud:
    """Gives credentials to whoever shows the pod's token, and an object to whoever shows those."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "")
        match request.path:
            case "/v1/credentials" if shown == TOKEN:  # EKS Pod Identity's agent
                return web.json_response(
                    {
                        "AccessKeyId": "ASIA-FOR-A-WHILE",
                        "SecretAccessKey": "secret",
                        "Token": "session",
                        "Expiration": "2099-01-01T00:00:00Z",
                    }
                )
            case "/tenant/oauth2/v2.0/token":  # Microsoft Entra
                form = await request.post()
                if (form["client_id"], form["client_assertion"]) == ("client", TOKEN):
                    found = {"access_token": "entra", "token_type": "Bearer", "expires_in": 3600}
                    return web.json_response(found)
            case "/bucket/run/name" if "Credential=ASIA-FOR-A-WHILE/" in shown:
                return self._object()
            case "/container/run/name" if shown == "Bearer entra":
                return self._object()
        self.refused.append(request.path)
        return web.Response(status=403)

    def _object(self) -> web.Response:
        modified = {"Last-Modified": "Mon, 02 Nov 2026 00:00:00 GMT", "ETag": '"1"'}
        return web.Response(body=b"found", headers=modified)


@asynccontextmanager
async def serving(cloud: Cloud) -> AsyncIterator[str]:
    async with answering(cloud.handle) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """The projected token of a ServiceAccount."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return str(path)


async def test_eks_pod_identity_opens_a_bucket(
    token_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud()
    async with serving(cloud) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file)
        store = Store("s3://bucket/run", StorageOptions(url, "eu-central-1", allow_http=True))

        got = await store.get("name")

    assert (got and got.data, cloud.refused) == (b"found", [])


async def test_azure_workload_identity_opens_a_container(
    token_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud()
    async with serving(cloud) as url:
        for name, value in {
            "AZURE_CLIENT_ID": "client",
            "AZURE_TENANT_ID": "tenant",
            "AZURE_AUTHORITY_HOST": url,
            "AZURE_FEDERATED_TOKEN_FILE": token_file,
            "AZURE_STORAGE_ACCOUNT_NAME": "account",  # what the run's part in docs/install.md adds
        }.items():
            monkeypatch.setenv(name, value)
        store = Store("az://container/run", StorageOptions(url, allow_http=True))

        got = await store.get("name")

    assert (got and got.data, cloud.refused) == (b"found", [])
