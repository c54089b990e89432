"""The initial state of a watch: counted, not guessed, when all of it has been told (S4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from kvorm.backends.base import Deadline
from kvorm.backends.nats.stream import Stream

ChangedAfter: TypeAlias = Callable[[int], Awaitable[set[str]]]
"""Return the subjects whose latest message is above a sequence, as at some moment of the call."""


class InitialState:
    """What is still to be told of what the bucket held when a watch began.

    The consumer leaves out what is pushed out of the stream before it gets there: a key that is written anew comes
    later then, as what it is by then. Its counts of what is pending do not tell, so the leader is asked.
    """

    def __init__(self, stream: Stream, last: int, *, whole: bool, may_lag: bool, changed_after: ChangedAfter) -> None:
        """Begin when the stream ends at `last`; `whole` if every key will be told, not only those that changed.

        `may_lag` if the replica that tells them may not have come to that end.
        """
        self._stream = stream
        self._whole = whole
        self._may_lag = may_lag
        self._changed_after = changed_after
        self.last = last
        self._bound = last
        self._passed = False
        # As they came: what is told is seldom looked at.
        self._told: list[Sequence[str]] = []
        # Keys of the start that were written anew before they were told.
        self._owed: set[str] | None = None

    def tell(self, subjects: Sequence[str]) -> None:
        """Take note that changes were told."""
        if self._owed is not None:
            self._owed.difference_update(subjects)
        elif self._whole:
            self._told.append(subjects)

    def may_be_complete(self, position: int, pending: int) -> bool:
        """Whether it is time to ask, having told all up to a position."""
        if self._owed is not None:
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
        if self._owed is not None:
            self._owed &= subjects
        elif self._whole:
            self._owed = subjects.difference(*self._told)
            self._told.clear()
            if self._may_lag:
                # It may have told of a key as it was before the end, and what was there at the end is gone.
                self._owed |= await self._changed_after(position)
        elif passed_before:
            self._owed = await self._changed_after(position)
        else:
            # Which keys have changed is dear to ask: often it is the end of the stream that is reached before long.
            return False
        return not self._owed
