"""What a store has seen of each key, so that a lagging replica or a leader just come back cannot take it back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MOST_KEYS: Final = 100_000


class Floors:
    """The highest revision this store wrote or read of each key, for the keys used last."""

    def __init__(self) -> None:
        self._floors: OrderedDict[str, int] = OrderedDict()
        self.highest = 0
        """The highest revision of any key."""

    def of(self, raw_key: str) -> int:
        """Return the revision below which no answer is fresh; 0 where nothing is known."""
        return self._floors.get(raw_key, 0)

    def raise_to(self, raw_key: str, revision: int) -> None:
        """Remember a revision that was written or read."""
        self.highest = max(self.highest, revision)
        if revision > self._floors.get(raw_key, 0):
            self._floors[raw_key] = revision
        if raw_key in self._floors:
            self._floors.move_to_end(raw_key)
        if len(self._floors) > MOST_KEYS:
            self._floors.popitem(last=False)

    def forget(self, raw_key: str) -> None:
        """Drop what is known of a key: what was seen is gone from the stream."""
        self._floors.pop(raw_key, None)
