"""An in-memory stream: messages under subjects, numbered as they come, with limits and expiry.

It behaves as the server's stream does where a bucket can tell: per-subject history, whole-subject rollups, lifetimes
with markers, a size limit that refuses new messages. Time is whatever the clock says; nothing happens between calls.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from kvorm.backends import message
from kvorm.backends.base import RawChange

Clock: TypeAlias = Callable[[], datetime]
"""Tells the time, aware UTC."""

_SWEEP_SLACK = 64


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of the log."""

    subject: str
    sequence: int
    written: datetime
    headers: Mapping[str, str]
    data: bytes

    @property
    def size(self) -> int:
        """Bytes that count against the log's limit."""
        return len(self.subject) + message.headers_size(self.headers) + len(self.data)

    def change(self) -> RawChange:
        """Return what it says."""
        return message.read(self.subject, self.data, self.sequence, self.written, self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a log keeps; None: without limit."""

    per_subject: int = 1
    max_age: timedelta | None = None
    marker_ttl: timedelta | None = None
    max_bytes: int | None = None


class WrongLastSequenceError(Exception):
    """The last sequence of the subject is not the expected one; nothing was stored."""


class LogFullError(Exception):
    """The message does not fit under `max_bytes`; nothing was stored."""


class Log:
    """An append-only log of messages under subjects.

    Attributes:
        last_sequence: the number of the newest message, gone or not.
        last_expired: the highest number that has outlived its time.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self.last_sequence = 0
        self.last_expired = 0
        self._clock = clock
        self._messages: dict[int, StoredMessage] = {}
        # Every sequence in order; those gone are swept out once they are the majority.
        self._order: list[int] = []
        # Sequences of each subject, oldest first: a dict keeps their order and removes in constant time.
        self._subjects: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self._expiries: list[tuple[datetime, int]] = []
        self._bytes = 0

    def append(self, subject: str, data: bytes, headers: Mapping[str, str], *, expected: int | None = None) -> int:
        """Store a message; return its sequence.

        `expected` is the last sequence the subject must have, 0 for none at all.

        Raises:
            WrongLastSequenceError, LogFullError: nothing was stored.
        """
        self.expire()
        last = self.last(subject)
        if expected is not None and expected != (last.sequence if last else 0):
            raise WrongLastSequenceError
        kept = 0 if headers.get(message.ROLLUP) == "sub" else self.limits.per_subject - 1
        entry = StoredMessage(subject, self.last_sequence + 1, self._clock(), dict(headers), data)
        self._check_room(entry, kept=kept)
        self._store(entry, kept=kept)
        return entry.sequence

    def last(self, subject: str) -> StoredMessage | None:
        """Return the newest message of a subject."""
        self.expire()
        sequences = self._subjects.get(subject)
        return self._messages[next(reversed(sequences))] if sequences else None

    def at(self, sequence: int) -> StoredMessage | None:
        """Return the message with this number, if it is still there."""
        self.expire()
        return self._messages.get(sequence)

    def of(self, subject: str) -> list[StoredMessage]:
        """Return the messages of a subject, oldest first."""
        self.expire()
        return [self._messages[sequence] for sequence in self._subjects.get(subject, ())]

    def after(self, sequence: int) -> Iterator[StoredMessage]:
        """Yield the messages with a higher number, oldest first; of those there now the ones still there then."""
        self.expire()
        later = self._order[bisect_right(self._order, sequence) :]
        return (self._messages[number] for number in later if number in self._messages)

    def subjects(self) -> list[str]:
        """Return every subject that has a message."""
        self.expire()
        return list(self._subjects)

    @property
    def size_bytes(self) -> int:
        """What all messages take."""
        return self._bytes

    def restrict(self, limits: Limits) -> None:
        """Apply other limits, also to what is stored."""
        self.limits = limits
        self._expiries = []
        for entry in list(self._messages.values()):
            self._schedule_expiry(entry)
        for subject in list(self._subjects):
            for gone in self._displaced(subject, kept=limits.per_subject):
                self._remove(gone)
        self.expire()

    def next_expiry(self) -> datetime | None:
        """Return when the next message may expire; it may be gone by then for another reason."""
        return self._expiries[0][0] if self._expiries else None

    def expire(self) -> None:
        """Remove what has outlived its time; the last message of a subject leaves a marker if the limits say so."""
        while self._expiries and self._expiries[0][0] <= self._clock():
            _, sequence = heapq.heappop(self._expiries)
            entry = self._messages.get(sequence)
            if entry is None:
                continue
            self.last_expired = max(self.last_expired, sequence)
            if self.limits.marker_ttl is not None and self._is_marked(entry):
                self._mark_expired(entry.subject, self.limits.marker_ttl)
            else:
                self._remove(entry)

    def _is_marked(self, entry: StoredMessage) -> bool:
        """Whether a marker takes the place of what is about to expire (ADR-43, and seen on server 2.15).

        A KV delete counts as a value here, a KV purge as a marker. Only for the last message of its subject comes one;
        if its own lifetime ended, not that of all messages, only where nothing older is left.
        """
        sequences = self._subjects[entry.subject]
        if _is_final_marker(entry) or entry.sequence != next(reversed(sequences)):
            return False
        return len(sequences) == 1 or self._lifetime(entry) == self.limits.max_age

    def _mark_expired(self, subject: str, ttl: timedelta) -> None:
        headers = {message.MARKER_REASON: "MaxAge", message.TTL: _ttl_text(ttl), message.ROLLUP: "sub"}
        self._store(StoredMessage(subject, self.last_sequence + 1, self._clock(), headers, b""), kept=0)

    def _store(self, entry: StoredMessage, *, kept: int) -> None:
        for gone in self._displaced(entry.subject, kept=kept):
            self._remove(gone)
        self.last_sequence = entry.sequence
        self._messages[entry.sequence] = entry
        self._order.append(entry.sequence)
        if len(self._order) > 2 * len(self._messages) + _SWEEP_SLACK:
            self._order = list(self._messages)
        self._subjects[entry.subject][entry.sequence] = None
        self._bytes += entry.size
        self._schedule_expiry(entry)

    def _schedule_expiry(self, entry: StoredMessage) -> None:
        lifetime = self._lifetime(entry)
        if lifetime is not None:
            heapq.heappush(self._expiries, (entry.written + lifetime, entry.sequence))

    def _lifetime(self, entry: StoredMessage) -> timedelta | None:
        if _is_expiry_marker(entry):
            return self.limits.marker_ttl
        return message.lifetime(message.ttl(entry.headers), self.limits.max_age)

    def _displaced(self, subject: str, *, kept: int) -> list[StoredMessage]:
        """Return the oldest messages of a subject beyond the newest `kept`."""
        sequences = list(self._subjects.get(subject, ()))
        return [self._messages[sequence] for sequence in sequences[: max(0, len(sequences) - kept)]]

    def _check_room(self, entry: StoredMessage, *, kept: int) -> None:
        if self.limits.max_bytes is None:
            return
        freed = sum(gone.size for gone in self._displaced(entry.subject, kept=kept))
        if self._bytes - freed + entry.size > self.limits.max_bytes:
            raise LogFullError

    def _remove(self, entry: StoredMessage) -> None:
        del self._messages[entry.sequence]
        sequences = self._subjects[entry.subject]
        del sequences[entry.sequence]
        if not sequences:
            del self._subjects[entry.subject]
        self._bytes -= entry.size


def _is_expiry_marker(entry: StoredMessage) -> bool:
    return message.MARKER_REASON in entry.headers


def _is_final_marker(entry: StoredMessage) -> bool:
    return _is_expiry_marker(entry) or entry.headers.get(message.OPERATION) == "PURGE"


def _ttl_text(ttl: timedelta) -> str:
    return f"{ttl // timedelta(seconds=1)}s"
