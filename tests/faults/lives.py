"""The judge of lists: when each key was live, as far as its writer can know, and what a list may and must tell of that.

Times are those of one monotonic clock. A write happens at some time between its sending and its acknowledgement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

Key: TypeAlias = tuple[str, int]
"""A tenant and a number."""


@dataclass
class Life:
    """One life of a key, from the write that makes it to the one that ends it, or to its expiry."""

    sent: float
    """Before this it was not live."""
    stored: float = inf
    """From here on it was."""
    ending: float = inf
    """Until here it was."""
    over: float = inf
    """After this it was not live any more."""

    def spans(self, began: float, ended: float) -> bool:
        """Whether it was live all the time."""
        return self.stored <= began and ended <= self.ending

    def touches(self, began: float, ended: float) -> bool:
        """Whether it may have been live at some time."""
        return self.sent <= ended and began <= self.over


@dataclass
class Lives:
    """What writers did, and to which keys."""

    standing: set[Key] = field(default_factory=set)
    """Keys that are live all the time."""
    others: dict[Key, list[Life]] = field(default_factory=dict)
    versions: dict[Key, int] = field(default_factory=dict)
    """The last acknowledged version of each key; versions of a key rise over all its lives."""

    def begin(self, key: Key, now: float) -> Life:
        life = Life(now)
        self.others.setdefault(key, []).append(life)
        return life

    def forget(self, before: float) -> None:
        """Forget what was over before a moment; no list will be asked about that began earlier."""
        for key, lives in list(self.others.items()):
            if lives[0].over < before:
                lives[:] = [life for life in lives if life.over >= before]
                if not lives:
                    del self.others[key]

    def due(self, began: float, ended: float, tenant: str | None = None) -> tuple[set[Key], set[Key]]:
        """Return the keys that a list of this time must tell, and those that it may tell."""
        standing = {key for key in self.standing if key[0] == tenant} if tenant is not None else self.standing
        must, may = set(standing), set(standing)
        for key, lives in self._of(tenant):
            if any(life.touches(began, ended) for life in lives):
                may.add(key)
                if any(life.spans(began, ended) for life in lives):
                    must.add(key)
        return must, may

    def _of(self, tenant: str | None) -> Iterator[tuple[Key, list[Life]]]:
        return (each for each in self.others.items() if tenant is None or each[0][0] == tenant)


@dataclass(frozen=True)
class Wrong:
    """What is wrong with an answer; all 0 if nothing is."""

    missing: int = 0
    """Keys that were live all the time."""
    never: int = 0
    """Keys that were not live at any time in it."""
    twice: int = 0
    old: int = 0
    """Values older than what was acknowledged before it began."""
    counted: int = 0
    """1 if a number is none that it can be."""


RIGHT = Wrong()


def judge(lives: Lives, told: Sequence[Key], began: float, ended: float, tenant: str | None = None) -> Wrong:
    """Judge a list of keys."""
    must, may = lives.due(began, ended, tenant)
    keys = set(told)
    return Wrong(missing=len(must - keys), never=len(keys - may), twice=len(told) - len(keys))


def judge_count(lives: Lives, told: int, began: float, ended: float, tenant: str | None = None) -> Wrong:
    """Judge a number of keys."""
    must, may = lives.due(began, ended, tenant)
    return Wrong(counted=int(not len(must) <= told <= len(may)))


def old(versions: Mapping[Key, int], acknowledged: Mapping[Key, int]) -> int:
    """Return how many values are older than what was acknowledged."""
    return sum(version < acknowledged.get(key, 0) for key, version in versions.items())
