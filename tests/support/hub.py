"""A hub for tests: repositories in memory, behind the requests that huggingface_hub makes.

As the real one does it sends readers of large files on to another address, takes ranges, tells errors by
`X-Error-Code` and gives listings in pages.
"""

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

_PAGE = 2


@dataclass(slots=True)
class Hub:
    """Its repositories, and what it was asked.

    Attributes:
        commits: files by path, by commit, by repository (``datasets/owner/name`` or ``models/...``).
        branches: commits by branch, by repository.
        gated: repositories that nobody may read who does not hold `token`.
        sent: bytes of files that were read, by path.
        requests: method and path of all.
    """

    endpoint: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)

    def push(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """A new commit on a branch with these files; returns its name."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, data in sorted(files.items()):
            digest.update(path.encode() + data)
        commit = digest.hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    # -- requests --

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        path = unquote(request.raw_path.partition("?")[0]) if "%2F" not in request.raw_path else ""
        raw = request.raw_path.partition("?")[0].lstrip("/")
        self.requests.append((request.method, path or raw))
        self.authorizations.append((raw, request.headers.get("Authorization")))
        parts = [unquote(part) for part in raw.split("/")]
        if parts[0] == "bytes":
            return self._bytes(request, "/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
        if parts[0] == "api":
            kind, owner, name, *rest = parts[1:]
            return await self._api(request, f"{kind}/{owner}/{name}", rest)
        if parts[0] != "datasets":
            parts = ["models", *parts]
        kind, owner, name, _, revision, *below = parts
        return self._resolve(request, f"{kind}/{owner}/{name}", revision, "/".join(below))

    def _commit(self, request: web.Request, repository: str, revision: str) -> str:
        if repository not in self.commits:
            raise _error(404, "RepoNotFound")
        if (
            repository in self.gated
            and request.headers.get("Authorization") != f"Bearer {self.token}"
        ):
            raise _error(401, "GatedRepo")
        commit = self.branches[repository].get(revision, revision)
        if commit not in self.commits[repository]:
            raise _error(404, "RevisionNotFound")
        return commit

    async def _api(
        self, request: web.Request, repository: str, rest: list[str]
    ) -> web.StreamResponse:
        what, revision, *below = [*rest, "", ""] if rest else ["", "main"]
        commit = self._commit(request, repository, revision or "main")
        files = self.commits[repository][commit]
        if what in ("", "revision"):
            return _json({"id": repository.partition("/")[2], "sha": commit})
        if what == "paths-info":
            paths = [str(path) for path in (await request.post()).getall("paths")]
            return _json([_about(path, files) for path in paths if _is(path, files)])
        folder = "/".join(below).strip("/")
        if folder and not any(path.startswith(f"{folder}/") for path in files):
            raise _error(404, "EntryNotFound")
        found = sorted(path for path in files if not folder or path.startswith(f"{folder}/"))
        start = int(request.query.get("cursor", 0))
        answer = _json([_about(path, files) for path in found[start : start + _PAGE]])
        if start + _PAGE < len(found):
            query = f"recursive=True&cursor={start + _PAGE}"
            url = f"{self.endpoint}/{request.raw_path.partition('?')[0].lstrip('/')}?{query}"
            answer.headers["Link"] = f'<{url}>; rel="next"'
        return answer

    def _resolve(
        self, request: web.Request, repository: str, revision: str, path: str
    ) -> web.StreamResponse:
        commit = self._commit(request, repository, revision)
        data = self.commits[repository][commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if data is None:
            raise _error(404, "EntryNotFound", headers)
        if path.endswith(".parquet"):  # as those in large file storage: elsewhere
            raise web.HTTPFound(
                f"{self.endpoint.replace('127.0.0.1', 'localhost')}/bytes/{repository.partition('/')[2]}"
                f"/{commit}/{quote(path)}",
                headers=headers,
            )
        etag = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return self._range(request, path, data, headers | {"ETag": f'"{etag}"'})

    def _bytes(self, request: web.Request, name: str, commit: str, path: str) -> web.StreamResponse:
        data = self.commits[f"datasets/{name}"][commit][path]
        return self._range(request, path, data, {"ETag": '"of-the-storage"'})

    def _range(
        self, request: web.Request, path: str, data: bytes, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        wanted = request.http_range
        body = data[wanted]
        status, more = 200, {}
        if "Range" in request.headers:
            start = wanted.start if wanted.start >= 0 else len(data) + wanted.start
            more["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
            status = 206
        if request.method == "GET":
            self.sent[path] += len(body)
        return web.Response(status=status, body=body, headers={**headers, **more})


def _about(path: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    if path not in files:
        return {"type": "directory", "path": path, "oid": "0" * 40}
    digest = hashlib.sha256(files[path]).hexdigest()
    found: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(files[path]),
        "oid": "1" * 40,
    }
    if path.endswith(".parquet"):
        found["lfs"] = {"oid": digest, "size": len(files[path]), "pointerSize": 130}
    return found


def _is(path: str, files: Mapping[str, bytes]) -> bool:
    return path in files or any(one.startswith(f"{path}/") for one in files)


def _json(value: object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.HTTPException:
    kinds = {404: web.HTTPNotFound, 401: web.HTTPUnauthorized}
    return kinds[status](headers={"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})


@asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """Serve a hub on a free port of this machine; it is HF_ENDPOINT."""
    found = Hub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, None, 0)
    await site.start()
    port = next(address[1] for address in runner.addresses if len(address) == 2)
    found.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        await runner.cleanup()
