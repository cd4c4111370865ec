"""Sources at URLs: one file or a list of them, read in ranges, noticed when they change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner.listing import Files, ListedFile, Listing, list_files
from rephrase_runner.source import scan
from rephrase_runner.store import SourceChanged, StorageOptions, Unclear
from support.loopback import served

PLAIN = StorageOptions(allow_http=True)


@dataclass(slots=True)
class Site:
    """Files by path with their version; what was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True
    broken: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path))
        path = request.path.lstrip("/")
        if self.broken:
            raise web.HTTPBadRequest(text=f"cannot read {request.url}")
        if path not in self.files:
            raise web.HTTPNotFound
        data = self.files[path]
        headers = {"ETag": self.versions[path]} if path in self.versions else {}
        if "Range" not in request.headers or not self.ranges:
            return web.Response(body=data, headers=headers)
        body = data[request.http_range]
        start = request.http_range.start
        headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        return web.Response(status=206, body=body, headers=headers)


@asynccontextmanager
async def a_site() -> AsyncIterator[Site]:
    found = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.handle, allow_head=False)
    async with served(app) as (host, port):
        found.url = f"http://{host}:{port}"
        yield found


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with a_site() as found:
        yield found


async def listing(uri: str, **changes: object) -> Listing:
    return await list_files(Source.model_validate({"uri": uri, **changes}), PLAIN)


async def read(file: ListedFile, *, start: int = 0, size: int = -1) -> bytes:
    def in_thread() -> bytes:
        reader = Files(PLAIN).open(file)
        reader.seek(start)
        return reader.read(size)

    return await asyncio.to_thread(in_thread)


@pytest.mark.parametrize(
    "path", ["data/a.jsonl", "data/a%20b.jsonl", "a.jsonl?X-Signature=secret%2F", "ü.jsonl#part"]
)
async def test_a_url_is_one_file_that_is_read_in_ranges(site: Site, path: str) -> None:
    for name in ("data/a.jsonl", "data/a b.jsonl", "a.jsonl", "ü.jsonl"):
        site.files[name] = b"0123456789"

    found = await listing(f"{site.url}/{path}")

    (file,) = found.files
    assert found.format is SourceFormat.JSONL
    assert (file.size, file.name) == (10, f"{site.url}/{path.partition('?')[0].partition('#')[0]}")
    assert await read(file, start=3, size=4) == b"3456"


async def test_a_list_of_urls_means_all_of_them_wherever_they_are(site: Site) -> None:
    site.files = {
        "lists/urls.txt": f"# shards\n../data/b.jsonl\n\n{site.url}/a.jsonl?key=1\n".encode(),
        "data/b.jsonl": b"bb",
        "a.jsonl": b"a",
    }

    found = await listing(f"{site.url}/lists/urls.txt")
    fewer = await listing(f"{site.url}/lists/urls.txt", include=["a.*"])

    assert [(file.name, file.size) for file in found.files] == [
        (f"{site.url}/a.jsonl", 1),
        (f"{site.url}/data/b.jsonl", 2),
    ]
    assert [await read(file) for file in found.files] == [b"a", b"bb"]
    assert [file.name for file in fewer.files] == [f"{site.url}/a.jsonl"]
    assert {method for method, _ in site.asked} == {"GET"}


@pytest.mark.parametrize("versions", [('"1"', '"2"'), ('W/"1"', 'W/"2"'), (None, None)])
async def test_a_file_that_changed_since_it_was_planned_is_never_read(
    site: Site, versions: tuple[str | None, str | None]
) -> None:
    def put(data: bytes, version: str | None) -> None:
        site.files["a.jsonl"] = data
        if version is not None:
            site.versions["a.jsonl"] = version

    put(b"first", versions[0])
    (file,) = (await listing(f"{site.url}/a.jsonl")).files
    before = await read(file, size=3)

    put(b"another", versions[1])

    assert before == b"fir"
    with pytest.raises(SourceChanged):
        await read(file)


async def test_a_file_that_is_gone_has_changed(site: Site) -> None:
    site.files["a.jsonl"] = b"first"
    (file,) = (await listing(f"{site.url}/a.jsonl")).files

    del site.files["a.jsonl"]

    with pytest.raises(SourceChanged):
        await read(file)


async def test_what_a_url_is_signed_with_is_not_told_where_its_file_is_broken(site: Site) -> None:
    site.files["a.parquet"] = b"no Parquet"
    source = Source.model_validate({"uri": f"{site.url}/a.parquet?X-Signature=secret"})

    with pytest.raises(InvalidSpec, match=r"a\.parquet: ") as refused:
        await scan(source, storage=PLAIN)

    assert "secret" not in str(refused.value)


async def test_what_a_url_is_signed_with_is_not_told_where_its_server_is_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rephrase_runner.store._AWAY_SECONDS", 0)
    site.broken = True

    with pytest.raises(Unclear, match="400 Bad Request") as unclear:
        await listing(f"{site.url}/a.jsonl?X-Signature=secret")

    assert "secret" not in str(unclear.value)


async def test_what_cannot_be_read_in_ranges_is_refused(site: Site) -> None:
    site.files["a.jsonl"] = b"first"
    site.ranges = False

    with pytest.raises(InvalidSpec, match="does not answer requests for ranges"):
        await listing(f"{site.url}/a.jsonl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ftp://x/a.jsonl", "ftp://x/a.jsonl in it is not a URL"),
        (b"a.jsonl?x=1\na.jsonl?x=2", "two URLs differ in their query alone"),
        (b"missing.jsonl?sig=secret", "there is nothing at http://[^?]*/missing.jsonl\\."),
        (b"# nothing\n", "there are no files at"),
    ],
)
async def test_a_list_that_names_no_files_is_refused(site: Site, content: bytes, said: str) -> None:
    site.files = {"urls.txt": content, "a.jsonl": b"a"}

    with pytest.raises(InvalidSpec, match=said) as refused:
        await listing(f"{site.url}/urls.txt")

    assert "secret" not in str(refused.value)


async def test_an_address_without_tls_must_be_allowed(site: Site) -> None:
    site.files["a.jsonl"] = b"first"

    with pytest.raises(InvalidSpec, match="without TLS must be allowed"):
        await list_files(
            Source.model_validate({"uri": f"{site.url}/a.jsonl?sig=secret"}), StorageOptions()
        )
