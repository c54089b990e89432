"""A bucket as a plain dict: what every store must answer, said without any store.

The oracle shares no code with kvorm: raw keys are written out by hand, values are dicts, answers are plain tuples. A
refused operation raises `Refused` with the name of the error's class and its attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

Key: TypeAlias = tuple[Any, ...]
Told: TypeAlias = tuple[Any, ...]
"""An answer or an error as plain data; see `Oracle` and `told` in the machine."""


class Refused(Exception):  # noqa: N818 - it stands for all errors of kvorm
    """The operation must fail with this error, and change nothing."""

    def __init__(self, error: str, **attributes: object) -> None:
        super().__init__(error, attributes)
        self.told: Told = (error, attributes)


@dataclass(frozen=True)
class Change:
    """A kept message: an entry if `reason` is None. `value` is None where its bytes are no valid model."""

    raw_key: str
    revision: int
    written: datetime
    reason: str | None
    data: bytes = b""
    value: Mapping[str, Any] | None = None
    by_server: bool = False

    @property
    def live(self) -> bool:
        return self.reason is None


@dataclass
class Twin:
    """An object as it should be: its fields, and the life, raw key and revision that it remembers."""

    value: dict[str, Any]
    stamp: tuple[int, str, int] | None = None

    @property
    def revision(self) -> int | None:
        return self.stamp[2] if self.stamp else None


@dataclass
class Oracle:
    """The bucket, and what each operation on it answers."""

    raw_keys: Mapping[Key, str]
    """The raw key of every key that is used."""
    history: int
    ttl: timedelta | None = None
    marker_ttl: timedelta | None = None
    life: int = 0
    last: int = 0
    kept: dict[str, list[Change]] = field(default_factory=dict)

    # What happens to the bucket

    def append(self, change: Change, *, erase: bool = False) -> int:
        """Keep a change; the caller numbers it `last + 1`."""
        self.last = change.revision
        kept = [*([] if erase else self.kept.get(change.raw_key, [])), change]
        self.kept[change.raw_key] = kept[-self.history :]
        return change.revision

    def write(self, raw_key: str, now: datetime, data: bytes, value: Mapping[str, Any] | None) -> int:
        return self.append(Change(raw_key, self.last + 1, now, None, data, value))

    def mark(self, raw_key: str, now: datetime, reason: str) -> int:
        return self.append(Change(raw_key, self.last + 1, now, reason), erase=reason != "deleted")

    def begin_another_life(self) -> None:
        self.life += 1
        self.last = 0
        self.kept = {}

    def expire(self, now: datetime) -> None:
        """Let go what has outlived its time, in the order in which it did."""
        while True:
            due = [(end, c.revision, c) for kept in self.kept.values() for c in kept if (end := self._end(c)) <= now]
            if not due:
                return
            gone = min(due, key=lambda one: one[:2])[2]
            kept = self.kept[gone.raw_key]
            kept.remove(gone)
            if not kept:
                del self.kept[gone.raw_key]
                # A server leaves one for an entry and for a delete, none for a purge or for one of its own.
                if self.marker_ttl and gone.reason in (None, "deleted"):
                    self.append(Change(gone.raw_key, self.last + 1, now, "expired", by_server=True))

    def _end(self, change: Change) -> datetime:
        lifetime = self.marker_ttl if change.by_server else self.ttl
        return change.written + lifetime if lifetime else datetime.max.replace(tzinfo=change.written.tzinfo)

    # What it answers

    def latest(self, raw_key: str) -> Change | None:
        kept = self.kept.get(raw_key)
        return kept[-1] if kept else None

    def read(self, key: Key) -> Twin:
        """Return what `get` gives."""
        return self.decode(self._live(self.latest(self.raw_keys[key]), key))

    def read_revision(self, key: Key, revision: int) -> Twin:
        return self.decode(self._at(key, revision))

    def entry(self, key: Key) -> Told:
        return self.tell(self._live(self.latest(self.raw_keys[key]), key))

    def exists(self, key: Key) -> bool:
        latest = self.latest(self.raw_keys[key])
        return latest is not None and latest.live

    def all_changes(self, key: Key, *, skip: bool) -> list[Told]:
        kept = self.kept.get(self.raw_keys[key], [])
        return [self.tell(change) for change in kept if not (skip and change.live and change.value is None)]

    def matching(self, wanted: Mapping[int, Any]) -> list[Key]:
        """Return the live keys whose fields at these positions have these values, valid or not."""
        return [
            key
            for key in self.raw_keys
            if self.exists(key) and all(key[position] == value for position, value in wanted.items())
        ]

    def invalid(self, keys: Iterable[Key]) -> list[Change]:
        """Return the latest changes of these keys that do not decode."""
        latest = [self.latest(self.raw_keys[key]) for key in keys]
        return [change for change in latest if change is not None and change.live and change.value is None]

    # What writes do

    def save(self, twin: Twin, key: Key, now: datetime, encode: Callable[[Twin], bytes], expect: object) -> int:
        """Store the object if `expect` holds: "stamp", "any", "absent" or a revision."""
        raw_key = self.raw_keys[key]
        expected = self.expected(twin, raw_key) if expect == "stamp" else expect
        self._check(raw_key, expected)
        revision = self.write(raw_key, now, encode(twin), dict(twin.value))
        twin.stamp = (self.life, raw_key, revision)
        return revision

    def mark_object(self, twin: Twin, key: Key, now: datetime, reason: str) -> int:
        raw_key = self.raw_keys[key]
        expected = self.expected(twin, raw_key)
        latest = self.latest(raw_key)
        if expected == "absent":
            self._live(latest, key)
        self._check(raw_key, expected)
        self._check_erasable(latest, key, reason)
        revision = self.mark(raw_key, now, reason)
        twin.stamp = (self.life, raw_key, revision)
        return revision

    def mark_key(self, key: Key, now: datetime, reason: str) -> int:
        self._check_erasable(self.latest(self.raw_keys[key]), key, reason)
        return self.mark(self.raw_keys[key], now, reason)

    def restore(self, key: Key, revision: int, now: datetime) -> int:
        old = self._at(key, revision)
        self.decode(old)
        return self.write(old.raw_key, now, old.data, old.value)

    # Answers as plain data

    def decode(self, change: Change) -> Twin:
        if change.value is None:
            raise Refused("DecodeError", key=change.raw_key, revision=change.revision, data=change.data)
        return Twin(dict(change.value), (self.life, change.raw_key, change.revision))

    def tell(self, change: Change) -> Told:
        """Return an entry or a marker as plain data.

        Raises:
            Refused: the value does not decode.
        """
        key = next(key for key, raw_key in self.raw_keys.items() if raw_key == change.raw_key)
        if change.reason is not None:
            return ("Marker", change.reason, change.revision, key, change.raw_key)
        return ("Entry", self.decode(change).value, change.revision, key, change.raw_key)

    def expected(self, twin: Twin, raw_key: str) -> object:
        """Return what a write of the object is checked against."""
        return twin.stamp[2] if twin.stamp and twin.stamp[:2] == (self.life, raw_key) else "absent"

    def _check(self, raw_key: str, expected: object) -> None:
        latest = self.latest(raw_key)
        if expected == "absent":
            if latest is not None and latest.live:
                raise Refused("KeyExistsError", key=raw_key, expected="absent", current=self._current(latest))
        elif expected != "any" and (latest is None or latest.revision != expected):
            raise Refused("RevisionMismatchError", key=raw_key, expected=expected, current=self._current(latest))

    def _check_erasable(self, latest: Change | None, key: Key, reason: str) -> None:
        if latest is not None and latest.reason == "deleted" and reason == "purged":
            return
        self._live(latest, key)

    def _current(self, latest: Change | None) -> Told | None:
        try:
            return None if latest is None else self.tell(latest)
        except Refused as undecodable:
            return undecodable.told

    def _live(self, change: Change | None, key: Key) -> Change:
        if change is None or not change.live:
            marker = None if change is None else self.tell(change)
            raise Refused("KeyNotFoundError", key=self.raw_keys[key], marker=marker)
        return change

    def _at(self, key: Key, revision: int) -> Change:
        kept = self.kept.get(self.raw_keys[key], [])
        return self._live(next((change for change in kept if change.revision == revision), None), key)
