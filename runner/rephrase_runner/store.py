"""DOOR to object stores and folders: the ledger's four verbs, conditional reads of the source.

Safety of the whole protocol rests on one promise of this module: of all `put_new` of one name, by
any number of processes, exactly one ever says MINE (or its bytes were the same). Everything else a
store may do (answer late, twice, wrongly or not at all) is turned here into that, into a retry, or
into an error: `AccessRefused` and `StorageFull` (a person must act; the ledger stays resumable) or
`Unclear`.
"""

import asyncio
import contextlib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from random import Random  # noqa: TID251 - jitter of retries; nothing that is written depends on it
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store
from typing_extensions import override

from rephrase_api.errors import AccessRefused, InvalidSpec, RephraseError, StorageFull
from rephrase_api.v1alpha1.shared import Storage
from rephrase_runner import dataset_hub
from rephrase_runner.durations import Durations

logger = logging.getLogger(__name__)
T = TypeVar("T")
AnyStore = LocalStore | S3Store | GCSStore | AzureStore | HTTPStore
SCHEMES = ("file", "s3", "gs", "az", "hf", "https")
_NO_BUCKET = re.compile(r"<Code>(NoSuchBucket|ContainerNotFound)</Code>")  # has no class in obstore
_QUERY = re.compile(r"\?[^\s)]*")
"""In an error's text: what a URL is signed with, ours or the one that the hub sends a reader on to."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# errno EACCES, EPERM, EROFS; ENOSPC, EDQUOT: obstore gives a folder's errors no class of their own
_REFUSED_ERRNO = {13, 1, 30}
_FULL_ERRNO = {28, 122}


OPERATIONS = ("put", "get", "list", "delete")
"""Of `Store.durations`."""
_AWAY_SECONDS = 120
"""How long reads wait for a store that is away."""
_TRIES_PER_WARNING = 8
_REFUSALS = (PermissionDeniedError, UnauthenticatedError)


class Outcome(Enum):
    """Who owns the object after `put_new`."""

    MINE = "mine"
    THEIRS = "theirs"


class Unclear(RephraseError):
    """A put was not answered before its deadline: the object may exist, or may still appear."""

    exit_code = AccessRefused.exit_code
    reason = "StoreUnavailable"


class SourceChanged(Exception):
    """The object read is not the one that was planned (its etag differs), or it is gone."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a store says about an object. `name` is relative to its root; `modified` its clock."""

    name: str
    size: int
    modified: datetime
    etag: str


@dataclass(frozen=True, slots=True)
class Got:
    """An object with its bytes."""

    meta: Meta
    data: bytes


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How to reach a store; empty means the cloud's own defaults, and credentials of the environment.

    Attributes:
        credentials: folder with a file for each value, named like the variables of the cloud's client
            (AWS_ACCESS_KEY_ID ...), as Kubernetes mounts a Secret.
    """

    endpoint: str = ""
    region: str = ""
    allow_http: bool = False
    credentials: str = ""

    @classmethod
    def of(cls, storage: Storage, credentials: str = "") -> Self:
        """The settings of a spec."""
        return cls(storage.endpoint or "", storage.region or "", storage.allow_http, credentials)


def is_local(uri: str) -> bool:
    """Whether `uri` is a folder or file on this machine: ``file://`` or no scheme at all."""
    return "://" not in uri or uri.startswith("file://")


def is_web(uri: str) -> bool:
    """Whether `uri` is a URL, which can be read in ranges and not listed."""
    return uri.startswith(("https://", "http://"))


def local_path(uri: str) -> Path:
    """The absolute path of a local `uri`."""
    return Path(uri.removeprefix("file://")).expanduser().absolute()


def exists(uri: str) -> bool:
    """Whether anything can be at `uri`: a local folder must be there, a bucket is asked later."""
    return not is_local(uri) or local_path(uri).is_dir()


class Store:
    """One folder or one bucket prefix, as names relative to it.

    Args:
        uri: ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file:///path`` or a plain path. To be read only:
            ``https://host``, or a whole URL with the empty name, and a dataset on the hub at a commit.
        options: endpoint and region of S3-compatible stores.
        create: make a missing local folder (an output) instead of refusing it (a source).

    Raises:
        InvalidSpec: unknown scheme, or no such folder.
        AccessRefused: the folder cannot be made.
    """

    def __init__(
        self, uri: str, options: StorageOptions | None = None, *, create: bool = False
    ) -> None:
        self.uri = uri.rstrip("/") if uri.rstrip("/") else uri
        self.local = is_local(uri)
        self._web, self._pinned = is_web(uri), dataset_hub.is_hub(uri)
        options = options or StorageOptions()
        self.durations = {op: Durations() for op in OPERATIONS}
        """How long requests took, retries included, by operation."""
        self.errors = 0
        """Requests that failed after the client's own quick retries; most are then tried again."""
        self._synced: set[Path] = set()
        self._own_refusals = 0
        self._random: Random = Random()  # noqa: S311 - jitter is no secret
        if self.local:
            self.root = local_path(self.uri)
            folder: AnyStore = _local_store(self.root, create=create)
            self._quick = self._normal = self._bulk = folder
        else:
            try:
                self._quick = _remote_store(uri, options, timeout_seconds=3, retry_seconds=3)
                self._normal = _remote_store(uri, options, timeout_seconds=10, retry_seconds=10)
                self._bulk = _remote_store(uri, options, timeout_seconds=120, retry_seconds=10)
                self.uri = self.uri.partition("?")[0]  # what a URL is signed with is told to nobody
            except (
                BaseError
            ) as error:  # for example a key of a Secret that is no setting of the client
                raise InvalidSpec(
                    str(error).splitlines()[0],
                    where=self.uri.partition("?")[0],
                    remedy="Correct the URI, the storage settings, or the Secret's keys.",
                ) from error

    # -- the four verbs --

    async def put_new(
        self,
        name: str,
        data: bytes,
        *,
        deadline_seconds: float | None = 30,
        bulk: bool = False,
        own_name: bool = False,
    ) -> Outcome:
        """Create `name` unless it exists. Exactly one writer of a name is told MINE.

        Anything but a plain success is resolved by reading back (ledger protocol, holes 1 to 3):
        the same bytes mean the put did land, other bytes that somebody else was first, and nothing
        that the same bytes are to be put again.

        Args:
            name: object name.
            data: the same bytes at every retry. Claims and commits carry their writer inside, so equal
                bytes are ours.
            deadline_seconds: give up after this long; None = never (parts and commits).
            bulk: a large object: long time-outs.
            own_name: nobody else can write this name (it carries the writer, or a hash of the
                bytes), so that reading back need only compare sizes.

        Raises:
            Unclear: the deadline passed without an answer; never treat such an object as one's
                own later.
            AccessRefused, StorageFull: a person must act.
        """
        with self.durations["put"].timed():
            return await self._put_new(
                name, data, deadline_seconds=deadline_seconds, bulk=bulk, own_name=own_name
            )

    async def _put_new(
        self, name: str, data: bytes, *, deadline_seconds: float | None, bulk: bool, own_name: bool
    ) -> Outcome:
        client = self._bulk if bulk else self._normal
        tries = _Tries(self, name, seconds=deadline_seconds)
        while True:
            try:
                await obstore.put_async(client, name, data, mode="create", use_multipart=False)
                break
            except (AlreadyExistsError, PreconditionError, NotModifiedError) as conflict:
                tries.last = conflict
            except (BaseError, OSError) as failure:
                tries.note(failure)
            try:
                found = await self._read_back(name, client, size_only=own_name)
            except (BaseError, OSError) as failure:
                tries.note(failure)
            else:
                if found is not None:
                    if found != (len(data) if own_name else data):
                        return Outcome.THEIRS
                    break
            await asyncio.sleep(tries.pause_seconds())
        if self.local:
            await asyncio.to_thread(self._sync_to_disk, name)
        return Outcome.MINE

    async def put_own(self, name: str, data: bytes) -> None:
        """Overwrite an object that only this process writes; bodies carry a counter. One try.

        Raises:
            Unclear: it may or may not have landed; the next beat writes again.
            AccessRefused, StorageFull: a person must act.
        """
        try:
            with self.durations["put"].timed():
                await obstore.put_async(self._quick, name, data, use_multipart=False)
        except (BaseError, OSError) as error:
            self.errors += 1
            self._own_refusals += isinstance(error, _REFUSALS)
            self.raise_if_final(error, name, refused_before=self._own_refusals > 1)
            raise Unclear(str(error).splitlines()[0], where=f"{self.uri}/{name}") from error

    async def get(self, name: str, *, bulk: bool = False) -> Got | None:
        """The object, or None if there is none.

        Args:
            name: object name.
            bulk: a large object: long time-outs, since one covers the whole body.
        """
        client = self._bulk if bulk else self._normal

        async def read() -> Got:
            result = await obstore.get_async(client, name)
            return Got(_meta(result.meta), bytes(await result.bytes_async()))

        with self.durations["get"].timed():
            return await self._reading(name, read)

    async def head(self, name: str) -> Meta | None:
        """What the store says about the object, or None if there is none.

        Raises:
            InvalidSpec: a web server that does not answer requests for ranges.
        """

        async def read() -> Meta:
            if self._web:  # many URLs are signed for GET alone
                got = await obstore.get_async(self._normal, name, options={"range": (0, 1)})
                return replace(_meta(got.meta), etag=_web_version(got.meta))
            return _meta(await obstore.head_async(self._normal, name))

        with self.durations["get"].timed():
            return await self._reading(name, read)

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> list[Meta]:
        """All objects under the folder `prefix`, sorted by name.

        Args:
            prefix: whole path segments, without a trailing slash; empty for everything.
            start_after: a full object name; only later names are returned. Only a saving: the store
                need not list in order, so all of the answer is read and sorted here.
        """

        async def read() -> list[Meta]:
            stream = obstore.list(
                self._normal, prefix or None, offset=None if self.local else start_after
            )
            found = [_meta(item) async for chunk in stream for item in chunk]
            return sorted(
                (meta for meta in found if start_after is None or meta.name > start_after),
                key=lambda meta: meta.name,
            )

        with self.durations["list"].timed():
            return await self._reading(prefix, read) or []

    async def delete(self, name: str) -> None:
        """Remove the object; fine if there is none."""

        async def read() -> None:
            await obstore.delete_async(self._normal, name)

        with self.durations["delete"].timed():
            await self._reading(name, read)

    # -- reading the source --

    def reader(self, name: str, *, size: int, etag: str) -> "RangeReader":
        """A blocking, seekable reader of one version of an object, for threads."""
        return RangeReader(self, name, size=size, etag=etag)

    def read_range(self, name: str, start: int, end: int, *, etag: str) -> bytes:
        """Bytes [start, end) of the version `etag`; blocks, retries while the store is away.

        Raises:
            SourceChanged: there is another version now, or none.
            AccessRefused: refused, or unreachable for minutes.
        """
        options: dict[str, Any] = {"range": (start, end)}
        if etag and not self._web and not self._pinned:
            options["if_match"] = etag
        tries = _Tries(self, name, seconds=_AWAY_SECONDS)
        while True:
            try:
                result = obstore.get(self._bulk, name, options=options)  # type: ignore[arg-type]
                # many web servers ignore the condition, or take no weak etag for it
                if self._web and _web_version(result.meta) != etag:
                    raise SourceChanged(name)
                return bytes(result.bytes())
            except PreconditionError as error:
                raise SourceChanged(name) from error
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)) or (self.local and not self.root.is_dir()):
                    tries.note(error)  # all of the source is away, not this file gone
                raise SourceChanged(name) from error
            except (BaseError, OSError) as error:
                tries.note(error)
            _BLOCKING_PAUSE.wait(tries.pause_seconds())

    # -- inside --

    async def _read_back(
        self, name: str, client: AnyStore, *, size_only: bool
    ) -> bytes | int | None:
        """The bytes of `name` (or its size), or None if it does not exist."""
        try:
            if size_only:
                return (await obstore.head_async(client, name))["size"]
            return bytes(await (await obstore.get_async(client, name)).bytes_async())
        except FileNotFoundError:
            return None

    async def _reading(self, name: str, read: Callable[[], Awaitable[T]]) -> T | None:
        """Call `read` until it answers; None on 404; AccessRefused after about two minutes."""
        tries = _Tries(self, name, seconds=_AWAY_SECONDS)
        while True:
            try:
                return await read()
            except FileNotFoundError:
                return None
            except (BaseError, OSError) as error:
                tries.note(error)
            await asyncio.sleep(tries.pause_seconds())

    def pause_seconds(self, attempt: int) -> float:
        """Exponential back-off with jitter: 0.1 s at first, 10 s at most, half to one and a half of it."""
        return min(10.0, 0.1 * 2.0 ** min(attempt, 10)) * (0.5 + self._random.random())

    def raise_if_final(self, error: Exception, name: str, *, refused_before: bool) -> None:
        """Raise the error a person must act on; return if trying again may help."""
        where = f"{self.uri}/{name}".rstrip("/")
        if isinstance(error, _REFUSALS):
            if not refused_before:  # credentials may just have expired; the client fetches new ones
                return
            raise AccessRefused(
                "access denied by the store",
                where=where,
                remedy="Give these credentials read access (and write access to an output).",
            ) from error
        if isinstance(error, NotSupportedError):
            raise InvalidSpec(
                "the server does not answer requests for ranges",
                where=where,
                remedy="Copy the files to a bucket or folder.",
            ) from error
        if isinstance(error, FileNotFoundError) or _NO_BUCKET.search(str(error)):  # a put: 404
            raise AccessRefused(
                "no such bucket or container", where=where, remedy="Create it, or correct the URI."
            ) from error
        match = _OS_ERROR.search(str(error)) if self.local else None
        if match:
            self._raise_for_errno(int(match[1]), name, error)

    def _sync_to_disk(self, name: str) -> None:
        """Make a new file and the folders above it survive a power loss (obstore does not)."""
        path = self.root / name
        try:
            _sync(path)
            for (
                folder
            ) in path.parents:  # up to the first one whose own entry is known to be on disk
                _sync(folder)
                if folder == self.root or folder in self._synced:
                    break
                self._synced.add(folder)
        except FileNotFoundError:
            return  # swept already: its unit was committed meanwhile
        except OSError as error:
            self._raise_for_errno(error.errno or 0, name, error)
            raise

    def _raise_for_errno(self, errno: int, name: str, error: Exception) -> None:
        where = f"{self.uri}/{name}".rstrip("/")
        if errno in _REFUSED_ERRNO:
            raise AccessRefused(
                os.strerror(errno).lower(),
                where=where,
                remedy="Give this user access to the folder.",
            ) from error
        if errno in _FULL_ERRNO:
            raise StorageFull(
                os.strerror(errno).lower(), where=where, remedy="Free space and run again."
            ) from error


class _Tries:
    """The tries of one operation: what is final, how long to wait, when to give up.

    Args:
        store: whose.
        name: of the object.
        seconds: give up after so long; None = never.
    """

    def __init__(self, store: Store, name: str, *, seconds: float | None) -> None:
        self.last: Exception | None = None
        self._store = store
        self._name = name
        self._give_up = None if seconds is None else time.monotonic() + seconds
        self._number = 0
        self._refusals = 0

    def note(self, error: Exception) -> None:
        """A try failed; raises if no further one can help (a refusal counts from the second on)."""
        self.last = error
        self._store.errors += 1
        self._refusals += isinstance(error, _REFUSALS)
        self._store.raise_if_final(error, self._name, refused_before=self._refusals > 1)

    def pause_seconds(self) -> float:
        """How long to wait before the next try.

        Raises:
            Unclear: it is time to give up.
        """
        where = f"{self._store.uri}/{self._name}".rstrip("/")
        reason = _QUERY.sub("", str(self.last).splitlines()[0])
        if self._give_up is not None and time.monotonic() > self._give_up:
            raise Unclear(
                f"no answer: {reason}",
                where=where,
                remedy="Check the endpoint and the network; running again continues.",
            ) from self.last
        self._number += 1
        if self._number % _TRIES_PER_WARNING == 0:
            logger.warning("the store does not answer", extra={"object": where, "reason": reason})
        return self._store.pause_seconds(self._number - 1)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_BLOCKING_PAUSE = threading.Event()  # never set: a pause of the reading threads


class RangeReader(io.RawIOBase):
    """One version of an object as a seekable file. Blocking; one thread at a time.

    Raises:
        SourceChanged: on any read, once the object is another version.
    """

    def __init__(self, store: Store, name: str, *, size: int, etag: str) -> None:
        super().__init__()
        self._store, self._name, self._size, self._etag = store, name, size, etag
        self._position = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    @override
    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @override
    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._position + size)
        if end <= self._position:
            return b""
        data = self._store.read_range(self._name, self._position, end, etag=self._etag)
        self._position += len(data)
        return data

    @override
    def readall(self) -> bytes:
        return self.read(-1)


async def probe(store: Store, *, token: str) -> None:
    """Prove that `store` can be written and that the second put of a name loses. Leaves nothing.

    Args:
        token: random, so that two probes never meet.

    Raises:
        InvalidSpec: the store ignores put-if-absent; two workers would overwrite each other in
        silence. AccessRefused, StorageFull, Unclear: it cannot be written at all.
    """
    name = f"_run/probe-{token}"
    first = await store.put_new(name, b"first")
    second = await store.put_new(name, b"second")
    try:
        found = await store.get(name)
        listed = [meta.name for meta in await store.list("_run")]
        kept = found is not None and found.data == b"first"
        if first is not Outcome.MINE or second is not Outcome.THEIRS or not kept:
            raise InvalidSpec(
                "this store does not support put-if-absent: a second put of one name succeeded",
                where=f"spec.output.uri {store.uri}",
                remedy="Use a store with conditional writes (S3, GCS, Azure, a POSIX folder).",
            )
        if name not in listed:
            raise InvalidSpec(
                "an object just written is missing from the listing",
                where=f"spec.output.uri {store.uri}",
                remedy="Use a store with strongly consistent listings.",
            )
    finally:
        await store.delete(name)


def _meta(item: Any) -> Meta:  # noqa: ANN401 - obstore's ObjectMeta exists only for type checkers
    return Meta(item["path"], item["size"], item["last_modified"], item["e_tag"] or "")


def _web_version(item: Any) -> str:  # noqa: ANN401 - as above
    """What tells a file behind a URL from a later one, as far as its server tells anything."""
    return item["e_tag"] or f"{item['last_modified'].isoformat()}/{item['size']}"


def _local_store(root: Path, *, create: bool) -> LocalStore:
    if not create and not root.is_dir():
        raise InvalidSpec("no such folder", where=str(root), remedy="Correct the path.")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AccessRefused(
            f"cannot make the folder: {error.strerror}", where=str(root), remedy="Choose another."
        ) from error
    return LocalStore(root)


def _remote_store(
    uri: str, options: StorageOptions, *, timeout_seconds: int, retry_seconds: int
) -> AnyStore:
    parts = urlsplit(uri)
    prefix = parts.path.strip("/") or None
    config: dict[str, Any] = credentials(options.credentials) if options.credentials else {}
    endpoint = _s3_endpoint(options, config) if parts.scheme == "s3" else options.endpoint or ""
    plain = next((one for one in (endpoint, uri) if one.startswith("http://")), None)
    if plain is not None and not options.allow_http:
        raise InvalidSpec(
            "an endpoint without TLS must be allowed",
            where=plain.partition("?")[0],
            remedy="Set allowHTTP: true beside it (--allow-http), or use https://.",
        )
    retry: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=retry_seconds)}
    client: Any = {"timeout": timedelta(seconds=timeout_seconds), "allow_http": options.allow_http}
    if is_web(uri):
        return HTTPStore.from_url(uri, client_options=client, retry_config=retry)
    if dataset_hub.is_hub(uri):
        repository, _ = dataset_hub.split(uri)
        url, headers = dataset_hub.address(
            repository, endpoint=options.endpoint, token=config.get("hf_token", "")
        )
        client |= {"default_headers": headers, "allow_http": url.startswith("http://")}
        return HTTPStore.from_url(url, client_options=client, retry_config=retry)
    for name in ("region", "endpoint"):  # the spec's own fields go before what the Secret says
        if getattr(options, name):
            for spelling in ("", "aws_", "azure_storage_", "azure_"):
                config.pop(f"{spelling}{name}", None)
    if parts.scheme == "s3":
        if endpoint:  # by this spelling, which in the environment goes before all others
            config["aws_endpoint_url_s3"] = endpoint
        if options.endpoint:
            config["virtual_hosted_style_request"] = False
        if options.region:
            config["region"] = options.region
        return S3Store(
            parts.netloc, prefix=prefix, client_options=client, retry_config=retry, **config
        )
    if parts.scheme == "gs":
        return GCSStore(
            parts.netloc, prefix=prefix, client_options=client, retry_config=retry, **config
        )
    if parts.scheme == "az":
        if options.endpoint:
            config["endpoint"] = options.endpoint
        return AzureStore(
            parts.netloc, prefix=prefix, client_options=client, retry_config=retry, **config
        )
    raise InvalidSpec(
        f"this version cannot open {parts.scheme}://",
        where=uri,
        remedy=f"Use one of {', '.join(f'{scheme}://' for scheme in SCHEMES)} or a path.",
    )


_S3_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "ENDPOINT_URL",
    "ENDPOINT",
)
"""How a Secret may spell it; of the environment the first three count."""


def _s3_endpoint(options: StorageOptions, secret: dict[str, Any]) -> str:
    """Where to find S3: as the spec says, else the Secret, else the environment; "" = AWS.

    All spellings are taken out of the Secret's settings.
    """
    told = [secret.pop(name.lower(), "") for name in _S3_ENDPOINTS]
    told += [os.environ.get(name, "") for name in _S3_ENDPOINTS[:3]]
    return options.endpoint or next(filter(None, told), "")


def credentials(folder: str) -> dict[str, str]:
    """A client's settings from a mounted Secret: file AWS_REGION is the setting aws_region.

    Raises:
        AccessRefused: the folder is not there or holds nothing.
    """
    found = {}
    with contextlib.suppress(OSError):
        for path in sorted(Path(folder).iterdir()):
            if not path.name.startswith(".") and path.is_file():  # ..data is Kubernetes' own
                found[path.name.lower()] = path.read_text(encoding="utf-8").strip()
    if not found:
        raise AccessRefused(
            "no credentials there",
            where=folder,
            remedy="The Secret's keys must be named like AWS_ACCESS_KEY_ID.",
        )
    return found
