"""A watch over a bucket in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from kvorm.backends.base import Position, RawEvent, Replay, Resumed, Signal
from kvorm.backends.log import Log, StoredMessage
from kvorm.backends.stored_bucket import StoredBucket
from kvorm.entry import CaughtUp, Reset
from kvorm.keys import matches_any


class MemoryWatch:
    """What one watch has still to tell, and how far it has looked; the log itself is the buffer."""

    def __init__(
        self, find: Callable[[], StoredBucket], stored: StoredBucket, filters: Sequence[str], start: Replay | int
    ) -> None:
        """Say how to find the bucket as it is now, which one it was so far, and what to tell of it."""
        self._find = find
        self._stored = stored
        self._filters = filters
        self._start: Replay | int | None = start
        self._seen = 0
        self._events: deque[StoredMessage | Signal] = deque()
        self._closed = False

    @property
    def silent_for(self) -> float:
        """0.0: memory is never silent."""
        return 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RawEvent:
        await self._await_event()
        return _told(self._events.popleft())

    async def next_at_hand(self) -> list[RawEvent]:
        """Return the next event, and those behind it."""
        await self._await_event()
        events, self._events = self._events, deque()
        return [_told(event) for event in events]

    async def _await_event(self) -> None:
        while True:
            # Give way to others, as a server does.
            await asyncio.sleep(0)
            if self._closed:
                raise StopAsyncIteration
            self._look(self._find())
            if self._events:
                return
            await self._stored.wait_for_change()

    async def aclose(self) -> None:
        """End it, also for a task that waits."""
        self._closed = True
        self._stored.announce()

    def _look(self, stored: StoredBucket) -> None:
        stored.expire()
        if stored is not self._stored:
            self._stored = stored
            self._events = deque([Reset()])
            self._start = Replay.CURRENT
        if self._start is not None:
            self._begin(stored, self._start)
        elif not self._events:
            self._go_on(stored.log)

    def _begin(self, stored: StoredBucket, start: Replay | int) -> None:
        self._start = None
        self._seen = stored.log.last_sequence
        if isinstance(start, int) and start > self._seen:
            self._events.append(Reset())
            start = Replay.CURRENT
        self._tell(_replayed(stored.log, start))
        self._events.append(CaughtUp(self._seen, stored.incarnation))

    def _go_on(self, log: Log) -> None:
        if log.last_sequence == self._seen:
            return
        if log.last_expired > self._seen:
            # A marker may have come and gone since.
            self._events.append(Resumed())
        self._tell(list(log.after(self._seen)))
        self._seen = log.last_sequence
        last = self._events[-1] if self._events else None
        if not isinstance(last, StoredMessage) or last.sequence < self._seen:
            self._events.append(Position(self._seen))

    def _tell(self, messages: Sequence[StoredMessage]) -> None:
        self._events.extend(one for one in messages if matches_any(self._filters, one.subject))


def _told(event: StoredMessage | Signal) -> RawEvent:
    return event.change() if isinstance(event, StoredMessage) else event


def _replayed(log: Log, start: Replay | int) -> list[StoredMessage]:
    """Return what a watch delivers before it has caught up, oldest first."""
    if start is Replay.NOTHING:
        return []
    stored = list(log.after(start if isinstance(start, int) else 0))
    if start is Replay.CURRENT:
        latest = {entry.subject: entry.sequence for entry in stored}
        return [entry for entry in stored if latest[entry.subject] == entry.sequence]
    return stored
