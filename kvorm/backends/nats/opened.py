"""One life of a bucket's stream: what it is, what is asked of it, and when it turns out to be gone or another one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from kvorm.backends import message
from kvorm.backends.base import Deadline, RawChange, Reads
from kvorm.backends.nats import replies
from kvorm.backends.nats.config import from_stream, stream_name
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.requests import NoRespondersError, UnansweredError
from kvorm.bucket import Bucket
from kvorm.errors import BucketNotFoundError, StoreError, StoreTimeoutError


class Batch(NamedTuple):
    """The answer to a direct get of many messages, and how far the replica was that gave it."""

    changes: list[RawChange]
    up_to: int


class OpenedStream:
    """The stream of an opened bucket.

    Attributes:
        name: of the stream.
        incarnation: which life of the bucket this is.
        settings: what the bucket is.
        is_replicated: whether another replica, or a mirror, may answer with less than was acknowledged.
        allows_direct: whether replicas answer reads.
        is_nearest: whether a single read may be answered by any replica.
        allows_batches: whether it takes fast-ingest batches.
        remembers_seconds: how long it knows the operation id of a write.
    """

    def __init__(self, link: Link, incarnation: str, config: Mapping[str, Any], settings: Bucket, reads: Reads) -> None:
        self.link = link
        self.incarnation = incarnation
        self.name = stream_name(settings.name)
        self._reads: Reads = reads
        self.refresh(config, settings)

    def refresh(self, config: Mapping[str, Any], settings: Bucket) -> None:
        """Take over what the server says of the bucket now."""
        self.settings = settings
        self._life: int | None = self.link.life
        # A mirror may answer direct gets like a replica, and lag like one.
        self.is_replicated = config.get("num_replicas", 1) > 1 or bool(config.get("mirror_direct"))
        self.allows_direct = bool(config.get("allow_direct"))
        self.allows_batches = bool(config.get("allow_batched"))
        self.is_nearest = self.allows_direct and (self._reads == "nearest" or not self.is_replicated)
        self._prefix = f"$KV.{settings.name}."
        self._key_start = len(self._prefix)
        self._written_prefix = f"{self.link.subject_root}.{settings.name}."
        limit: int = config.get("max_msg_size", -1)
        self.remembers_seconds = config.get("duplicate_window", 0) / 1e9
        self._max_message_bytes = limit if limit > 0 else None

    def outdate(self) -> None:
        """The bucket may have been deleted, or be another one."""
        self._life = None

    @property
    def is_current(self) -> bool:
        """False once the bucket may have been deleted or made anew."""
        return self._life == self.link.life

    @property
    def max_message_bytes(self) -> int:
        """What one message may have in all, headers included."""
        # Another server of the cluster may take less, so its limit is asked for anew.
        limit = self.link.max_payload
        return limit if self._max_message_bytes is None else min(limit, self._max_message_bytes)

    # Names

    def subject(self, raw_key: str) -> str:
        """Return the subject of a key, or a filter, in the stream."""
        return f"{self._prefix}{raw_key}"

    def written_subject(self, raw_key: str) -> str:
        """Return the subject that a key is written to: within a domain another one."""
        return f"{self._written_prefix}{raw_key}"

    def raw_key(self, subject: str) -> str:
        """Return the key of a subject in the stream."""
        return subject[len(self._prefix) :]

    def change(self, stored: replies.StoredMessage) -> RawChange:
        """Return what a stored message says."""
        return message.read(self.raw_key(stored.subject), stored.data, stored.sequence, stored.written, stored.headers)

    def delivered(self, message: Received) -> RawChange:
        """Return what a delivered message says."""
        return replies.plain_delivery(message, self._key_start) or self.change(replies.stored(message))

    def _answered(self, answer: Received) -> RawChange | None:
        """Return what an answer to a direct get says; None where nothing is there or nothing more comes.

        Raises:
            NoRespondersError, StoreError: as `replies.direct`.
        """
        entry = replies.plain_answer(answer, self._prefix)
        if entry is None:
            stored = replies.direct(answer)
            return None if stored is None else self.change(stored)
        return entry

    # Reads that any replica may answer

    async def direct_get(self, which: str, body: bytes, deadline: Deadline) -> RawChange | None:
        """Return one message: the latest of `.subject`, or what a body asks for."""
        subject = f"{self.link.api}.DIRECT.GET.{self.name}{which}"
        while True:
            try:
                return self._answered(await self.link.request(subject, body, deadline=deadline))
            except NoRespondersError:
                await self.explain_silence(subject, deadline)

    async def direct_batch(self, body: Mapping[str, Any], deadline: Deadline) -> Batch:
        """Return many messages."""
        subject = f"{self.link.api}.DIRECT.GET.{self.name}"
        payload = msgspec.json.encode(body)
        while True:
            found: list[RawChange] = []
            try:
                async with aclosing(self.link.request_many(subject, payload, deadline=deadline)) as answers:
                    async for answer in answers:
                        change = self._answered(answer)
                        if change is None:
                            return Batch(found, replies.up_to(answer))
                        found.append(change)
            except NoRespondersError:
                await self.explain_silence(subject, deadline)
            except UnansweredError as error:
                if deadline.passed:
                    raise StoreTimeoutError(
                        f"bucket {self.settings.name!r}: {error}", timeout=deadline.timeout
                    ) from error

    # Reads that the leader answers

    async def leader_get(self, body: Mapping[str, Any], deadline: Deadline) -> RawChange | None:
        """Return one message."""
        stored = await self.leader_message(body, deadline)
        return None if stored is None else self.change(stored)

    async def leader_message(self, body: Mapping[str, Any], deadline: Deadline) -> replies.StoredMessage | None:
        """Return one message as the stream holds it."""
        try:
            answer = await self.call("STREAM.MSG.GET", body, deadline)
        except JetStreamError as error:
            if error.code != replies.NO_MESSAGE:
                raise StoreError(f"bucket {self.settings.name!r}: {error}") from error
            return None
        return replies.from_leader(answer["message"])

    async def latest(self, subject: str, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the newest message of a subject that was written to."""
        return await self.leader_message({"last_by_subj": _stored(subject)}, deadline)

    async def next_after(self, subject: str, sequence: int, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the first message above a sequence of a subject that was written to."""
        return await self.leader_message({"next_by_subj": _stored(subject), "seq": sequence + 1}, deadline)

    async def last_sequence(self, deadline: Deadline) -> int:
        """Return how far the leader is."""
        last: int = (await self.call("STREAM.INFO", None, deadline))["state"]["last_seq"]
        return last

    async def look_anew(self, deadline: Deadline) -> None:
        """Learn what the bucket is now: somebody may have given it a longer history since it was opened."""
        config = (await self.call("STREAM.INFO", None, deadline))["config"]
        self.refresh(config, from_stream(config))

    async def call(self, verb: str, body: Mapping[str, Any] | None, deadline: Deadline) -> dict[str, Any]:
        """Ask the leader.

        Raises:
            BucketNotFoundError: the stream is gone.
            JetStreamError: refused for another reason.
        """
        try:
            try:
                return await self.link.call(f"{verb}.{self.name}", body, deadline=deadline)
            except JetStreamError as error:
                if error.code != replies.STREAM_NOT_FOUND:
                    raise
                # On a cluster the one who answers may not know yet of a stream that was just made.
                await self.link.pause(deadline, error)
                return await self.link.call(f"{verb}.{self.name}", body, deadline=deadline)
        except JetStreamError as error:
            if error.code != replies.STREAM_NOT_FOUND:
                raise
            self.outdate()
            raise BucketNotFoundError(
                f"bucket {self.settings.name!r} was deleted; `await store.ensure(...)` makes it again",
                bucket=self.settings.name,
            ) from error

    # Whether it is still the same

    def lasts(self, headers: Mapping[str, str]) -> timedelta | None:
        """Return how long a message, or the marker of its end, is there at least; None: as long as nobody erases it."""
        settings = self.settings
        lifetime = message.lifetime(message.ttl(headers), settings.ttl)
        return lifetime if settings.marker_ttl is None else min(lifetime or settings.marker_ttl, settings.marker_ttl)

    async def explain_silence(self, subject: str, deadline: Deadline) -> None:
        """Nobody listens on a subject of the stream: return after a moment if it only lacks a leader.

        Raises:
            BucketNotFoundError: it is gone.
        """
        await self.check_same_life(deadline)
        await self.link.pause(deadline, NoRespondersError(f"nobody listens on {subject}"))

    async def check_same_life(self, deadline: Deadline) -> None:
        """Look at the stream: what was begun on one life of a bucket must not go on on another.

        Raises:
            BucketNotFoundError: it is gone, or another one.
        """
        info = await self.call("STREAM.INFO", None, deadline)
        if info["created"] == self.incarnation:
            # Somebody may have changed it, for example turned direct gets off.
            self.refresh(info["config"], from_stream(info["config"]))
            return
        raise self.made_anew()

    def made_anew(self) -> BucketNotFoundError:
        """Return the error for a bucket that turns out to be another one, and remember it."""
        self.outdate()
        return BucketNotFoundError(
            f"bucket {self.settings.name!r} was deleted and made anew meanwhile; decide again",
            bucket=self.settings.name,
        )


def _stored(subject: str) -> str:
    """Return what a write's subject is called in the stream: without the API prefix of a domain."""
    return subject[subject.index("$KV.") :]
