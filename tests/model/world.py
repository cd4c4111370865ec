"""The store, the puts still on their way, and what may yet go wrong.

One request of a process is one atomic step. What may become of a put beyond plain success:

- *lost*: applied, not answered;
- *doubled*: applied, answered "exists" (the client retried a put whose answer was cut);
- *refused*: 409, answered "exists", not applied;
- *late*: not answered, and applied at any later time, or never.

Reads are not made to fail: a read that fails is a read that happens later.
"""

from collections.abc import Hashable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from typing_extensions import override

from model.rules import Rule, Rules

Name = tuple[Any, ...]
"""What kind of object it is, then what tells it from others of its kind."""


class Store:
    """Objects by name. Never changed: every put gives another store."""

    __slots__ = ("_hash", "_objects")

    def __init__(self, objects: Mapping[Name, Hashable] | None = None, hash_: int = 0) -> None:
        self._objects = objects or {}
        self._hash = hash_

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Store) and self._objects == other._objects)

    def get(self, name: Name) -> Any:  # noqa: ANN401 - the kind of a name tells the class of its body
        """The body of an object, None if there is none."""
        return self._objects.get(name)

    def has(self, name: Name) -> bool:
        """Whether there is such an object."""
        return name in self._objects

    def put(self, name: Name, body: Hashable) -> "Store":
        """The store with this object, whatever was there."""
        before = self._objects.get(name)
        changed = (
            hash((name, body)) if before is None else hash((name, body)) ^ hash((name, before))
        )
        return Store({**self._objects, name: body}, self._hash ^ changed)

    def without(self, name: Name) -> "Store":
        """The store without this object."""
        objects = dict(self._objects)
        body = objects.pop(name, None)
        return self if body is None else Store(objects, self._hash ^ hash((name, body)))

    def list(self, *prefix: Hashable) -> tuple[Name, ...]:
        """Names that begin like this, sorted."""
        size = len(prefix)
        return tuple(sorted(name for name in self._objects if name[:size] == prefix))


class Pending(NamedTuple):
    """A put that was sent and may be applied at any time. `own`: it overwrites."""

    name: Name
    body: Hashable
    own: bool = False


class World(NamedTuple):
    """What all processes share.

    Attributes:
        store: the objects.
        network: puts that may yet be applied, sorted.
        faults: how many more puts may go wrong.
        crashes: how many more processes may die.
        suspicions: how often a living holder may yet be called stale.
        dead: ids of processes that are gone for good.
        deeds: what the user did so far.
    """

    store: Store = Store()
    network: tuple[Pending, ...] = ()
    faults: int = 0
    crashes: int = 0
    suspicions: int = 0
    dead: frozenset[Hashable] = frozenset()
    deeds: int = 0

    def put(self, name: Name, body: Hashable, *, own: bool = False) -> "World":
        """The world once a put has reached the store: without effect if another was first."""
        if self.store.has(name) and not own:
            return self
        return self._replace(store=self.store.put(name, body))

    def delete(self, name: Name) -> "World":
        """The world without this object."""
        return self._replace(store=self.store.without(name))

    def late(self, pending: Pending) -> "World":
        """One fault fewer, and a put on its way."""
        network = tuple(sorted((*self.network, pending), key=repr))
        return self._replace(network=network, faults=self.faults - 1)

    def landings(self) -> Iterator[tuple[str, "World"]]:
        """Every way in which a put on its way can reach the store."""
        for number, pending in enumerate(self.network):
            rest = self.network[:number] + self.network[number + 1 :]
            after = self._replace(network=rest).put(pending.name, pending.body, own=pending.own)
            yield f"late put of {text(pending.name)} lands", after


class Answer(Enum):
    """What the caller of a put has heard so far."""

    NOTHING_SENT = 0
    EXISTS = 1
    SILENCE = 2


class Ending(Enum):
    """How `put_new` ends."""

    MINE = "mine"
    THEIRS = "theirs"
    UNCLEAR = "unclear"


class Put(NamedTuple):
    """A `put_new` that is being carried out.

    Attributes:
        name, body: what is put; at every retry the same.
        own_name: nobody else writes this name, so that finding it is enough.
        gives_up: it has a deadline.
        believed: silence is taken for success (the rule that a part is confirmed is off).
        heard: the last answer, if it was not success.
    """

    name: Name
    body: Hashable
    own_name: bool = False
    gives_up: bool = False
    believed: bool = False
    heard: Answer = Answer.NOTHING_SENT


class Step(NamedTuple):
    """One request of a `put_new`: the world afterwards, and its ending or what it has come to."""

    label: str
    world: World
    then: Ending | Put
    fair: bool = True


def carry_on(world: World, put: Put, rules: Rules) -> Iterator[Step]:
    """The next request of a `put_new` (ledger protocol, section 2): put, or read back."""
    if put.heard is Answer.NOTHING_SENT:
        yield from _send(world, put, rules)
    else:
        yield from _read_back(world, put, rules)


def _send(world: World, put: Put, rules: Rules) -> Iterator[Step]:
    what = text(put.name)
    absent = not world.store.has(put.name)
    applied = world.put(put.name, put.body)
    exists = _after(put, Answer.EXISTS, rules)
    silence = _after(put, Answer.SILENCE, rules)
    if absent:
        yield Step(f"puts {what}", applied, Ending.MINE)
    else:
        yield Step(f"puts {what}: exists", world, exists)
    if not world.faults:
        return
    faulty = applied._replace(faults=world.faults - 1)
    yield Step(f"puts {what}: applied, no answer", faulty, silence, fair=False)
    if absent:
        untouched = world._replace(faults=world.faults - 1)
        late = world.late(Pending(put.name, put.body))
        yield Step(f"puts {what}: applied, answered exists", faulty, exists, fair=False)
        yield Step(f"puts {what}: 409, not applied", untouched, exists, fair=False)
        yield Step(f"puts {what}: no answer, on its way", late, silence, fair=False)


def _after(put: Put, answer: Answer, rules: Rules) -> Ending | Put:
    """What the caller makes of an answer that is not success."""
    if answer is Answer.SILENCE and put.believed:
        return Ending.MINE
    if answer is Answer.EXISTS and not _reads_back(put, rules):
        return Ending.THEIRS
    return put._replace(heard=answer)


def _reads_back(put: Put, rules: Rules) -> bool:
    claim = put.name[0] in {"claim", "share"}
    return put.own_name or (Rule.CLAIMS_READ_BACK if claim else Rule.RESULTS_READ_BACK) in rules


def _read_back(world: World, put: Put, rules: Rules) -> Iterator[Step]:
    what = text(put.name)
    again = put._replace(heard=Answer.NOTHING_SENT)
    if not _reads_back(put, rules):  # silence: the old way was to put again, or to give up
        yield Step(f"hears nothing of {what}", world, again)
    elif world.store.has(put.name):
        mine = put.own_name or world.store.get(put.name) == put.body
        yield Step(f"reads {what} back", world, Ending.MINE if mine else Ending.THEIRS)
        return
    elif (
        put.heard is Answer.EXISTS
        and not put.own_name
        and Rule.PUT_AGAIN_WHAT_IS_ABSENT not in rules
    ):
        yield Step(f"reads {what} back: absent", world, Ending.THEIRS)
        return
    else:
        yield Step(f"reads {what} back: absent", world, again)
    if put.gives_up:
        yield Step(f"gives {what} up", world, Ending.UNCLEAR)


def text(name: Name) -> str:
    """A name as people read it."""
    kind, *rest = name
    return f"{kind}({','.join(str(part) for part in rest)})"
