"""One bucket on NATS: reads and writes of single keys, lists and history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

import msgspec

from kvorm.backends import message
from kvorm.backends.base import (
    Deadline,
    LoadError,
    MarkReason,
    Pair,
    Put,
    RawChange,
    RawEntry,
    RawMarker,
    Reads,
    RefusedError,
    Replay,
    Told,
)
from kvorm.backends.nats import replies
from kvorm.backends.nats.config import from_stream, stream_name
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.floors import Floors
from kvorm.backends.nats.ingest import Ingest
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.pipeline import Pipeline
from kvorm.backends.nats.requests import NoRespondersError, UnansweredError
from kvorm.backends.nats.stream import Stream
from kvorm.backends.nats.watch import NatsWatch
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
_KEYS_AT_ONCE: Final = 256
_REQUESTS_AT_ONCE: Final = 64
_HISTORY_BATCH: Final = 128
_LAG_SECONDS: Final = 0.005
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
        self._reads: Reads = reads
        self._stream = stream_name(settings.name)
        self._watches = watches
        self._writer = Writer(link, self)
        self._floors = Floors()
        self.incarnation = incarnation
        self.refresh(config, settings)

    def refresh(self, config: Mapping[str, Any], settings: Bucket) -> None:
        """Take over what the server says of the bucket now."""
        self.settings = settings
        self._life: int | None = self._link.life
        # A mirror may answer direct gets like a replica, and lag like one.
        self._replicated = config.get("num_replicas", 1) > 1 or bool(config.get("mirror_direct"))
        self._allow_direct = bool(config.get("allow_direct"))
        self._allow_batches = bool(config.get("allow_batched"))
        self._direct = self._allow_direct and (self._reads == "nearest" or not self._replicated)
        limit: int = config.get("max_msg_size", -1)
        self._max_message_bytes = limit if limit > 0 else None

    def outdate(self) -> None:
        """The bucket may have been deleted, or be another one."""
        self._life = None

    @property
    def is_current(self) -> bool:
        """False once the bucket may have been deleted or made anew."""
        return self._life == self._link.life

    async def get(self, raw_key: str, *, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key."""
        if not self._replicated and self._direct:
            # The only replica knows all that was acknowledged.
            return await self._direct_get(f".{self._subject(raw_key)}", b"", deadline)
        if self._direct:
            change = await self._direct_get(f".{self._subject(raw_key)}", b"", deadline)
            if self._is_fresh(raw_key, change):
                return change
        return await self._fresh_from_leader(raw_key, deadline)

    async def _fresh_from_leader(self, raw_key: str, deadline: Deadline) -> RawChange | None:
        """Return the latest change as the leader has it, never older than what this store saw.

        A leader that was paused answers for a moment as of then (hazard H8).
        """
        while True:
            change = await self._leader_get({"last_by_subj": self._subject(raw_key)}, deadline)
            if self._is_fresh(raw_key, change):
                return change
            info = await self._call("STREAM.INFO", None, deadline)
            if info["state"]["last_seq"] >= self._floors.of(raw_key):
                # It is past what was seen: that has expired, or was erased.
                self._floors.forget(raw_key)
            else:
                await self._link.pause(deadline, StoreError(f"{self.settings.name}/{raw_key}: the leader lags behind"))

    def _is_fresh(self, raw_key: str, change: RawChange | None, *, least: int = 0) -> bool:
        """Whether an answer is as far as what this store saw, and as `least`; remember it then."""
        revision = _revision(change)
        if revision < max(least, self._floors.of(raw_key)):
            return False
        if self._replicated:
            self._floors.raise_to(raw_key, revision)
        return True

    async def get_revision(self, raw_key: str, revision: int, *, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key."""
        if self._direct:
            found = await self._direct_get("", msgspec.json.encode({"seq": revision}), deadline)
        else:
            found = await self._leader_get({"seq": revision}, deadline)
        return found if found is not None and found.raw_key == raw_key else None

    async def get_many(self, raw_keys: Sequence[str], *, deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key."""
        found: dict[str, RawChange | None] = {}
        wanted = list(dict.fromkeys(raw_keys))
        if self._direct:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                chunk = wanted[start : start + _KEYS_AT_ONCE]
                body = {"multi_last": [self._subject(raw_key) for raw_key in chunk]}
                found.update({change.raw_key: change for change in await self._direct_batch(body, deadline)})
        else:
            for start in range(0, len(wanted), _REQUESTS_AT_ONCE):
                chunk = wanted[start : start + _REQUESTS_AT_ONCE]
                changes = await asyncio.gather(*(self.get(raw_key, deadline=deadline) for raw_key in chunk))
                found.update(zip(chunk, changes, strict=True))
        if self._replicated and self._direct:
            stale = [raw_key for raw_key in wanted if not self._is_fresh(raw_key, found.get(raw_key))]
            for raw_key in stale:
                found[raw_key] = await self._fresh_from_leader(raw_key, deadline)
        return [found.get(raw_key) for raw_key in raw_keys]

    async def history(self, raw_key: str, *, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key as of one moment.

        The server reads on while others write: what a later write has pushed out or a purge has erased is dropped
        again, which leaves what the key had when the last change listed was its latest.
        """
        changes = await self._all_changes(raw_key, deadline)
        if len(changes) > self.settings.history:
            # Somebody may have given the bucket a longer history since it was opened.
            config = (await self._call("STREAM.INFO", None, deadline))["config"]
            self.refresh(config, from_stream(config))
        erasing = [at for at, change in enumerate(changes) if _erases_history(change)]
        return changes[erasing[-1] if erasing else 0 :][-self.settings.history :]

    async def names(self, filters: Sequence[str], *, deadline: Deadline) -> list[str]:
        """Return the raw keys that match a filter."""
        found: dict[str, None] = {}
        for one in filters:
            offset, total = 0, 1
            while offset < total:
                body = {"subjects_filter": self._subject(one), "offset": offset}
                info = await self._call("STREAM.INFO", body, deadline)
                subjects: Mapping[str, int] = info["state"].get("subjects") or {}
                found.update(dict.fromkeys(self._raw_key(subject) for subject in subjects))
                offset, total = offset + len(subjects), info.get("total", 0) if subjects else 0
        return list(found)

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

    async def put_many(self, puts: Iterable[Put], *, timeout: timedelta, told: Told) -> None:
        """Store each as `put` does."""
        await Pipeline(self, timeout, told).run(puts)

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
        if not self.is_current:
            await self.check_same_life(deadline)
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
        message.check_size(self.settings, raw_key, data, {}, max_message_bytes=self._max_message_bytes_now())

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, whatever is there."""
        if not self.is_current:
            try:
                await self.check_same_life(deadline)
            except (StoreError, BucketNotFoundError) as error:
                raise LoadError(0) from error
        ingest = Ingest(self._link, self._written_subject(""), self)
        await (ingest.by_batches if self._allow_batches else ingest.side_by_side)(pairs, deadline)

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

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> NatsWatch:
        """Tell what `start` asks for, a CaughtUp, then each change."""
        stream = Stream(self._link, self._stream, [self._subject(one) for one in filters])
        return NatsWatch(
            stream,
            start,
            incarnation=self.incarnation,
            watches=self._watches,
            read=self._change,
            outdate=self.outdate,
        )

    def _subject(self, raw_key: str) -> str:
        return f"$KV.{self.settings.name}.{raw_key}"

    def _stored_subject(self, subject: str) -> str:
        """Return what a write's subject is called in the stream: without the API prefix of a domain."""
        return subject[subject.index("$KV.") :]

    def _raw_key(self, subject: str) -> str:
        return subject[len("$KV..") + len(self.settings.name) :]

    def _change(self, stored: replies.StoredMessage) -> RawChange:
        return message.read(self._raw_key(stored.subject), stored.data, stored.sequence, stored.written, stored.headers)

    def _max_message_bytes_now(self) -> int:
        # Another server of the cluster may take less, so its limit is asked for anew.
        limit = self._link.max_payload
        return limit if self._max_message_bytes is None else min(limit, self._max_message_bytes)

    async def _direct_get(self, which: str, body: bytes, deadline: Deadline) -> RawChange | None:
        answer = await self._ask(f"{self._link.api}.DIRECT.GET.{self._stream}{which}", body, deadline)
        stored = replies.direct(answer)
        return None if stored is None else self._change(stored)

    async def _leader_get(self, body: Mapping[str, Any], deadline: Deadline) -> RawChange | None:
        stored = await self._leader_message(body, deadline)
        return None if stored is None else self._change(stored)

    async def _leader_message(self, body: Mapping[str, Any], deadline: Deadline) -> replies.StoredMessage | None:
        try:
            answer = await self._call("STREAM.MSG.GET", body, deadline)
        except JetStreamError as error:
            if error.code != replies.NO_MESSAGE:
                raise StoreError(f"bucket {self.settings.name!r}: {error}") from error
            return None
        return replies.from_leader(answer["message"])

    # What finding out about a write reads

    async def latest(self, subject: str, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the newest message of a subject, as the leader has it."""
        return await self._leader_message({"last_by_subj": self._stored_subject(subject)}, deadline)

    async def next_after(self, subject: str, sequence: int, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the first message of a subject above a sequence, as the leader has it."""
        body = {"next_by_subj": self._stored_subject(subject), "seq": sequence + 1}
        return await self._leader_message(body, deadline)

    async def _direct_batch(self, body: Mapping[str, Any], deadline: Deadline) -> list[RawChange]:
        subject = f"{self._link.api}.DIRECT.GET.{self._stream}"
        while True:
            found: list[RawChange] = []
            try:
                async with aclosing(
                    self._link.request_many(subject, msgspec.json.encode(body), deadline=deadline)
                ) as answers:
                    async for answer in answers:
                        stored = replies.direct(answer)
                        if stored is None:
                            return found
                        found.append(self._change(stored))
            except NoRespondersError as error:
                await self.explain_silence(error, deadline)
            except UnansweredError as error:
                if deadline.passed:
                    raise StoreTimeoutError(
                        f"bucket {self.settings.name!r}: {error}", timeout=deadline.timeout
                    ) from error

    async def _all_changes(self, raw_key: str, deadline: Deadline) -> list[RawChange]:
        """Return the changes of a key from a server that is as far as this read must be.

        Asking the leader for one after the other would never end while somebody writes as fast.
        """
        while True:
            least = self._floors.of(raw_key)
            if self._replicated and not self._direct:
                latest = await self._fresh_from_leader(raw_key, deadline)
                if latest is None:
                    return []
                least = latest.revision
            changes: list[RawChange] = []
            while True:
                after = changes[-1].revision + 1 if changes else 1
                more = await self._changes_from(raw_key, after, deadline)
                changes += more
                if len(more) < _HISTORY_BATCH:
                    break
            if self._is_fresh(raw_key, changes[-1] if changes else None, least=least):
                return changes
            if deadline.passed:
                raise StoreUnavailableError(
                    f"{self.settings.name}/{raw_key}: the replicas lag behind their leader for "
                    f"{deadline.timeout.total_seconds():g} s"
                )
            # Also to learn that what was seen has expired or was erased since.
            await self._fresh_from_leader(raw_key, deadline)
            await asyncio.sleep(_LAG_SECONDS)

    async def _changes_from(self, raw_key: str, revision: int, deadline: Deadline) -> list[RawChange]:
        """Return the changes of a key from a revision on, up to a full batch."""
        if self._allow_direct:
            body = {"next_by_subj": self._subject(raw_key), "seq": revision, "batch": _HISTORY_BATCH}
            return await self._direct_batch(body, deadline)
        changes: list[RawChange] = []
        while len(changes) < _HISTORY_BATCH:
            body = {"next_by_subj": self._subject(raw_key), "seq": revision}
            change = await self._leader_get(body, deadline)
            if change is None:
                break
            changes.append(change)
            revision = change.revision + 1
        return changes

    async def _what_refused(self, raw_key: str, expected: int | None, deadline: Deadline) -> RawChange | None:
        """Return what is there after a refusal, as the leader has it.

        If that is what was expected, a replicated bucket has another write of the key on its way, which may yet come to
        nothing: wait a moment then, and try again.

        Raises:
            StoreUnavailableError: the time is over; nothing was stored.
        """
        try:
            current = await self._leader_get({"last_by_subj": self._subject(raw_key)}, deadline)
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
        message.check_size(self.settings, raw_key, data, complete, max_message_bytes=self._max_message_bytes_now())
        return Write(self._written_subject(raw_key), data, complete, expected, operation_id)

    def _written_subject(self, raw_key: str) -> str:
        return f"{self._link.subject_root}.{self.settings.name}.{raw_key}"

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
        if self._replicated:
            self._floors.raise_to(raw_key, revision)

    def refused(self, pair: Pair, refusal: JetStreamError) -> Exception:
        """Return the error for a write of `load` that the server did not take."""
        return self._write_error(pair.raw_key, pair.data, {}, refusal)

    def _write_error(self, raw_key: str, data: bytes, headers: Mapping[str, str], error: JetStreamError) -> Exception:
        where = f"{self.settings.name}/{raw_key}"
        if error.code == _TOO_LARGE:
            # The limit was lowered after the bucket was opened.
            self.outdate()
            limit = self._max_message_bytes_now() - message.headers_size(headers)
            return ValueTooLargeError(bucket=self.settings.name, key=raw_key, size=len(data), limit=limit)
        if error.code == _FULL:
            return StoreError(f"{where}: the bucket is full, nothing was stored; purge keys or raise max_bytes")
        return StoreError(f"{where}: the server refused the write, nothing was stored: {error}")

    async def _ask(self, subject: str, payload: bytes, deadline: Deadline) -> Received:
        """Read something of the stream; while it has no leader, ask again."""
        while True:
            try:
                return await self._link.request(subject, payload, deadline=deadline)
            except NoRespondersError as error:
                await self.explain_silence(error, deadline)

    async def explain_silence(self, error: NoRespondersError, deadline: Deadline) -> None:
        """Nobody listens for the stream: return after a moment if it only lacks a leader.

        Raises:
            BucketNotFoundError: it is gone.
        """
        await self.check_same_life(deadline)
        await self._link.pause(deadline, error)

    async def check_same_life(self, deadline: Deadline) -> None:
        """Look at the stream: what was begun on one life of a bucket must not go on on another.

        Raises:
            BucketNotFoundError: it is gone, or another one.
        """
        info = await self._call("STREAM.INFO", None, deadline)
        if info["created"] == self.incarnation:
            # Somebody may have changed it, for example turned direct gets off.
            self.refresh(info["config"], from_stream(info["config"]))
            return
        self.outdate()
        raise BucketNotFoundError(
            f"bucket {self.settings.name!r} was deleted and made anew meanwhile; decide again",
            bucket=self.settings.name,
        )

    async def _call(self, verb: str, body: Mapping[str, Any] | None, deadline: Deadline) -> dict[str, Any]:
        try:
            try:
                return await self._link.call(f"{verb}.{self._stream}", body, deadline=deadline)
            except JetStreamError as error:
                if error.code != replies.STREAM_NOT_FOUND:
                    raise
                # On a cluster the one who answers may not know yet of a stream that was just made.
                await self._link.pause(deadline, error)
                return await self._link.call(f"{verb}.{self._stream}", body, deadline=deadline)
        except JetStreamError as error:
            if error.code != replies.STREAM_NOT_FOUND:
                raise
            self.outdate()
            raise BucketNotFoundError(
                f"bucket {self.settings.name!r} was deleted; `await store.ensure(...)` makes it again",
                bucket=self.settings.name,
            ) from error


def _revision(change: RawChange | None) -> int:
    return change.revision if change is not None else 0


def _erases_history(change: RawChange) -> bool:
    return isinstance(change, RawMarker) and change.reason != "deleted"
