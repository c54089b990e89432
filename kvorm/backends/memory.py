"""The in-process twin of the server: the same answers and the same refusals, over logs in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from kvorm.backends import message
from kvorm.backends.base import (
    EPOCH,
    Deadline,
    LoadError,
    MarkReason,
    Pair,
    Put,
    RawChange,
    RawEntry,
    RawHead,
    RefusedError,
    Replay,
    Told,
)
from kvorm.backends.log import Clock, Log, LogFullError, StoredMessage, WrongLastSequenceError
from kvorm.backends.memory_watch import MemoryWatch
from kvorm.backends.stored_bucket import StoredBucket
from kvorm.bucket import Bucket, differences
from kvorm.entry import ABSENT, ANY, Expect
from kvorm.errors import BucketNotFoundError, StoreClosedError, StoreError, UnsupportedError
from kvorm.health import BucketHealth, Health
from kvorm.keys import matches, matches_any

MAX_PAYLOAD: Final = 1024 * 1024
"""Bytes of one message, headers included: the default of the server."""

_UNCHANGEABLE: Final = ("storage",)
_MICROSECOND: Final = timedelta(microseconds=1)


def utc_now() -> datetime:
    """Tell the time of this machine."""
    return datetime.now(UTC)


class MemoryServer:
    """Buckets in the memory of this process; several stores may use one, as clients use a server."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._buckets: dict[str, StoredBucket] = {}

    def find(self, name: str) -> StoredBucket:
        """Return a bucket.

        Raises:
            BucketNotFoundError: there is none.
        """
        if name not in self._buckets:
            raise BucketNotFoundError(f"bucket {name!r} does not exist", bucket=name)
        return self._buckets[name]

    def create(self, bucket: Bucket) -> StoredBucket:
        """Create a bucket, or return the one that is there."""
        if bucket.name not in self._buckets:
            self._buckets[bucket.name] = StoredBucket(_created(bucket), self._clock)
        return self._buckets[bucket.name]

    def health_of(self, name: str) -> BucketHealth:
        """Tell how a bucket is."""
        stored = self._buckets.get(name)
        if stored is None:
            return BucketHealth(exists=False, warnings=(f"bucket {name!r} does not exist",))
        settings = stored.settings
        return BucketHealth(
            replicas=settings.replicas or 1, leader="memory", storage=settings.storage, size_bytes=stored.log.size_bytes
        )

    def wake(self) -> None:
        """Let all watches look at the state of their client."""
        for stored in self._buckets.values():
            stored.announce()

    def delete(self, name: str) -> None:
        """Delete a bucket with all that is in it.

        Raises:
            BucketNotFoundError: there is none.
        """
        self.find(name).end()
        del self._buckets[name]


class MemoryBackend:
    """One client of a memory server."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.closed = False

    async def open(self, name: str, *, deadline: Deadline) -> MemoryBucket:
        """Open an existing bucket."""
        await asyncio.sleep(0)
        return MemoryBucket(self, self.server.find(name))

    async def create(self, bucket: Bucket, *, deadline: Deadline) -> MemoryBucket:
        """Create a bucket, or open the one that is there."""
        await asyncio.sleep(0)
        return MemoryBucket(self, self.server.create(bucket))

    async def update(self, bucket: Bucket, *, deadline: Deadline) -> MemoryBucket:
        """Change an existing bucket into what is declared."""
        await asyncio.sleep(0)
        stored = self.server.find(bucket.name)
        found = differences(bucket, stored.settings)
        for setting in _UNCHANGEABLE:
            if setting in found:
                raise UnsupportedError(
                    f"bucket {bucket.name!r}: the server cannot change {setting} from {found[setting].actual!r} to "
                    f"{found[setting].declared!r}; make a new bucket and copy"
                )
        stored.apply(bucket)
        return MemoryBucket(self, stored)

    async def health(self, names: Sequence[str], *, deadline: Deadline) -> Health:
        """Tell how these buckets are."""
        await asyncio.sleep(0)
        buckets = {name: self.server.health_of(name) for name in names}
        return Health(
            reachable=not self.closed, round_trip=timedelta(0), jetstream=True, server="memory", buckets=buckets
        )

    async def close(self) -> None:
        """End the watches of this client; the buckets stay for others."""
        self.closed = True
        self.server.wake()


class MemoryBucket:
    """A client's handle on one bucket of a memory server."""

    def __init__(self, backend: MemoryBackend, stored: StoredBucket) -> None:
        self._backend = backend
        self._stored = stored

    @property
    def settings(self) -> Bucket:
        """What the bucket is."""
        return self._stored.settings

    @property
    def incarnation(self) -> str:
        """Which life of the bucket this is."""
        return self._stored.incarnation

    @property
    def is_current(self) -> bool:
        """False once the bucket was deleted."""
        return self._stored.exists

    async def get(self, raw_key: str, *, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key."""
        log = await self._arrive()
        return _read(log.last(raw_key))

    async def get_revision(self, raw_key: str, revision: int, *, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key."""
        log = await self._arrive()
        stored = log.at(revision)
        return _read(stored) if stored is not None and stored.subject == raw_key else None

    async def get_many(self, raw_keys: Sequence[str], *, deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key."""
        log = await self._arrive()
        return [_read(log.last(raw_key)) for raw_key in raw_keys]

    async def history(self, raw_key: str, *, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key."""
        log = await self._arrive()
        return [stored.change() for stored in log.of(raw_key)]

    async def changes_after(self, filter_: str, revision: int, *, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the kept changes of a filter after a revision, oldest first."""
        log = await self._arrive()
        matching = (stored for stored in log.after(revision) if matches(filter_, stored.subject))
        return [stored.change() for stored in islice(matching, most)]

    async def names(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys that match a filter."""
        log = await self._arrive()
        yield [subject for subject in log.subjects() if matches_any(filters, subject)]

    async def live_keys(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys of what is live."""
        async with aclosing(self.heads(filters, timeout=timeout)) as portions:
            async for heads in portions:
                yield [head.raw_key for head in heads]

    async def heads(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[RawHead], None]:
        """Yield what is live, without its values."""
        log = await self._arrive()
        latest = [log.last(subject) for subject in log.subjects() if matches_any(filters, subject)]
        yield [
            RawHead(entry.raw_key, entry.revision, (entry.written - EPOCH) // _MICROSECOND * 1000, len(entry.data))
            for stored in latest
            if isinstance(entry := _read(stored), RawEntry)
        ]

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
        identity = None if expect is ANY else operation_id
        expected = message.expected_revision(expect)
        complete = message.write_headers(headers, expected_revision=expected, operation_id=identity)
        message.check_size(self.settings, raw_key, data, complete, max_message_bytes=self._max_message_bytes())
        log = await self._arrive()
        if expect is ABSENT:
            current = _read(log.last(raw_key))
            if isinstance(current, RawEntry):
                raise RefusedError(current)
            expected = current.revision if current else 0
            complete = message.write_headers(headers, expected_revision=expected, operation_id=identity)
        return self._append(raw_key, data, complete, expected)

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each as `put` does."""
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
        """Refuse a value that `load` could not store."""
        message.check_size(self.settings, raw_key, data, {}, max_message_bytes=self._max_message_bytes())

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, whatever is there."""
        for stored, (raw_key, data) in enumerate(pairs):
            try:
                await self.put(raw_key, data, expect=ANY, headers={}, operation_id="", deadline=deadline)
            except Exception as error:
                raise LoadError(stored) from error

    async def mark(
        self, raw_key: str, reason: MarkReason, *, expect: int, operation_id: str, deadline: Deadline
    ) -> int:
        """Delete or purge a key whose latest revision is `expect`."""
        headers = message.write_headers(
            message.mark_headers(reason), expected_revision=expect, operation_id=operation_id
        )
        await self._arrive()
        return self._append(raw_key, b"", headers, expect)

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> MemoryWatch:
        """Return a watch."""
        return MemoryWatch(self._find, self._stored, filters, start)

    def _find(self) -> StoredBucket:
        """Return the bucket of this name as it is now; it may have been made anew."""
        if self._backend.closed:
            raise StoreClosedError("the store is closed")
        return self._backend.server.find(self.settings.name)

    async def _arrive(self) -> Log:
        """Give way to others, as a request to a server does; then find the bucket as it is now."""
        await asyncio.sleep(0)
        if self._backend.closed:
            raise StoreClosedError("the store is closed")
        if not self._stored.exists:
            raise BucketNotFoundError(f"bucket {self.settings.name!r} was deleted", bucket=self.settings.name)
        self._stored.expire()
        return self._stored.log

    def _append(self, raw_key: str, data: bytes, headers: Mapping[str, str], expected: int | None) -> int:
        try:
            revision = self._stored.log.append(raw_key, data, headers, expected=expected)
        except WrongLastSequenceError:
            raise RefusedError(_read(self._stored.log.last(raw_key))) from None
        except LogFullError as error:
            raise StoreError(
                f"{self.settings.name}/{raw_key}: the bucket is full ({self.settings.max_bytes} bytes), nothing was "
                f"stored; purge keys or raise max_bytes"
            ) from error
        self._stored.announce()
        return revision

    def _max_message_bytes(self) -> int:
        declared = self.settings.max_value_bytes
        return MAX_PAYLOAD if declared is None else min(MAX_PAYLOAD, declared + message.HEADER_ROOM)


def _created(bucket: Bucket) -> Bucket:
    return replace(
        bucket,
        replicas=bucket.replicas or 1,
        compression=bool(bucket.compression),
        marker_ttl=bucket.created_marker_ttl(),
    )


def _read(stored: StoredMessage | None) -> RawChange | None:
    return None if stored is None else stored.change()
