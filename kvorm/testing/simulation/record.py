"""What the clients of one history did, and what they were told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """How a call ended."""

    DONE = "done"
    REFUSED = "refused: a conflict"
    ABSENT = "the key is not there"
    NOT_STORED = "could not be done"
    UNKNOWN = "unknown"
    GONE = "the bucket is gone or another one"
    FAILED = "an error that it must not raise"


class Seen(NamedTuple):
    """What was found of one key: its revision, and the tag of its value; None for a marker."""

    key: str
    revision: int
    tag: str | None


@dataclass(slots=True)
class Call:
    """One call of one client.

    Attributes:
        kind: what it was: save, delete, purge, get, history, list.
        tag: what the value was marked with that it was to store; no two calls have the same.
        expected: the revision a write was checked against; 0 where the key had to be absent, None for a write that
            was not checked by its caller.
        own: tags of earlier writes of the same object whose outcome stayed open; it may be stored over them.
        life: which life of the bucket the revision that it expects is of; "": of that in which it is stored.
        revision: of what was stored.
        seen: what was read, in the order told.
        nearest: whether any replica might answer.
    """

    client: int
    kind: str
    key: str
    start: float
    end: float = 0.0
    outcome: Outcome = Outcome.FAILED
    tag: str | None = None
    expected: int | None = None
    own: frozenset[str] = frozenset()
    life: str = ""
    revision: int = 0
    seen: list[Seen] = field(default_factory=list[Seen])
    nearest: bool = False
    error: str = ""

    def __str__(self) -> str:
        what = f"{self.kind} {self.key}" + (f" {self.tag}" if self.tag else "")
        expected = "" if self.expected is None else f" expecting {self.expected}"
        told = f"{self.outcome.value}" + (f" at {self.revision}" if self.revision else "")
        seen = f" {[tuple(one) for one in self.seen]}" if self.seen else ""
        return (
            f"client {self.client}: {what}{expected}, {self.start:.4f} to {self.end:.4f}: {told}{seen} {self.error}"
        ).strip()


class Told(Enum):
    """What a watch tells beside changes."""

    CAUGHT_UP = "caught up"
    RESET = "reset"


class Event(NamedTuple):
    """What a watch told, and when."""

    at: float
    what: Seen | Told
    revision: int = 0


@dataclass(slots=True)
class Watching:
    """One watch.

    Attributes:
        since: after which revision it began; 0 for the whole state.
        history: whether it replays what is kept of each key.
        updates_only: whether it begins with what comes.
        ended: why it ended before it was asked to.
        ended_at: when that was.
        not_there: whether it ended as there was no bucket to watch.
    """

    name: str
    start: float
    since: int = 0
    history: bool = False
    updates_only: bool = False
    filter: str = ">"
    events: list[Event] = field(default_factory=list[Event])
    ended: str = ""
    ended_at: float = 0.0
    not_there: bool = False
    stopped: bool = False
    """Whether its reader left it before the end of the history."""


@dataclass(slots=True)
class Viewed:
    """What a view showed at one quiet moment, beside what was stored."""

    at: float
    shown: dict[str, str]
    stored: dict[str, str]
    late: str = ""


@dataclass(slots=True)
class Record:
    """All of one history."""

    calls: list[Call] = field(default_factory=list[Call])
    watches: list[Watching] = field(default_factory=list[Watching])
    views: list[Viewed] = field(default_factory=list[Viewed])
    left: list[str] = field(default_factory=list[str])
    """Consumers, tasks and subscriptions that were left behind."""
    healed: float = 0.0
    """From when on all was well."""
    budget: float = 0.0
    """Seconds that one call may take."""
