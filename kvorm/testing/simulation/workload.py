"""A simulated client: it does everything that kvorm offers with a few keys, and notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Final

from kvorm import (
    ANY,
    Bucket,
    BucketNotFoundError,
    BulkError,
    ConflictError,
    Entry,
    Key,
    KeyNotFoundError,
    KvormError,
    Mapping,
    Marker,
    Model,
    Repository,
    Store,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    revision_of,
)
from kvorm.stamp import stamp_of
from kvorm.testing.simulation.record import Call, Outcome, Record, Seen
from kvorm.testing.simulation.traits import Traits

BUCKET: Final = "simulated"
KEYS: Final = [("a", 1), ("a", 2), ("b", 1)]
_LONGEST_CANCEL: Final = 0.02
_THINK_SECONDS: Final = 0.12


class Item(Model, bucket=BUCKET):
    """What is stored; no two writes have the same tag."""

    group: Key[str]
    number: Key[int]
    tag: str = ""


def items(store: Store, bucket: Bucket, timeout: timedelta) -> Repository[Item]:
    """Return a repository over a bucket that was declared for one history."""
    return store.repository(Item, mapping=Mapping(bucket, key=("group", "number")), timeout=timeout)


def raw(key: tuple[str, int]) -> str:
    """Return the raw key of a key."""
    return f"{key[0]}.{key[1]}"


class Client:
    """One client of one history."""

    def __init__(
        self, number: int, repository: Repository[Item], record: Record, random: Random, traits: Traits
    ) -> None:
        self._number = number
        self._items = repository
        self._record = record
        self._random = random
        self._traits = traits
        self._tags = 0
        # The object of each key as this client knows it, and the tags of its writes whose outcome stayed open.
        self._known: dict[tuple[str, int], Item] = {}
        self._open: dict[tuple[str, int], frozenset[str]] = {}
        self._now = asyncio.get_running_loop().time

    async def act(self, times: int) -> None:
        """Make so many calls, each at its time."""
        calls: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._create, 3),
            (self._change, 8),
            (self._overwrite, 2),
            (self._delete_object, 2),
            (self._delete_key, 1),
            (self._purge, 1),
            (self.read, 4),
            (self.history, 2),
            (self.find, 2),
            (self._list_keys, 1),
            (self._count, 1),
            (self._read_many, 1),
            (self._save_many, 2),
            (self._update, 2),
        ]
        if self._traits.loads:
            calls.append((self._load, 3))
        choices, weights = zip(*calls, strict=True)
        for _ in range(times):
            await asyncio.sleep(self._random.expovariate(1 / _THINK_SECONDS))
            (call,) = self._random.choices(choices, weights)
            await call()

    async def finish(self) -> None:
        """Read everything, now that all is well."""
        for key in KEYS:
            await self.read(key)
            await self.history(key)
        await self.find()

    # Writes

    async def save_new(self, value: Item) -> None:
        """Save an object that was never saved."""
        key = value.group, value.number
        async with self._call("save", key) as call:
            call.tag, call.expected = value.tag, 0
            call.revision = await self._items.save(value)

    async def _create(self) -> None:
        await self._save(Item(group=(key := self._key())[0], number=key[1]), key, frozenset())

    async def _change(self) -> None:
        key = self._key()
        if key not in self._known or self._random.random() < 0.4:
            await self.read(key)
        value = self._known.get(key)
        if value is not None:
            await self._save(value, key, self._open.get(key, frozenset()))

    async def _save(self, value: Item, key: tuple[str, int], own: frozenset[str]) -> None:
        value.tag = self._tag()
        async with self._call("save", key, may_cancel=True) as call:
            call.tag, call.expected, call.own, call.life = value.tag, revision_of(value) or 0, own, _life_of(value)
            call.revision = await self._items.save(value)
        self._learn(key, value, call)

    async def _overwrite(self) -> None:
        key = self._key()
        value = Item(group=key[0], number=key[1], tag=self._tag())
        async with self._call("save", key, may_cancel=True) as call:
            call.tag = value.tag
            call.revision = await self._items.save(value, expect=ANY)

    async def _save_many(self) -> None:
        values = {
            key: Item(group=key[0], number=key[1], tag=self._tag()) if self._random.random() < 0.5 else self._at(key)
            for key in self._random.sample(KEYS, 2)
        }
        calls: list[Call] = []
        for key, value in values.items():
            value.tag = self._tag()
            own = self._open.get(key, frozenset()) if value is self._known.get(key) else frozenset[str]()
            calls.append(
                Call(
                    self._number,
                    "save",
                    raw(key),
                    self._now(),
                    tag=value.tag,
                    expected=revision_of(value) or 0,
                    own=own,
                    life=_life_of(value),
                )
            )
        try:
            for call, revision in zip(calls, await self._items.save_many(values.values()), strict=True):
                call.outcome, call.revision = Outcome.DONE, revision
        except BulkError as bulk:
            for number, call in enumerate(calls):
                if number in bulk.saved:
                    call.outcome, call.revision = Outcome.DONE, bulk.saved[number]
                else:
                    _note(call, bulk.failed[number])
        except KvormError as error:
            for call in calls:
                _note(call, error)
        for (key, value), call in zip(values.items(), calls, strict=True):
            call.end = self._now()
            self._record.calls.append(call)
            self._learn(key, value, call)

    async def _load(self) -> None:
        """Load some values, a key among them perhaps twice."""
        keys = self._random.choices(KEYS, k=self._random.randint(1, 4))
        calls = [Call(self._number, "load", raw(key), self._now(), tag=self._tag()) for key in keys]
        values = [Item(group=key[0], number=key[1], tag=call.tag or "") for key, call in zip(keys, calls, strict=True)]
        stored = 0
        failed = Call(self._number, "load", "", self._now())
        try:
            stored = await self._items.load(values)
        except BucketNotFoundError as error:
            _note(failed, error)
        except StoreError as error:
            stored = error.stored or 0
            gone = isinstance(error.__cause__, BucketNotFoundError)
            _note(failed, error.__cause__ if gone else error)
        for number, call in enumerate(calls):
            call.end, call.error = self._now(), failed.error
            call.outcome = Outcome.DONE if number < stored else failed.outcome
            self._record.calls.append(call)

    async def _update(self) -> None:
        key = self._key()
        tried: list[tuple[str, int]] = []
        start = self._now()

        def apply(value: Item) -> Item:
            value.tag = self._tag()
            tried.append((value.tag, revision_of(value) or 0))
            return value

        call = Call(self._number, "update", raw(key), start)
        value: Item | None = None
        try:
            value = await self._items.update(*key, apply=apply)
            call.outcome = Outcome.DONE
        except KvormError as error:
            _note(call, error)
        call.end = self._now()
        # Each try but the last was refused; what became of the last one is what the call was told.
        for number, (tag, expected) in enumerate(tried, 1):
            is_last = number == len(tried)
            outcome = call.outcome if is_last else Outcome.REFUSED
            one = Call(self._number, "save", raw(key), start, call.end, outcome, tag, expected, error=call.error)
            if value is not None and is_last:
                one.revision = revision_of(value) or 0
            if outcome is not Outcome.ABSENT:
                self._record.calls.append(one)
        if not tried:
            self._record.calls.append(call)

    async def _delete_object(self) -> None:
        key = self._key()
        value = self._known.get(key)
        if value is None or revision_of(value) is None:
            return
        async with self._call("delete", key, may_cancel=True) as call:
            call.expected, call.own = revision_of(value) or 0, self._open.get(key, frozenset())
            call.life = _life_of(value)
            call.revision = await self._items.delete(value)
        self._known.pop(key)
        self._open.pop(key, None)

    async def _delete_key(self) -> None:
        key = self._key()
        async with self._call("delete", key) as call:
            call.revision = await self._items.delete(*key)

    async def _purge(self) -> None:
        key = self._key()
        async with self._call("purge", key) as call:
            call.revision = await self._items.purge(*key)

    # Reads

    async def read(self, key: tuple[str, int] | None = None) -> None:
        """Read a key."""
        key = key or self._key()
        async with self._call("get", key) as call:
            entry = await self._items.entry(*key)
            call.seen.append(_seen(entry))
            self._known[key] = entry.value
            self._open.pop(key, None)

    async def history(self, key: tuple[str, int] | None = None) -> None:
        """Read the history of a key."""
        async with self._call("history", key or self._key()) as call:
            call.seen.extend([_seen(event) for event in await self._items.history(*(key or _key_of(call)))])

    async def find(self) -> None:
        """List what is live."""
        async with self._call("list", None) as call, aclosing(self._items.find()) as found:
            call.seen.extend(
                [Seen(raw((one.group, one.number)), revision_of(one) or 0, one.tag) async for one in found]
            )

    async def _list_keys(self) -> None:
        async with self._call("list", None) as call, aclosing(self._items.keys()) as keys:
            call.seen.extend([Seen(f"{group}.{number}", 0, None) async for group, number in keys])

    async def _count(self) -> None:
        async with self._call("count", None) as call:
            call.revision = await self._items.count()

    async def _read_many(self) -> None:
        start = self._now()
        call = Call(self._number, "get", "", start, nearest=self._traits.nearest)
        found: list[Item | None] = []
        try:
            found = await self._items.get_many(KEYS)
        except KvormError as error:
            _note(call, error)
            call.kind, call.end = "list", self._now()
            self._record.calls.append(call)
        for key, value in zip(KEYS, found, strict=False):
            one = Call(self._number, "get", raw(key), start, self._now(), Outcome.ABSENT, nearest=self._traits.nearest)
            if value is not None:
                one.outcome = Outcome.DONE
                one.seen.append(Seen(raw(key), revision_of(value) or 0, value.tag))
            self._record.calls.append(one)

    # Notes

    @asynccontextmanager
    async def _call(
        self, kind: str, key: tuple[str, int] | None, *, may_cancel: bool = False
    ) -> AsyncGenerator[Call, None]:
        """Note a call, and how it ends."""
        call = Call(self._number, kind, raw(key) if key else "", self._now(), nearest=self._traits.nearest)
        cancels = may_cancel and self._random.random() < 0.04
        try:
            async with asyncio.timeout(self._random.uniform(0, _LONGEST_CANCEL) if cancels else None):
                yield call
            call.outcome = Outcome.DONE
        except TimeoutError:
            call.outcome = Outcome.UNKNOWN
        except Exception as error:
            _note(call, error)
        call.end = self._now()
        self._record.calls.append(call)

    def _learn(self, key: tuple[str, int], value: Item, call: Call) -> None:
        """Remember an object after its save."""
        if call.outcome is Outcome.DONE:
            self._known[key] = value
            self._open.pop(key, None)
        elif call.outcome is Outcome.UNKNOWN and call.tag is not None:
            self._known[key] = value
            self._open[key] = call.own | {call.tag}
        elif self._known.get(key) is value and call.outcome is Outcome.REFUSED:
            self._known.pop(key)
            self._open.pop(key, None)

    def _at(self, key: tuple[str, int]) -> Item:
        return self._known.get(key) or Item(group=key[0], number=key[1])

    def _key(self) -> tuple[str, int]:
        return self._random.choice(KEYS)

    def _tag(self) -> str:
        self._tags += 1
        return f"{self._number}.{self._tags}"


def _note(call: Call, error: BaseException | None) -> None:
    """Note how a call failed."""
    call.error = f"{type(error).__name__}: {error}"
    match error:
        case ConflictError():
            call.outcome = Outcome.REFUSED
        case KeyNotFoundError():
            call.outcome = Outcome.ABSENT
        case BucketNotFoundError():
            call.outcome = Outcome.GONE
        case StoreUnavailableError():
            call.outcome = Outcome.NOT_STORED
        case StoreTimeoutError():
            call.outcome = Outcome.UNKNOWN
        case _:
            call.outcome = Outcome.FAILED


def _seen(event: Entry[Item] | Marker) -> Seen:
    return Seen(event.raw_key, event.revision, event.value.tag if isinstance(event, Entry) else None)


def _life_of(value: Item) -> str:
    """Return the life of the bucket that the revision of an object is of."""
    stamp = stamp_of(value)
    return stamp.incarnation if stamp is not None else ""


def _key_of(call: Call) -> tuple[str, int]:
    group, _, number = call.key.partition(".")
    return group, int(number)
