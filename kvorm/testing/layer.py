"""A layer between a store and its backend: it sees each call before it is made, and may hold, change or fail it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, Protocol, Self, TypeAlias, TypeVar

from kvorm.backends.base import (
    Backend,
    BucketHandle,
    Deadline,
    LoadError,
    MarkReason,
    Pair,
    Put,
    RawChange,
    RawEvent,
    RawHead,
    RawWatch,
    Replay,
    Told,
)
from kvorm.bucket import Bucket
from kvorm.entry import Expect
from kvorm.errors import StoreError
from kvorm.health import Health

T = TypeVar("T")

Verb: TypeAlias = Literal[
    "open", "create", "update", "get", "get_revision", "get_many", "history", "changes_after", "names", "live_keys",
    "heads", "put", "delete", "purge", "load", "deliver",
]  # fmt: skip
"""What is asked of the backend; "deliver" is an event of a watch on its way to its reader."""

WRITES: Final = frozenset[Verb]({"put", "delete", "purge"})
"""The verbs that write one key."""

CALLER: ContextVar[str | None] = ContextVar("kvorm_testing_caller", default=None)
"""Who makes the calls of this task, where several share a store; None: nobody in particular."""

_MARKS: Final[Mapping[MarkReason, Verb]] = {"deleted": "delete", "purged": "purge"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call, before it is made.

    Attributes:
        verb: what is asked.
        bucket: of which bucket, by its full name.
        deadline: by when it has ended; None for a delivery.
        below: the handle beneath; None where a bucket is opened.
        raw_keys: the keys it is about; none where it names no keys.
        data, expect: of a write.
    """

    verb: Verb
    bucket: str
    deadline: Deadline | None
    below: BucketHandle | None = None
    raw_keys: tuple[str, ...] = ()
    data: bytes = b""
    expect: Expect | None = None

    @property
    def writes(self) -> bool:
        """Whether it writes one key."""
        return self.verb in WRITES


class Layer(Protocol):
    """What is done around each call."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        """Make the call with `act()`, at some time, or do not; return or raise what the caller gets to see."""
        ...

    def watch(self, below: BucketHandle, filters: Sequence[str], start: Replay | int) -> RawWatch:
        """Return a watch, one's own or that of the handle beneath."""
        ...


class LayeredBackend:
    """A backend with a layer over it; a Backend itself."""

    def __init__(self, below: Backend, layer: Layer) -> None:
        self._below = below
        self._layer = layer

    async def open(self, name: str, *, deadline: Deadline) -> BucketHandle:
        """Open an existing bucket."""
        call = Call("open", name, deadline)
        return self._over(await self._layer.around(call, lambda: self._below.open(name, deadline=deadline)))

    async def create(self, bucket: Bucket, *, deadline: Deadline) -> BucketHandle:
        """Create a bucket."""
        call = Call("create", bucket.name, deadline)
        return self._over(await self._layer.around(call, lambda: self._below.create(bucket, deadline=deadline)))

    async def update(self, bucket: Bucket, *, deadline: Deadline) -> BucketHandle:
        """Change a bucket."""
        call = Call("update", bucket.name, deadline)
        return self._over(await self._layer.around(call, lambda: self._below.update(bucket, deadline=deadline)))

    async def health(self, names: Sequence[str], *, deadline: Deadline) -> Health:
        """Tell how the server is; the layer has no part in it."""
        return await self._below.health(names, deadline=deadline)

    async def close(self) -> None:
        """Close the backend beneath."""
        await self._below.close()

    def _over(self, handle: BucketHandle) -> BucketHandle:
        return LayeredBucket(handle, self._layer)


class LayeredBucket:
    """A bucket handle with a layer over it; a BucketHandle itself."""

    def __init__(self, below: BucketHandle, layer: Layer) -> None:
        self._below = below
        self._layer = layer

    @property
    def settings(self) -> Bucket:
        """What the bucket is."""
        return self._below.settings

    @property
    def incarnation(self) -> str:
        """Which life of the bucket this is."""
        return self._below.incarnation

    @property
    def is_current(self) -> bool:
        """Whether the handle beneath is."""
        return self._below.is_current

    async def get(self, raw_key: str, *, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key."""
        call = self._call("get", deadline, raw_key)
        return await self._layer.around(call, lambda: self._below.get(raw_key, deadline=deadline))

    async def get_revision(self, raw_key: str, revision: int, *, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key."""
        call = self._call("get_revision", deadline, raw_key)
        return await self._layer.around(call, lambda: self._below.get_revision(raw_key, revision, deadline=deadline))

    async def get_many(self, raw_keys: Sequence[str], *, deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key."""
        call = self._call("get_many", deadline, *raw_keys)
        return await self._layer.around(call, lambda: self._below.get_many(raw_keys, deadline=deadline))

    async def history(self, raw_key: str, *, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key."""
        call = self._call("history", deadline, raw_key)
        return await self._layer.around(call, lambda: self._below.history(raw_key, deadline=deadline))

    async def changes_after(self, filter_: str, revision: int, *, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the kept changes of a filter after a revision."""
        call = self._call("changes_after", deadline)
        return await self._layer.around(
            call, lambda: self._below.changes_after(filter_, revision, most=most, deadline=deadline)
        )

    async def names(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys that match a filter; each portion is a call."""
        async with aclosing(self._below.names(filters, timeout=timeout)) as portions:
            async for portion in self._portions("names", portions, timeout):
                yield portion

    async def live_keys(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys of the live entries; each portion is a call."""
        async with aclosing(self._below.live_keys(filters, timeout=timeout)) as portions:
            async for portion in self._portions("live_keys", portions, timeout):
                yield portion

    async def heads(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[RawHead], None]:
        """Yield the live entries without their values; each portion is a call."""
        async with aclosing(self._below.heads(filters, timeout=timeout)) as portions:
            async for portion in self._portions("heads", portions, timeout):
                yield portion

    async def put(
        self,
        raw_key: str,
        data: bytes,
        *,
        expect: Expect,
        headers: Mapping[str, str],
        operation_id: str,
        deadline: Deadline,
    ) -> int:
        """Store bytes if the key satisfies `expect`."""

        async def act() -> int:
            return await self._below.put(
                raw_key, data, expect=expect, headers=headers, operation_id=operation_id, deadline=deadline
            )

        return await self._layer.around(self._call("put", deadline, raw_key, data=data, expect=expect), act)

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each as `put` does, one after the other, so that the layer sees each."""
        for put in puts:
            try:
                revision = await self.put(
                    put.raw_key,
                    put.data,
                    expect=put.expect,
                    headers={},
                    operation_id=put.operation_id,
                    deadline=deadline,
                )
            except Exception as error:
                told(put.number, error)
            else:
                told(put.number, revision)
            deadline = Deadline(deadline.timeout)

    def check_size(self, raw_key: str, data: bytes) -> None:
        """Refuse what the bucket beneath would refuse."""
        self._below.check_size(raw_key, data)

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, in one call."""
        call = self._call("load", deadline, *(pair.raw_key for pair in pairs))
        try:
            await self._layer.around(call, lambda: self._below.load(pairs, deadline=deadline))
        except StoreError as error:  # of the layer; what is beneath raises LoadError
            raise LoadError(0) from error

    async def mark(
        self, raw_key: str, reason: MarkReason, *, expect: int, operation_id: str, deadline: Deadline
    ) -> int:
        """Delete or purge a key."""

        async def act() -> int:
            return await self._below.mark(raw_key, reason, expect=expect, operation_id=operation_id, deadline=deadline)

        return await self._layer.around(self._call(_MARKS[reason], deadline, raw_key, expect=expect), act)

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> RawWatch:
        """Return a watch."""
        return self._layer.watch(self._below, filters, start)

    async def _portions(
        self, verb: Verb, portions: AsyncGenerator[list[T], None], timeout: timedelta
    ) -> AsyncGenerator[list[T], None]:
        async def act() -> list[T] | None:
            return await anext(portions, None)

        while (portion := await self._layer.around(self._call(verb, Deadline(timeout)), act)) is not None:
            yield portion

    def _call(
        self, verb: Verb, deadline: Deadline, *raw_keys: str, data: bytes = b"", expect: Expect | None = None
    ) -> Call:
        return Call(verb, self.settings.name, deadline, self._below, raw_keys, data, expect)


class LayeredWatch(ABC):
    """A watch over another, that may hold each event on its way to the reader; a RawWatch itself."""

    def __init__(self, below: RawWatch) -> None:
        self._below = below
        self._closed = asyncio.Event()

    @abstractmethod
    async def pass_on(self, event: RawEvent) -> None:
        """Return when the reader may have this event, or when the watch is closed."""

    @property
    def silent_for(self) -> float:
        """As of the watch beneath."""
        return self._below.silent_for

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RawEvent:
        event = await anext(self._below)
        await self.pass_on(event)
        if self._closed.is_set():
            raise StopAsyncIteration
        return event

    async def next_at_hand(self) -> list[RawEvent]:
        """Return the next event alone, so that each is held by itself."""
        return [await anext(self)]

    async def aclose(self) -> None:
        """End it, and the watch beneath."""
        self._closed.set()
        await self._below.aclose()
