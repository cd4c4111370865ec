"""`rephrase gc`: finds what nobody refers to any more, and removes it if asked to.

Rules of the ledger protocol, section 9: objects of a unit may go only once its commit was *read*; the part
it names only after the manifest, and only if asked for; claims, commits, groups, deaths, windows,
heartbeats, plan and data never.
Folders of other runs in this output are leftovers of a run that was deleted and begun again.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from rephrase_api.errors import InvalidSpec
from rephrase_runner import records
from rephrase_runner.ledger import Ledger, read_spec
from rephrase_runner.store import Meta, Store

_RUN_FOLDER = re.compile(r"^_run/([0-9a-f]{16})/")
_GRACE = timedelta(days=1)
"""Unnamed plan tables and leftovers of interrupted writes younger than this may still be in use."""

_PUBLISHED = "its rows are published"


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object that can go, and why."""

    meta: Meta
    why: str


async def find(store: Store, *, published_parts: bool = False) -> list[Garbage]:
    """Everything in the output that nobody refers to.

    Args:
        store: the output.
        published_parts: also the parts of a complete run. Its rows are in the data files; what goes is
            the means to check these row by row against what the workers wrote.

    Raises:
        InvalidSpec: there is no run in this output.
    """
    spec = await read_spec(store)
    if spec is None:
        raise InvalidSpec(
            "no run here: _run/spec.json is missing",
            where=store.uri,
            remedy="Name the output of a run, the folder that holds _run/.",
        )
    book = Ledger(store, spec.run)
    listed = await store.list("_run")
    newest = max((meta.modified for meta in listed), default=None)
    found = [
        Garbage(meta, "belongs to a run that was here before")
        for meta in listed
        if (match := _RUN_FOLDER.match(meta.name)) is not None and match[1] != spec.run
    ]
    complete = published_parts and await book.manifest() is not None
    found += [item async for item in _unreferenced(book, listed, newest, complete=complete)]
    return found


async def remove(store: Store, garbage: list[Garbage]) -> int:
    """Delete what was found; returns the bytes that are free now."""
    if any(item.why == _PUBLISHED for item in garbage):
        spec = await read_spec(store)
        if spec is not None:
            await Ledger(store, spec.run).mark_parts_removed()
    for item in garbage:
        await store.delete(item.meta.name)
    return sum(item.meta.size for item in garbage)


async def _unreferenced(
    book: Ledger, listed: list[Meta], newest: datetime | None, *, complete: bool
) -> AsyncIterator[Garbage]:
    names = book.names
    plan = await book.plan()
    old = newest - _GRACE if newest is not None else None
    committed: dict[int, str | None] = {}
    for meta in listed:
        if meta.name.startswith((f"{names.folder}/plan-", "_run/probe-")):
            unnamed = plan is None or meta.name != plan.plan
            if unnamed and old is not None and meta.modified < old:
                yield Garbage(meta, "no plan names it")
            continue
        kind = meta.name.removeprefix(f"{names.folder}/").split("/", 1)[0]
        if not meta.name.startswith(names.folder) or kind not in ("checkpoints", "shares", "parts"):
            continue
        unit = records.unit_of(meta.name)
        if unit not in committed:  # read, not listed: a commit may be on its way (hole 7)
            commit = await book.read_commit(unit)
            committed[unit] = commit.part if commit is not None else None
        part = committed[unit]
        if part is None:
            continue
        if kind != "parts":
            yield Garbage(meta, "its unit is committed")
        elif meta.name != part:
            yield Garbage(meta, "another part of its unit was committed")
        elif complete:
            yield Garbage(meta, _PUBLISHED)
