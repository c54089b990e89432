"""The seam: what a place for bytes must do. Raw keys, bytes and revisions; no models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from kvorm.bucket import Bucket
from kvorm.entry import CaughtUp, Expect, MarkerReason, Reset
from kvorm.health import Health

Reads: TypeAlias = Literal["latest", "nearest"]
"""How fresh a read is: as of the leader, or whatever the nearest replica has."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_from_timestamp: Final = datetime.fromtimestamp
"""Bound once: each watched message has a time."""


def at(nanoseconds: int) -> datetime:
    """Return the time that a store tells in nanoseconds since 1970, to the microsecond."""
    # A float holds the microseconds of 285 years exactly.
    return _from_timestamp(nanoseconds // 1000 / 1e6, UTC)


MarkReason: TypeAlias = Literal["deleted", "purged"]
"""What a caller may do to a key: delete it, or purge it with its history."""


class RawEntry(msgspec.Struct, frozen=True, gc=False):
    """Bytes with their place: an entry below the codec. `headers` are those that tell how to read them.

    `ttl` is the lifetime that its writer gave this one entry; None: that of the bucket.
    """

    raw_key: str
    data: bytes
    revision: int
    written: datetime
    headers: Mapping[str, str]
    operation_id: str | None = None
    ttl: timedelta | None = None


class RawMarker(NamedTuple):
    """A marker below the key encoding."""

    raw_key: str
    reason: MarkerReason
    revision: int
    written: datetime
    operation_id: str | None = None


class RawHead(NamedTuple):
    """An entry without its value; `written_at` is in nanoseconds since 1970."""

    raw_key: str
    revision: int
    written_at: int
    size_bytes: int

    @property
    def written(self) -> datetime:
        """When the store got it."""
        return at(self.written_at)


RawChange: TypeAlias = RawEntry | RawMarker


class Resumed(NamedTuple):
    """The watch went on after a gap.

    Nothing written was lost, but a marker that is gone by now may have been missed.
    """


class Position(NamedTuple):
    """Nothing more for the moment: all changes up to this revision of the bucket have been told."""

    revision: int


Signal: TypeAlias = CaughtUp | Reset | Resumed | Position
"""What a watch tells beside changes."""

RawEvent: TypeAlias = RawChange | Signal


class Replay(Enum):
    """Where a watch starts, if not after a revision."""

    CURRENT = "the latest change of each key"
    HISTORY = "every kept change"
    NOTHING = "what comes from now on"


class Deadline:
    """The moment by which an operation has ended, whatever its steps: one budget for all of them.

    It goes by the clock of the running event loop.
    """

    __slots__ = ("_end", "_now", "timeout")

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        self._now = now = asyncio.get_running_loop().time
        self._end = now() + timeout.total_seconds()

    def spent(self) -> float:
        """Return the seconds since it was set."""
        return self._now() - self._end + self.timeout.total_seconds()

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        left = self._end - self._now()
        return left if left > 0 else 0.0

    def until(self, seconds: float) -> float:
        """Return when so many seconds from now are over, or the budget if that is sooner; 0.0 if nothing is left.

        By the clock of the event loop.
        """
        now = self._now()
        if now >= self._end:
            return 0.0
        return min(now + seconds, self._end)

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return self._now() >= self._end


class RefusedError(Exception):
    """A write was refused because its expectation did not hold; nothing was stored.

    The typed half raises the user's ConflictError from it.

    Attributes:
        current: what is there, read when the write was refused.
    """

    def __init__(self, current: RawChange | None) -> None:
        super().__init__("the expectation does not hold")
        self.current = current


class Put(NamedTuple):
    """One of the writes of a call on many."""

    number: int
    """Which one of them it is."""
    raw_key: str
    data: bytes
    expect: Expect
    operation_id: str


Told: TypeAlias = Callable[[int, int | Exception], None]
"""Hears what became of the write with a number: its revision, or what `put` would have raised. It must not raise."""


class Pair(NamedTuple):
    """A raw key and the bytes that are to be stored under it."""

    raw_key: str
    data: bytes


class LoadError(Exception):
    """Bytes that were to be stored in order were not all stored; raised `from` the reason.

    Attributes:
        stored: how many are, from the first on; later ones may be only where the reason leaves that open.
    """

    def __init__(self, stored: int) -> None:
        super().__init__(f"{stored} were stored")
        self.stored = stored


class RawWatch(Protocol):
    """A running watch. Nothing is opened before the first event is asked for."""

    @property
    def silent_for(self) -> float:
        """Seconds since the store was last heard of; a healthy idle watch stays below two.

        0.0 before the start and on memory.
        """
        ...

    def __aiter__(self) -> AsyncIterator[RawEvent]: ...

    async def __anext__(self) -> RawEvent:
        """Raises BucketNotFoundError, StoreClosedError (then it has ended); StopAsyncIteration after aclose."""
        ...

    async def next_at_hand(self) -> list[RawEvent]:
        """Return the next event and those behind it that have come already; only the first may be a Reset.

        Raises as __anext__.
        """
        ...

    async def aclose(self) -> None:
        """End it; nothing stays on the server.

        Idempotent; also while another task waits in __anext__ or it never started.
        """
        ...


class BucketHandle(Protocol):
    """One opened bucket, in one of its lives.

    Every operation may raise StoreUnavailableError, StoreTimeoutError (for a write: the outcome is unknown),
    PermissionDeniedError, StoreClosedError and BucketNotFoundError; the further ones are named.
    """

    @property
    def settings(self) -> Bucket:
        """What the bucket really is, under its full name; `max_value_bytes` as declared when it was made."""
        ...

    @property
    def incarnation(self) -> str:
        """Which life of the bucket this handle opened; another one has another text, also in another store."""
        ...

    @property
    def is_current(self) -> bool:
        """False once the bucket may have been deleted or made anew; open it again then."""
        ...

    async def get(self, raw_key: str, *, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key, or None where it has none."""
        ...

    async def get_revision(self, raw_key: str, revision: int, *, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key, or None; never another key's."""
        ...

    async def get_many(self, raw_keys: Sequence[str], *, deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key, in the order asked."""
        ...

    async def history(self, raw_key: str, *, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key as of one moment, oldest first."""
        ...

    async def changes_after(self, filter_: str, revision: int, *, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the kept changes of a filter after a revision, oldest first; fewer than `most` where no more are."""
        ...

    def names(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys that match a filter and have any change, markers too, in portions; each once, in no order.

        A key that has one from the first request to the last is not missed. Each portion has `timeout`.
        """
        ...

    def live_keys(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys of the live entries that match a filter, in portions; as `heads`."""
        ...

    def heads(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[RawHead], None]:
        """Yield the live entries that match a filter, without their values, in portions; each key once, in no order.

        A key that is live all the time is not missed, and none comes that was not live at some time in it. Each portion
        has `timeout`.
        """
        ...

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
        """Store bytes if the key still satisfies `expect`; return the new revision.

        All or nothing. A key whose latest change is a marker counts as ABSENT. The operation id is fresh; the change
        carries it (but for ANY), so that a caller who learned no outcome knows its own write again.

        Raises:
            RefusedError: `expect` does not hold; nothing was stored.
            ValueTooLargeError: more than the bucket or the server takes; nothing was sent.
        """
        ...

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each as `put` does, a bounded number at a time; `puts` is asked for the next one when it can be sent.

        Returns once all are told. The first ones have until `deadline`, each later one its whole time from when it is
        sent. After a cancellation nothing is told any more: what was asked for and not told may be stored.
        """
        ...

    def check_size(self, raw_key: str, data: bytes) -> None:
        """Refuse a value that `load` could not store.

        Raises:
            ValueTooLargeError: more than the bucket or the server takes.
        """
        ...

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, whatever is there; their sizes were checked.

        Raises:
            LoadError: not all were stored.
        """
        ...

    async def mark(
        self, raw_key: str, reason: MarkReason, *, expect: int, operation_id: str, deadline: Deadline
    ) -> int:
        """Delete or purge a key whose latest revision is `expect`; return the marker's revision.

        Raises:
            RefusedError: the latest revision is another; nothing was stored.
        """
        ...

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> RawWatch:
        """Return a watch: the state that `start` asks for, then a CaughtUp, then each change as it comes.

        A number starts after that revision. After a Reset this handle is no longer current where the bucket is
        another one.
        """
        ...


class Backend(Protocol):
    """A place that holds buckets. Names are full names, their namespace included."""

    async def open(self, name: str, *, deadline: Deadline) -> BucketHandle:
        """Open an existing bucket.

        Raises:
            BucketNotFoundError: there is none.
            UnsupportedError: its layout is of a newer kvorm, or the server is too old.
        """
        ...

    async def create(self, bucket: Bucket, *, deadline: Deadline) -> BucketHandle:
        """Create a bucket, or open it where another client was faster; the caller compares.

        Raises:
            ModelError: the declaration leaves open what this server must know (`replicas` on a cluster).
            UnsupportedError: the server cannot make such a bucket.
        """
        ...

    async def update(self, bucket: Bucket, *, deadline: Deadline) -> BucketHandle:
        """Change an existing bucket into what is declared; settings that are None stay.

        Raises:
            UnsupportedError: the server cannot change one of them; nothing was changed.
        """
        ...

    async def health(self, names: Sequence[str], *, deadline: Deadline) -> Health:
        """Tell how the server and these buckets are. What is wrong is told, not raised."""
        ...

    async def close(self) -> None:
        """End what this backend started. Idempotent."""
        ...
