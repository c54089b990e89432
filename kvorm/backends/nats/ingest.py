"""Bytes stored in order and unchecked: by fast-ingest batches where the stream takes them, else side by side.

The server stores each message of a batch as it comes, tells now and then how far it is, and takes nothing after the
first that it did not get or refused. So what is stored is the batch's beginning, and its end tells how long that is.
Source: ADR-50, and what server 2.15.1 answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

import msgspec

from kvorm.backends.base import Deadline, LoadError, Pair, Put, Told
from kvorm.backends.nats import replies
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.requests import NoRespondersError, Part, UnansweredError, result
from kvorm.entry import ANY
from kvorm.errors import StoreClosedError, StoreError, StoreTimeoutError, StoreUnavailableError

_BATCHES_DISABLED: Final = 10205
_BATCH_UNKNOWN: Final = 10208
_TOLD_EVERY: Final = 100
"""After how many messages the server tells how far it is."""

_START, _APPEND, _END = 0, 1, 3
_GRACE_SECONDS: Final = 1.0
"""How long the end of a batch is waited for that the server says it does not know (any more)."""


_MAYBE_STORED: Final = (StoreTimeoutError, StoreClosedError)
"""What leaves open whether it is stored."""


class Target(Protocol):
    """The bucket that is loaded."""

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each, a bounded number at a time."""
        ...

    async def explain_silence(self, subject: str, deadline: Deadline) -> None:
        """Return after a moment if the stream lacks a leader, raise if it is gone."""
        ...

    def written(self, raw_key: str, revision: int) -> None:
        """Take note that this store wrote a key, at this revision or before it."""
        ...

    def refused(self, pair: Pair, refusal: JetStreamError) -> Exception:
        """Return the error for a write that the server did not take."""
        ...


class Ingest:
    """Loads one bucket, whose subjects begin with `root`."""

    def __init__(self, link: Link, root: str, target: Target) -> None:
        self._link = link
        self._root = root
        self._target = target

    async def side_by_side(self, pairs: Sequence[Pair], deadline: Deadline) -> None:
        """Store them many at a time, but a key that comes again only after what came before it.

        Raises:
            LoadError: not all were stored; some after the first that was not may be.
        """
        start = 0
        while start < len(pairs):
            end = _before_repeat(pairs, start)
            outcomes: dict[int, int | Exception] = {}
            puts = (Put(index, *pairs[index], ANY, "") for index in range(start, end))
            budget = Deadline(timedelta(seconds=deadline.remaining()))
            await self._target.put_many(puts, deadline=budget, told=outcomes.__setitem__)
            for index in range(start, end):
                outcome = outcomes.pop(index)
                if isinstance(outcome, Exception):
                    raise LoadError(index) from _stopped(outcome, outcomes.values(), deadline)
            start = end

    async def by_batches(self, pairs: Sequence[Pair], deadline: Deadline) -> None:
        """Store them in one batch, and what the server could not take for the moment in further ones.

        Raises:
            LoadError: not all were stored.
        """
        stored = 0
        try:
            while stored < len(pairs):
                stored += await self._beginning(pairs[stored:], deadline)
        except LoadError as error:
            raise LoadError(stored + error.stored) from error.__cause__
        except Exception as error:
            raise LoadError(stored) from error

    async def _beginning(self, pairs: Sequence[Pair], deadline: Deadline) -> int:
        """Store as many as one batch takes, from the first on; return their number."""
        try:
            stored, sequence, refusal = await self._batch(pairs, deadline)
        except NoRespondersError:
            # Never stored: no stream listened to the first, and without that the others are refused.
            await self._target.explain_silence(f"{self._root}{pairs[0].raw_key}", deadline)
            return 0
        for later, pair in enumerate(reversed(pairs[:stored])):
            self._target.written(pair.raw_key, sequence - later)
        if refusal is None:
            return stored
        if refusal.err_code == _BATCHES_DISABLED:
            # Somebody has changed the stream since it was opened.
            await self.side_by_side(pairs, deadline)
            return len(pairs)
        cause = JetStreamError(refusal.err_code, refusal.description)
        if not replies.is_temporary(refusal):
            raise LoadError(stored) from self._target.refused(pairs[stored], cause)
        try:
            await self._link.pause(deadline, cause)
        except StoreUnavailableError as error:
            raise LoadError(stored) from error
        return stored

    async def _batch(self, pairs: Sequence[Pair], deadline: Deadline) -> _Ended:
        """Send a batch and return how it ended.

        Raises:
            NoRespondersError: nobody listens; nothing was stored.
            LoadError: nothing tells how it ended; at least so many are stored.
        """
        progress = _Progress(self._parts(pairs))
        sent = self._link.request_parts(progress.parts, deadline=deadline, patience=deadline.remaining())
        try:
            async with asyncio.timeout(None) as patience, aclosing(sent) as answers:
                async for answer in answers:
                    progress.take(answer)
                    if progress.ended is not None:
                        break
                    if progress.is_orphaned and patience.when() is None:
                        patience.reschedule(asyncio.get_running_loop().time() + _GRACE_SECONDS)
        except (UnansweredError, TimeoutError) as error:
            raise LoadError(progress.reached) from _unknown(error, deadline)
        except StoreError as error:
            raise LoadError(progress.reached) from error
        assert progress.ended is not None, "answers come until one of them is the end"
        return progress.ended

    def _parts(self, pairs: Sequence[Pair]) -> list[Part]:
        """Return the messages of a batch. The last one only ends it, so that each error of another has a successor."""
        root = self._root
        parts = [
            Part(f"{root}{raw_key}", data, _step(number, _APPEND)) for number, (raw_key, data) in enumerate(pairs, 1)
        ]
        parts[0] = parts[0]._replace(step=_step(1, _START))
        parts.append(Part(parts[0].subject, b"", _step(len(parts) + 1, _END)))
        return parts


class _Answer(msgspec.Struct):
    """What the server says of a batch. Without a type it is the end of it, or a refusal."""

    type: str = ""
    seq: int = 0
    count: int = 0
    error: replies.Refusal | None = None


class _Ended(NamedTuple):
    """How many messages of a batch are stored, the sequence of the last of them, and what was refused."""

    stored: int
    sequence: int
    refusal: replies.Refusal | None


class _Progress:
    """How far a batch is, from what the server says.

    Attributes:
        parts: its messages.
        reached: how many are stored at least.
        ended: how it ended, once that is known.
        is_orphaned: nobody knows the batch any more; its end may still be on its way.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.reached = 0
        self.ended: _Ended | None = None
        self.is_orphaned = False
        self._refusal: replies.Refusal | None = None

    def take(self, answer: Received) -> None:
        """Take one answer.

        Raises:
            NoRespondersError: nobody listened to the first message.
        """
        is_first = answer.subject.endswith(self.parts[0].step)
        try:
            told = _answers.decode(result(answer).data)
        except NoRespondersError:
            if is_first:
                raise
            self._orphan(answer)
            return
        if told.type == "ack":
            self.reached = told.seq
        elif told.error is None:
            if not told.type:
                self.ended = _Ended(told.count, told.seq, self._refusal)
        elif told.error.err_code == _BATCH_UNKNOWN:
            self._orphan(answer)
        else:
            self._refusal = self._refusal or told.error
            if is_first:
                self.ended = _Ended(0, 0, self._refusal)

    def _orphan(self, answer: Received) -> None:
        self.is_orphaned = self.is_orphaned or answer.subject.endswith(self.parts[-1].step)


_answers: Final = msgspec.json.Decoder(_Answer)


def _step(number: int, operation: int) -> str:
    """Return what the subject that answers the message with this number ends in."""
    return f".{_TOLD_EVERY}.fail.{number}.{operation}.$FI"


def _before_repeat(pairs: Sequence[Pair], start: int) -> int:
    """Return where the first key comes that came before, from `start` on."""
    seen: set[str] = set()
    for index in range(start, len(pairs)):
        if pairs[index].raw_key in seen:
            return index
        seen.add(pairs[index].raw_key)
    return len(pairs)


def _stopped(cause: Exception, behind: Iterable[int | Exception], deadline: Deadline) -> Exception:
    """Return why a load stopped, where what became of those behind the first that was not stored may be more."""
    if isinstance(cause, _MAYBE_STORED) or not any(isinstance(one, (int, *_MAYBE_STORED)) for one in behind):
        return cause
    stopped = StoreTimeoutError(
        f"behind the first that could not be stored some may be: read their keys, or load them again ({cause})",
        timeout=deadline.timeout,
    )
    stopped.__cause__ = cause
    return stopped


def _unknown(error: Exception, deadline: Deadline) -> StoreTimeoutError:
    unknown = StoreTimeoutError(
        f"nothing tells how far a batch came ({str(error) or 'no answer in time'}): read its keys, or load them again",
        timeout=deadline.timeout,
    )
    unknown.__cause__ = error
    return unknown
