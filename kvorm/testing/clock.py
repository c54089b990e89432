"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Tells the time it was set to: `MemoryStore(clock=ManualClock())` makes lifetimes testable without waiting."""

    def __init__(self, now: datetime = _START) -> None:
        """Set the clock; `now` is aware."""
        self._now = now

    def __call__(self) -> datetime:
        """Return the time, aware UTC."""
        return self._now

    def advance(self, duration: timedelta) -> None:
        """Let time pass.

        Raises:
            ValueError: `duration` is negative; a server's clock does not go back either.
        """
        if duration < timedelta(0):
            raise ValueError(f"{duration} is negative")
        self._now += duration
