"""What a bucket holds and what lists and watches yield: entries, heads, pages, markers and the two signs between them.

These are plain classes, made for `match`, and cannot be changed; none of them knows a store.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

import msgspec

T_co = TypeVar("T_co", covariant=True)

Key: TypeAlias = tuple[Any, ...]
"""The values of a model's key fields, in their declared order: what `get(*key)` takes."""

MarkerReason: TypeAlias = Literal["deleted", "purged", "expired"]


class Absent(Enum):
    """The type of `ABSENT`, which is its only member."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return self.name


class Any_(Enum):
    """The type of `ANY`, which is its only member."""

    ANY = "ANY"

    def __repr__(self) -> str:
        return self.name


ABSENT: Final = Absent.ABSENT
"""Expect that the key has no live value: never written, deleted, purged or expired."""

ANY: Final = Any_.ANY
"""Expect nothing: the last writer wins, on purpose."""

Expect: TypeAlias = int | Absent | Any_
"""The condition under which a write happens: a revision, `ABSENT` or `ANY`."""


class _Plain(msgspec.Struct, frozen=True, eq=False):
    """Equality and repr by some of the fields, for the small classes of this file, which cannot be changed."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def _state(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self._fields)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._state() == other._state()

    def __hash__(self) -> int:
        return hash((type(self), self._state()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({shown})"


class Entry(_Plain, Generic[T_co], frozen=True, eq=False):
    """A value with its place and its revision.

    Attributes:
        value: the model instance.
        revision: the number the store gave this write, rising within the bucket.
        written: when the server stored it, aware UTC.
        key: the values of the key fields.
        raw_key: the dotted text of the key on the wire.
        bucket: the bucket's full name, its namespace included.
        incarnation: which life of the bucket it was read in.
    """

    _fields = ("value", "revision", "written", "key", "raw_key", "bucket")

    value: T_co
    revision: int
    written: datetime
    key: Key
    raw_key: str
    bucket: str
    incarnation: str = ""


class Head(_Plain, frozen=True, eq=False):
    """An entry without its value.

    Attributes:
        key, revision, written, raw_key, bucket: as of `Entry`.
        size_bytes: of the stored value.
    """

    _fields = ("key", "revision", "written", "size_bytes", "raw_key", "bucket")

    key: Key
    revision: int
    written: datetime
    size_bytes: int
    raw_key: str
    bucket: str


class Page(_Plain, Generic[T_co], frozen=True, eq=False):
    """Some entries of a longer list, in the order of their revisions.

    Attributes:
        entries: no more than were asked for.
        after: what to pass as `after=` for the next page; None if there is none.
    """

    _fields = ("entries", "after")

    entries: tuple[Entry[T_co], ...]
    after: int | None

    @property
    def values(self) -> list[T_co]:
        """The objects alone."""
        return [entry.value for entry in self.entries]


class Marker(_Plain, frozen=True, eq=False):
    """What delete, purge or expiry leaves in place of a value.

    Attributes:
        reason: "deleted", "purged" or "expired".
        revision, written, key, raw_key, bucket, incarnation: as of `Entry`.
    """

    _fields = ("key", "reason", "revision", "written", "raw_key", "bucket")

    key: Key
    reason: MarkerReason
    revision: int
    written: datetime
    raw_key: str
    bucket: str
    incarnation: str = ""


class CaughtUp(_Plain, frozen=True, eq=False):
    """All that existed when the watch started, or started over, has been delivered.

    Attributes:
        revision: the last revision of the bucket that this covers; 0 for a bucket never written.
        incarnation: which life of the bucket this is.
    """

    _fields = ("revision",)

    revision: int
    incarnation: str = ""


class Reset(_Plain, frozen=True, eq=False):
    """The watch could not go on without a gap: what was seen before is void, the state starts over."""
