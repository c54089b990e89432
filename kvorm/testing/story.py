"""The story of a run: who did what in which order, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

from kvorm.backends.base import RawEntry, RawMarker, RefusedError
from kvorm.entry import ABSENT, ANY
from kvorm.testing.layer import Call

_SHOWN: Final = 120


class Story:
    """What happened so far.

    Attributes:
        lines: one per step.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._stored: Counter[str | None] = Counter()

    def tell(self, who: str, text: str) -> None:
        """Add a step."""
        self.lines.append(f"{who}  {text}")

    def stored(self, who: str | None) -> None:
        """Count a write."""
        self._stored[who] += 1

    def stored_by(self, who: str) -> int:
        """Return how many writes of an actor were stored."""
        return self._stored[who]

    def __str__(self) -> str:
        return "\n".join(["What happened, one call of the store after the other:", *self.lines])


def told_call(call: Call) -> str:
    """Return a call in words."""
    place = f"{call.bucket}/{call.raw_keys[0]}" if call.raw_keys else call.bucket
    if len(call.raw_keys) > 1:
        place += f" and {len(call.raw_keys) - 1} more"
    if not call.writes:
        return f"{call.verb} {place}"
    if call.expect is ANY:
        expected = "whatever is there"
    elif call.expect is ABSENT:
        expected = "expecting nothing"
    else:
        expected = f"expecting revision {call.expect}"
    return f"{call.verb} {place} {expected} {_short(call.data)}".rstrip()


def told_answer(answer: object) -> str:
    """Return what came of a call, in words."""
    match answer:
        case RawEntry(data=data, revision=revision):
            return f"revision {revision} {_short(data)}"
        case RawMarker(reason=reason, revision=revision):
            return f"revision {revision} {reason}"
        case RefusedError(current=current):
            return f"refused, there is {told_answer(current)}"
        case Exception():
            return f"{type(answer).__name__}: {answer}"[:_SHOWN]
        case int():
            return f"revision {answer}"
        case None:
            return "nothing"
        case list():
            return f"{len(cast('Sequence[object]', answer))} answers"
        case _:
            return "done"


def _short(data: bytes) -> str:
    text = data.decode(errors="replace")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
