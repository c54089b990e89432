"""What really was stored, read from the logs of the simulated streams: which state each key was in, and when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvorm.backends import message
from kvorm.backends.base import RawEntry, RawMarker
from kvorm.backends.log import StoredMessage
from kvorm.testing.simulation.record import Seen

NEVER = float("inf")
SLACK = 1e-5
"""Dates have microseconds, so two moments so close are one."""


class Written(NamedTuple):
    """One stored message: an entry with its tag, or a marker."""

    key: str
    revision: int
    tag: str | None
    at: float
    reason: str = ""
    gone: float = NEVER
    """When it was pushed out, erased, or expired."""

    @property
    def seen(self) -> Seen:
        """How a reader is told of it."""
        return Seen(self.key, self.revision, self.tag)


class State(NamedTuple):
    """What was the latest of a key for some time; None: nothing was there."""

    start: float
    end: float
    latest: Written | None
    life: str = ""
    """In which life of the bucket; none while it was gone."""


@dataclass(slots=True)
class Life:
    """One life of the bucket; the server tells it from others by the date of its creation."""

    created: str
    start: float
    end: float
    written: Sequence[Written]
    by_key: dict[str, list[Written]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_key = {}
        for one in self.written:
            self.by_key.setdefault(one.key, []).append(one)

    def at(self, revision: int) -> Written | None:
        """Return what was stored with that revision, gone or not."""
        return self.written[revision - 1] if 0 < revision <= len(self.written) else None

    def states(self, key: str) -> Iterator[State]:
        """Yield the states of a key, in order."""
        since, latest = self.start, None
        for one in self.by_key.get(key, ()):
            if latest is not None and latest.gone < one.at - SLACK:
                yield State(since, latest.gone, latest, self.created)
                since, latest = latest.gone, None
            yield State(since, one.at, latest, self.created)
            since, latest = one.at, one
        if latest is not None and latest.gone < self.end:
            yield State(since, latest.gone, latest, self.created)
            since, latest = latest.gone, None
        yield State(since, self.end, latest, self.created)

    def last_revision(self, moment: float) -> int:
        """Return the last revision that was stored by then."""
        last = 0
        for one in self.written:
            if one.at > moment:
                break
            last = one.revision
        return last

    def held(self, key: str, moment: float) -> list[Seen]:
        """Return what was kept of a key just after a moment."""
        return [one.seen for one in self.by_key.get(key, ()) if one.at <= moment + SLACK and one.gone > moment + SLACK]

    def expiring(self, key: str, moment: float) -> Iterator[list[Seen]]:
        """Yield what was kept of a key while it expired: the oldest goes first, the last waits for its marker."""
        going = [one.seen for one in self.by_key.get(key, ()) if abs(one.gone - moment) <= SLACK and one.at < moment]
        for number in range(1, len(going)):
            yield going[number:]


@dataclass(slots=True)
class Truth:
    """All lives of the bucket, in order."""

    lives: Sequence[Life]

    @property
    def keys(self) -> list[str]:
        """Every key that was ever written."""
        return sorted({key for life in self.lives for key in life.by_key})

    def written(self) -> Iterator[Written]:
        """Yield everything that was ever stored."""
        for life in self.lives:
            yield from life.written

    def states(self, key: str, start: float, end: float) -> Iterator[State]:
        """Yield the states a key was in between two moments, both included."""
        previous = 0.0
        for life in self.lives:
            if previous <= end and life.start >= start:
                yield State(previous, life.start, None)
            for state in life.states(key):
                if state.start <= end + SLACK and state.end >= start - SLACK:
                    yield state
            previous = life.end
        if not self.lives or (end > previous and start < NEVER):
            yield State(previous, NEVER, None)

    def was_gone(self, start: float, end: float) -> bool:
        """Tell whether the bucket was not there at some moment between two."""
        ends = [0.0, *(life.end for life in self.lives)]
        begins = [*(life.start for life in self.lives), NEVER]
        return any(begin > start and gone < end for gone, begin in zip(ends, begins, strict=True) if begin > gone)

    def lives_during(self, start: float, end: float) -> list[Life]:
        """Return the lives that the bucket had between two moments."""
        return [life for life in self.lives if life.start <= end and life.end >= start]


def written(stored: Iterable[tuple[StoredMessage, float, float]], prefix: str) -> list[Written]:
    """Return messages of a stream as what they say; beside each when it came and when it went."""
    found: list[Written] = []
    for one, at, gone in stored:
        key = one.subject.removeprefix(prefix)
        change = message.read(key, one.data, one.sequence, one.written, one.headers)
        match change:
            case RawEntry(data=data):
                found.append(Written(key, one.sequence, json.loads(data)["tag"], at, gone=gone))
            case RawMarker(reason=reason):
                found.append(Written(key, one.sequence, None, at, reason, gone))
    return found
