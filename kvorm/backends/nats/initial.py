"""The initial state of a watch: counted, not guessed, when all of it has been told (S4)."""

from __future__ import annotations

from collections.abc import Sequence

from kvorm.backends.base import Deadline
from kvorm.backends.nats.stream import Stream


class InitialState:
    """What is still to be told of what the bucket held when a watch began.

    The consumer leaves out what is pushed out of the stream before it gets there: a key that is written anew comes
    later then, as what it is by then. Its counts of what is pending do not tell, so the leader is asked.
    """

    def __init__(self, stream: Stream, last: int, *, whole: bool) -> None:
        """Begin when the stream ends at `last`; `whole` if every key will be told, not only those that changed."""
        self._stream = stream
        self._whole = whole
        self.last = last
        self._bound = last
        self._passed = False
        self._told: set[str] = set()
        # Keys of the start that were written anew before they were told.
        self._owed: set[str] | None = None

    def tell(self, subjects: Sequence[str]) -> None:
        """Take note that changes were told."""
        if self._owed is not None:
            self._owed.difference_update(subjects)
        elif self._whole:
            self._told.update(subjects)

    def may_be_complete(self, position: int, pending: int) -> bool:
        """Whether it is time to ask, having told all up to a position."""
        if self._passed:
            return not self._owed or position >= self._bound
        return not pending or position >= self._bound

    async def is_complete(self, position: int, deadline: Deadline) -> bool:
        """Ask the leader whether all has been told, up to a position."""
        if self._owed is not None and not self._owed:
            return True
        following = await self._stream.next_after(position, deadline)
        if following is None:
            return True
        if following <= self._bound:
            return False
        # All up to the bound was told, but for what was written anew meanwhile.
        passed_before, self._passed = self._passed, True
        self._bound, subjects = await self._stream.matching(deadline)
        if not self._whole:
            # Which keys have changed since is not known: reaching a second bound has to do.
            return passed_before
        self._owed = subjects - self._told if self._owed is None else self._owed & subjects
        self._told.clear()
        return not self._owed
