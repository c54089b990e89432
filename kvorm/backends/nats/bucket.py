"""One bucket on NATS: its handle, and how writes get there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from kvorm.backends import message
from kvorm.backends.base import (
    Deadline,
    LoadError,
    MarkReason,
    Pair,
    Put,
    RawChange,
    RawEntry,
    RawHead,
    Reads,
    RefusedError,
    Replay,
    Told,
)
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.heads import live_heads, live_keys
from kvorm.backends.nats.ingest import Ingest
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.many import Many
from kvorm.backends.nats.opened import OpenedStream
from kvorm.backends.nats.pipeline import Pipeline
from kvorm.backends.nats.reading import Reading
from kvorm.backends.nats.stream import Stream
from kvorm.backends.nats.watch import NatsWatch, watch_of_headers
from kvorm.backends.nats.watches import Watches
from kvorm.backends.nats.writes import Begun, Write, Writer
from kvorm.bucket import Bucket
from kvorm.entry import ABSENT, ANY, Expect
from kvorm.errors import (
    BucketNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    ValueTooLargeError,
)

_TOO_LARGE: Final = 10054
_FULL: Final = 10077
_OTHER_WRITE_SECONDS: Final = 0.02


class NatsBucket:
    """A handle on one life of a bucket."""

    def __init__(
        self,
        link: Link,
        incarnation: str,
        config: Mapping[str, Any],
        settings: Bucket,
        *,
        reads: Reads,
        watches: Watches,
    ) -> None:
        self._link = link
        self._stream = OpenedStream(link, incarnation, config, settings, reads)
        self._reading = Reading(self._stream)
        self._many = Many(self._stream, self._reading)
        self._watches = watches
        self._writer = Writer(link, self._stream)

    def refresh(self, config: Mapping[str, Any], settings: Bucket) -> None:
        """Take over what the server says of the bucket now."""
        self._stream.refresh(config, settings)

    def outdate(self) -> None:
        """The bucket may have been deleted, or be another one."""
        self._stream.outdate()

    @property
    def settings(self) -> Bucket:
        """What the bucket is."""
        return self._stream.settings

    @property
    def incarnation(self) -> str:
        """Which life of the bucket this is."""
        return self._stream.incarnation

    @property
    def is_current(self) -> bool:
        """False once the bucket may have been deleted or made anew."""
        return self._stream.is_current

    # Reading

    async def get(self, raw_key: str, *, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key."""
        return await self._reading.get(raw_key, deadline)

    async def get_revision(self, raw_key: str, revision: int, *, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key."""
        return await self._reading.get_revision(raw_key, revision, deadline)

    async def history(self, raw_key: str, *, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key as of one moment."""
        return await self._reading.history(raw_key, deadline)

    async def get_many(self, raw_keys: Sequence[str], *, deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key."""
        return await self._many.get_many(raw_keys, deadline)

    async def changes_after(self, filter_: str, revision: int, *, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the kept changes of a filter after a revision, oldest first."""
        return await self._many.changes_after(filter_, revision, most, deadline)

    def names(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys that match a filter, in portions."""
        return self._many.names(filters, timeout)

    def heads(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[RawHead], None]:
        """Yield what is live, without its values, in portions."""
        return live_heads(self._watch_of_headers(filters), self._stream, timeout)

    def live_keys(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys of what is live, in portions."""
        return live_keys(self._watch_of_headers(filters), self._stream, timeout)

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> NatsWatch[RawChange]:
        """Tell what `start` asks for, a CaughtUp, then each change."""
        return NatsWatch(
            self._watched(filters),
            start,
            incarnation=self.incarnation,
            watches=self._watches,
            read=self._stream.delivered,
            outdate=self.outdate,
        )

    def _watch_of_headers(self, filters: Sequence[str]) -> NatsWatch[Received]:
        return watch_of_headers(
            self._watched(filters), incarnation=self.incarnation, watches=self._watches, outdate=self.outdate
        )

    def _watched(self, filters: Sequence[str]) -> Stream:
        return Stream(self._link, self._stream.name, [self._stream.subject(one) for one in filters])

    # Writing

    async def put(
        self,
        raw_key: str,
        data: bytes,
        *,
        expect: Expect,
        headers: Mapping[str, str],
        operation_id: str,
        deadline: Deadline,
        begun: Begun | None = None,
    ) -> int:
        """Store bytes if the key satisfies `expect`; go on from a first try that has `begun`."""
        identity = None if expect is ANY else operation_id
        write = self._write(raw_key, data, headers, message.expected_revision(expect), identity)
        while True:
            revision = await self._store(raw_key, write, deadline, begun)
            if revision is not None:
                return revision
            begun = None
            current = await self._what_refused(raw_key, write.expected, deadline)
            if _revision(current) == write.expected:
                continue
            if expect is not ABSENT or isinstance(current, RawEntry):
                raise RefusedError(current)
            # The server counts a marker as a message: name its revision to write over it.
            write = self._write(raw_key, data, headers, _revision(current), identity)

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each as `put` does."""
        await Pipeline(self, told).run(puts, deadline)

    def begin(self, put: Put, deadline: Deadline, ended: Callable[[int | Begun], None]) -> bool:
        """Send a write ahead and let `ended` know; False, and nothing sent, where it must wait.

        Raises:
            ValueTooLargeError: nothing was sent.
        """
        identity = None if put.expect is ANY else put.operation_id
        write = self._write(put.raw_key, put.data, {}, message.expected_revision(put.expect), identity)
        return self.is_current and self._writer.begin(write, deadline, ended)

    async def finish(self, put: Put, begun: Begun | None, deadline: Deadline) -> int:
        """Store what was begun with trouble, or not at all; return its revision. Raises what `put` raises."""
        # What was sent may be stored, whatever the look at the bucket comes to: the writer looks where it matters.
        if begun is None and not self.is_current:
            await self._stream.check_same_life(deadline)
        return await self.put(
            put.raw_key,
            put.data,
            expect=put.expect,
            headers={},
            operation_id=put.operation_id,
            deadline=deadline,
            begun=begun,
        )

    def check_size(self, raw_key: str, data: bytes) -> None:
        """Refuse a value that `load` could not store."""
        message.check_size(self.settings, raw_key, data, {}, max_message_bytes=self._stream.max_message_bytes)

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, whatever is there."""
        if not self.is_current:
            try:
                await self._stream.check_same_life(deadline)
            except (StoreError, BucketNotFoundError) as error:
                raise LoadError(0) from error
        ingest = Ingest(self._link, self._stream.written_subject(""), self)
        await (ingest.by_batches if self._stream.allows_batches else ingest.side_by_side)(pairs, deadline)

    async def mark(
        self, raw_key: str, reason: MarkReason, *, expect: int, operation_id: str, deadline: Deadline
    ) -> int:
        """Delete or purge a key whose latest revision is `expect`."""
        write = self._write(raw_key, b"", message.mark_headers(reason), expect, operation_id)
        while True:
            revision = await self._store(raw_key, write, deadline)
            if revision is not None:
                return revision
            current = await self._what_refused(raw_key, expect, deadline)
            if _revision(current) != expect:
                raise RefusedError(current)

    async def explain_silence(self, subject: str, deadline: Deadline) -> None:
        """Return after a moment if the stream lacks a leader, raise if it is gone."""
        await self._stream.explain_silence(subject, deadline)

    async def _what_refused(self, raw_key: str, expected: int | None, deadline: Deadline) -> RawChange | None:
        """Return what is there after a refusal, as the leader has it.

        If that is what was expected, a replicated bucket has another write of the key on its way, which may yet come to
        nothing: wait a moment then, and try again.

        Raises:
            StoreUnavailableError: the time is over; nothing was stored.
        """
        try:
            current = await self._stream.leader_get({"last_by_subj": self._stream.subject(raw_key)}, deadline)
        except StoreTimeoutError as error:
            # The write itself was answered: nothing is open about it.
            raise StoreUnavailableError(f"{error}; the write was refused, nothing was stored") from error
        if _revision(current) == expected:
            if deadline.passed:
                raise StoreUnavailableError(
                    f"{self.settings.name}/{raw_key}: another write was on its way for "
                    f"{deadline.timeout.total_seconds():g} s; this one was not stored"
                )
            await asyncio.sleep(_OTHER_WRITE_SECONDS)
        return current

    def _write(
        self, raw_key: str, data: bytes, headers: Mapping[str, str], expected: int | None, operation_id: str | None
    ) -> Write:
        """Return a write that may be sent.

        Raises:
            ValueTooLargeError: it may not.
        """
        complete = message.write_headers(headers, expected_revision=expected, operation_id=operation_id)
        stream = self._stream
        message.check_size(stream.settings, raw_key, data, complete, max_message_bytes=stream.max_message_bytes)
        return Write(stream.written_subject(raw_key), data, complete, expected, operation_id)

    async def _store(self, raw_key: str, write: Write, deadline: Deadline, begun: Begun | None = None) -> int | None:
        try:
            revision = await self._writer.store(write, deadline, begun)
        except JetStreamError as error:
            raise self._write_error(raw_key, write.data, write.headers, error) from error
        if revision is not None:
            self.written(raw_key, revision)
        return revision

    def written(self, raw_key: str, revision: int) -> None:
        """Take note that this store wrote a key, at this revision or before it."""
        self._reading.seen(raw_key, revision)

    def refused(self, pair: Pair, refusal: JetStreamError) -> Exception:
        """Return the error for a write of `load` that the server did not take."""
        return self._write_error(pair.raw_key, pair.data, {}, refusal)

    def _write_error(self, raw_key: str, data: bytes, headers: Mapping[str, str], error: JetStreamError) -> Exception:
        where = f"{self.settings.name}/{raw_key}"
        if error.code == _TOO_LARGE:
            # The limit was lowered after the bucket was opened.
            self.outdate()
            limit = self._stream.max_message_bytes - message.headers_size(headers)
            return ValueTooLargeError(bucket=self.settings.name, key=raw_key, size=len(data), limit=limit)
        if error.code == _FULL:
            return StoreError(f"{where}: the bucket is full, nothing was stored; purge keys or raise max_bytes")
        return StoreError(f"{where}: the server refused the write, nothing was stored: {error}")


def _revision(change: RawChange | None) -> int:
    return change.revision if change is not None else 0
