"""`spec.source.uri` to the files it means: a file, a folder or a glob, local or in a store.

A file's `uri` alone opens it, from any working folder; its `name` is what the output calls it.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urljoin

from rephrase_api.errors import AccessRefused, InvalidSpec
from rephrase_api.v1alpha1.source import Source, SourceFormat
from rephrase_runner import dataset_hub
from rephrase_runner.store import (
    RangeReader,
    SourceChanged,
    StorageOptions,
    Store,
    credentials,
    is_local,
    is_web,
    local_path,
)

T = TypeVar("T")
SUFFIXES = {
    SourceFormat.PARQUET: (".parquet",),
    SourceFormat.JSONL: (".jsonl", ".ndjson", ".json"),
}

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_FIELD = "spec.source.uri"
_NAMES_SHOWN = 10
_LIST = ".txt"
"""Ending of a URL that names a list of URLs."""
_PARALLEL_URLS = 16


class ReadableFile(Protocol):
    """A planned file: `SourceFile` of `units.py` and `PlannedFile` of `records.py` are such."""

    @property
    def uri(self) -> str:
        """Opens it from anywhere."""

    @property
    def name(self) -> str:
        """What the output calls it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def etag(self) -> str:
        """Version."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the source as listed."""

    uri: str
    name: str
    size: int
    etag: str

    @property
    def told(self) -> str:
        """Its uri for messages and lists: without what a URL is signed with."""
        return _bare(self.uri) if is_web(self.uri) else self.uri


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source, by name, all of one format. `ignored`: names of other files."""

    format: SourceFormat
    files: tuple[ListedFile, ...]
    ignored: tuple[str, ...]


class UnreadableFile(Exception):
    """A source file that cannot be opened or read to its end; the message says why."""


class Files:
    """Opens files by their `uri`; keeps one connection per bucket."""

    def __init__(self, storage: StorageOptions) -> None:
        self._storage = storage
        self._stores: dict[str, Store] = {}

    def open(self, file: ReadableFile) -> RangeReader:
        """A blocking reader of the planned version.

        Raises:
            SourceChanged: its folder is gone; that the file itself is, the first read tells.
        """
        container, name = _split(file.uri)
        store = self._stores.get(container)
        if store is None:
            try:
                store = Store(container, self._storage)
            except InvalidSpec as error:
                if is_local(file.uri):
                    raise SourceChanged(file.uri) from error
                raise
            self._stores[container] = store
        return store.reader(name, size=file.size, etag=file.etag)


async def list_files(source: Source, storage: StorageOptions) -> Listing:
    """The files `source` means, sorted by name.

    A folder is searched to any depth; what begins with ``_`` or ``.`` below it is left out, as
    every dataset tool does. A URL is one file, or ends in .txt and is a list of URLs, one a line.
    Under Auto the suffix tells the format; a forced format takes the files with its suffixes, or
    all of them if none has one.

    Raises:
        InvalidSpec: no such source, nothing in it that fits, or several formats.
        AccessRefused: from the store.
    """
    uri = source.uri
    found = await _found(uri, storage)
    if not found:
        raise InvalidSpec(
            f"there are no files at {uri}",
            where=_FIELD,
            remedy="Correct the URI or fill the folder; names that begin with _ or . do not count.",
        )
    included = {path: file for path, file in found.items() if _is_included(path, source.include)}
    if not included:
        raise InvalidSpec(
            f"no file of {uri} fits {', '.join(source.include)}",
            where="spec.source.include",
            remedy=f"There are {_some(found)}. A glob without / is compared with bare file names.",
        )
    format_, wanted = _of_one_format(included, source)
    files = sorted(wanted, key=lambda file: file.name)
    names = {file.name for file in files}
    ignored = sorted(file.name for file in included.values() if file.name not in names)
    return Listing(format_, tuple(files), tuple(ignored))


def format_of(name: str) -> SourceFormat | None:
    """The format that a file's name tells, or None."""
    base = name.lower()
    for ending in COMPRESSIONS:
        base = base.removesuffix(ending)
    for format_, suffixes in SUFFIXES.items():
        if base.endswith(suffixes) and (format_ is SourceFormat.JSONL or base == name.lower()):
            return format_
    return None


def compression_of(name: str) -> str | None:
    """How a file of JSON lines is compressed, by its name: gzip, zstd or None."""
    return next((how for end, how in COMPRESSIONS.items() if name.lower().endswith(end)), None)


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``*`` and ``?`` stay inside a folder, ``**`` does not."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(pieces.get(part, re.escape(part)) for part in parts) + r"\Z")


async def _found(uri: str, storage: StorageOptions) -> dict[str, ListedFile]:
    if is_local(uri):
        return await _list_local(uri)
    if dataset_hub.is_hub(uri):
        return await _list_hub(uri, storage)
    return await (_list_web(uri, storage) if is_web(uri) else _list_remote(uri, storage))


def _of_one_format(
    files: dict[str, ListedFile], source: Source
) -> tuple[SourceFormat, list[ListedFile]]:
    by_format: dict[SourceFormat | None, list[ListedFile]] = {}
    for path, file in files.items():
        by_format.setdefault(format_of(path), []).append(file)
    if source.format is not SourceFormat.AUTO:
        return source.format, by_format.get(source.format, list(files.values()))
    known = [format_ for format_ in by_format if format_ is not None]
    if not known:
        suffixes = [end for ends in SUFFIXES.values() for end in ends]
        raise InvalidSpec(
            f"no file of {source.uri} has a known suffix: there are {_some(files)}",
            where=_FIELD,
            remedy=(
                f"Known are {', '.join(suffixes)}, the latter ones with .gz or .zst too. "
                "spec.source.format reads other names as the format it says."
            ),
        )
    if len(known) > 1:
        counts = ", ".join(f"{len(by_format[format_])} of {format_}" for format_ in known)
        raise InvalidSpec(
            f"{source.uri} has files of several formats: {counts}",
            where=_FIELD,
            remedy="Choose by spec.source.format or spec.source.include.",
        )
    return known[0], by_format[known[0]]


def _some(files: Iterable[str]) -> str:
    names = sorted(files)
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _is_included(path: str, globs: Iterable[str]) -> bool:
    globs = tuple(globs)
    name = path.rsplit("/", 1)[-1]
    return not globs or any(
        glob_pattern(glob).match(path if "/" in glob else name) is not None for glob in globs
    )


def _is_hidden(path: str, pattern: str) -> bool:
    """Whether a part of `path` is hidden, unless the user's own glob asks for such."""
    if any(part.startswith(("_", ".")) for part in pattern.split("/")):
        return False
    return any(part.startswith(("_", ".")) for part in path.split("/"))


async def _list_remote(uri: str, storage: StorageOptions) -> dict[str, ListedFile]:
    container, key = _split(uri)
    store = Store(container, storage)
    fixed, pattern = _split_glob(key)
    if key and key == fixed and not key.endswith("/"):
        # a single object is not listed under its own name
        one = await store.head(key)
        if one is not None:
            return {key.rsplit("/", 1)[-1]: ListedFile(uri, uri, one.size, one.etag)}
    prefix = fixed.strip("/")
    listed = await store.list(prefix)
    if not listed:
        raise _nothing_at(uri)
    start = f"{container}/{prefix}"
    folders = {name[:at] for name in (m.name for m in listed) for at in _slashes(name)} | {prefix}
    below = {
        meta.name.removeprefix(f"{prefix}/"): meta
        for meta in listed
        # consoles make "folders" of empty objects, which the client names without their slash
        if meta.size or meta.name not in folders
    }
    return _chosen(below, pattern, uri_start=start, name_start=start)


async def _list_hub(uri: str, storage: StorageOptions) -> dict[str, ListedFile]:
    repository, path = dataset_hub.split(uri)
    fixed, pattern = _split_glob(path)
    folder = fixed.strip("/")
    secret = credentials(storage.credentials) if storage.credentials else {}
    found = await asyncio.to_thread(
        dataset_hub.snapshot,
        repository,
        folder,
        endpoint=storage.endpoint,
        token=secret.get("hf_token", ""),
    )
    if found is None:
        raise _nothing_at(uri)
    above = folder.rpartition("/")[0] if found.is_file else folder
    start, name_start = (f"{one.uri}/{above}".rstrip("/") for one in (found.repository, repository))
    return _chosen(found.files, pattern, uri_start=start, name_start=name_start)


async def _list_web(uri: str, storage: StorageOptions) -> dict[str, ListedFile]:
    container, name = _split(uri)
    if not _bare(uri).endswith(_LIST):
        urls = [uri]
    else:
        listed = await Store(container, storage).get(name)
        if listed is None:
            raise _nothing_at(_bare(uri))
        lines = (line.strip() for line in listed.data.decode("utf-8", "replace").splitlines())
        urls = [urljoin(uri, line) for line in lines if line and not line.startswith("#")]
        if wrong := next((url for url in urls if not is_web(url)), None):
            raise InvalidSpec(
                f"{_bare(wrong)} in it is not a URL", where=f"{_FIELD} {_bare(uri)}", remedy=_URLS
            )
    places = asyncio.Semaphore(_PARALLEL_URLS)
    stores: dict[str, Store] = {}

    async def look(url: str) -> ListedFile:
        container, name = _split(url)
        store = stores.setdefault(container, Store(container, storage))
        async with places:
            meta = await store.head(name)
        if meta is None:
            raise _nothing_at(_bare(url))
        return ListedFile(url, _bare(url), meta.size, meta.etag)

    found = {file.name: file for file in await asyncio.gather(*map(look, urls))}
    if len(found) < len(urls):
        raise InvalidSpec(
            "two URLs differ in their query alone", where=f"{_FIELD} {_bare(uri)}", remedy=_URLS
        )
    return {name.partition("://")[2]: file for name, file in found.items()}


_URLS = "A list has one URL a line, https:// or relative to the list, each of another file."


def _bare(url: str) -> str:
    """A URL without what it may be signed with."""
    return url.partition("#")[0].partition("?")[0]


async def _list_local(uri: str) -> dict[str, ListedFile]:
    path = local_path(uri)
    if await _ask(path.is_file, uri):
        one = await Store(str(path.parent)).head(path.name)
        if one is None:
            raise _nothing_at(uri)
        return {path.name: ListedFile(str(path), uri, one.size, one.etag)}
    fixed, pattern = (uri, "") if await _ask(path.is_dir, uri) else _split_glob(uri)
    folder = local_path(fixed or ".")
    if not await _ask(folder.is_dir, uri):
        near = await _ask(lambda: _nearest(folder), uri)
        raise _nothing_at(fixed, f' Did you mean "{near}"?' if near else "")
    listed = await Store(str(folder)).list()
    below = {meta.name: meta for meta in listed}
    start = "" if fixed in (".", "./") else fixed
    return _chosen(below, pattern, uri_start=str(folder), name_start=start)


async def _ask(question: Callable[[], T], uri: str) -> T:
    """Ask the file system in a thread."""
    try:
        return await asyncio.to_thread(question)
    except PermissionError as error:
        raise AccessRefused(
            "access denied", where=f"{_FIELD} {uri}", remedy="Make it readable."
        ) from error


def _nearest(path: Path) -> str:
    """The name beside a missing `path` that is most like it, or nothing."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return next(iter(get_close_matches(path.name, siblings, n=1)), "")


def _nothing_at(uri: str, hint: str = "") -> InvalidSpec:
    return InvalidSpec(
        f"there is nothing at {uri}",
        where=_FIELD,
        remedy=f"Name a file, a folder or a glob that exists.{hint}",
    )


class _Version(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def etag(self) -> str: ...


def _chosen(
    below: Mapping[str, _Version], pattern: str, *, uri_start: str, name_start: str
) -> dict[str, ListedFile]:
    """The files that fit the glob and are not hidden, by their path below where it begins."""
    fits = glob_pattern(pattern or "**").match
    return {
        path: ListedFile(_join(uri_start, path), _join(name_start, path), meta.size, meta.etag)
        for path, meta in below.items()
        if fits(path) and not _is_hidden(path, pattern)
    }


def _join(start: str, path: str) -> str:
    return f"{start.rstrip('/')}/{path}" if start else path


def _slashes(name: str) -> Iterator[int]:
    return (at for at, letter in enumerate(name) if letter == "/")


def _split_glob(path: str) -> tuple[str, str]:
    """Whole segments before the first wildcard, and the rest; the rest is empty without one."""
    wildcard = re.search(r"[*?]", path)
    if wildcard is None:
        return path, ""
    cut = path.rfind("/", 0, wildcard.start()) + 1
    return path[:cut], path[cut:]


def _split(uri: str) -> tuple[str, str]:
    """The container that a store is opened on, and the file's name in it."""
    if is_local(uri):
        path = local_path(uri)
        return str(path.parent), path.name
    if dataset_hub.is_hub(uri):
        repository, key = dataset_hub.split(uri)
        return repository.uri, key
    if is_web(uri) and re.search(
        r"[?#%]", uri
    ):  # a name cannot say these: the whole URL is asked for
        return uri.partition("#")[0], ""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key
