"""A stream's log that forgets nothing: what it held at each sequence, for replicas that lag and for whoever checks."""

from __future__ import annotations

from datetime import datetime

from kvorm.backends.log import Clock, Limits, Log, StoredMessage


class RecordedLog(Log):
    """The log of the memory store, and beside it all that it ever held."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        super().__init__(limits, clock)
        self.archive: list[StoredMessage] = []
        """Every message, gone or not; the first has the sequence 1."""
        self.removed: dict[int, int] = {}
        """From which last sequence on a message is gone; 0 where time removed it, for every replica at once."""
        self.removed_at: dict[int, datetime] = {}
        """When a message went."""
        self._storing = False

    def held(self, last: int) -> list[StoredMessage]:
        """Return what the log held when its last sequence was that, oldest first."""
        self.expire()
        removed = self.removed
        return [one for one in self.archive[:last] if removed.get(one.sequence, last + 1) > last]

    def _store(self, entry: StoredMessage, *, kept: int) -> None:
        self._storing = True
        super()._store(entry, kept=kept)
        self._storing = False
        self.archive.append(entry)

    def _remove(self, entry: StoredMessage) -> None:
        super()._remove(entry)
        self.removed[entry.sequence] = self.last_sequence + 1 if self._storing else 0
        self.removed_at[entry.sequence] = self._clock()
