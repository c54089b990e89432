"""When entries leave of which no marker tells for sure.

A bucket that keeps markers tells of each entry that expires. Without them nobody does; where a key has a history, an
entry with a lifetime of its own leaves silently and its older value is back (both seen on server 2.15); and a marker
that lives for a second may be gone before a replica that lags has passed it on. So the store is asked when the time has
come, and again until it says so: its clock counts, ours only says when to ask.
"""

from __future__ import annotations

import heapq
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from kvorm.backends import message
from kvorm.backends.base import RawChange, RawEntry
from kvorm.bucket import Bucket

_ASK_AGAIN: Final = timedelta(seconds=0.25)
_HEARD_FOR_SURE: Final = timedelta(seconds=10)
"""A marker that lives so long is told by every replica: its server is noticed as lost before, and the keys compared."""

_SWEEP_SLACK: Final = 64


def utc_now() -> datetime:
    """Return our own time, aware UTC."""
    return datetime.now(UTC)


class Leaving(NamedTuple):
    """An entry that leaves silently: when to ask for it, and what the view holds of it."""

    due: datetime
    revision: int
    raw_key: str
    held: Any


class Lifetimes:
    """The entries that will leave, the earliest first."""

    def __init__(self) -> None:
        self._leaving: dict[str, Leaving] = {}
        # What was written again since is skipped when its turn comes, and swept out once it is the majority.
        self._queue: list[tuple[datetime, str]] = []

    def __bool__(self) -> bool:
        return bool(self._leaving)

    def note(self, raw: RawChange, held: object, settings: Bucket) -> None:
        """Remember an entry in place of what its key had, if it has a lifetime and nothing will tell of its end."""
        self._leaving.pop(raw.raw_key, None)
        if not isinstance(raw, RawEntry):
            return
        lifetime = message.lifetime(raw.ttl, settings.ttl)
        if lifetime is not None and not _tells(raw, settings):
            # Whatever the two clocks say, it is not there any longer than its lifetime from now on.
            due = min(raw.written, utc_now()) + lifetime
            self._put(Leaving(due, raw.revision, raw.raw_key, held))

    def ask_again(self, entry: Leaving) -> None:
        """Put back an entry that is still there, unless its key was written meanwhile."""
        if entry.raw_key not in self._leaving:
            self._put(entry._replace(due=utc_now() + _ASK_AGAIN))

    def take_due(self, number: int) -> list[Leaving]:
        """Take out up to so many whose time has come."""
        now = utc_now()
        taken: list[Leaving] = []
        while self._queue and self._queue[0][0] <= now and len(taken) < number:
            due, raw_key = heapq.heappop(self._queue)
            if raw_key in self._leaving and self._leaving[raw_key].due == due:
                taken.append(self._leaving.pop(raw_key))
        return taken

    def _put(self, entry: Leaving) -> None:
        self._leaving[entry.raw_key] = entry
        heapq.heappush(self._queue, (entry.due, entry.raw_key))
        if len(self._queue) > 2 * len(self._leaving) + _SWEEP_SLACK:
            self._queue = sorted((one.due, one.raw_key) for one in self._leaving.values())


def _tells(raw: RawEntry, settings: Bucket) -> bool:
    """Tell whether a marker will say for sure that an entry has expired."""
    if settings.marker_ttl is None or settings.marker_ttl < _HEARD_FOR_SURE:
        return False
    return raw.ttl is None or settings.history == 1
