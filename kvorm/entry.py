"""What a bucket holds and what lists and watches yield: entries, heads, pages, markers and the two signs between them.

These are plain classes, made for `match`; none of them knows a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

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


class _Plain:
    """Equality, repr and immutability over `__slots__`, for the small classes of this file."""

    __slots__ = ()
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


class Entry(_Plain, Generic[T_co]):
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

    __slots__ = ("bucket", "incarnation", "key", "raw_key", "revision", "value", "written")
    __match_args__ = ("value", "revision")
    _fields = ("value", "revision", "written", "key", "raw_key", "bucket")

    def __init__(
        self,
        value: T_co,
        revision: int,
        written: datetime,
        key: Key,
        raw_key: str,
        bucket: str,
        incarnation: str = "",
    ) -> None:
        self.value: Final = value
        self.revision: Final = revision
        self.written: Final = written
        self.key: Final = key
        self.raw_key: Final = raw_key
        self.bucket: Final = bucket
        self.incarnation: Final = incarnation


class Head(_Plain):
    """An entry without its value.

    Attributes:
        key, revision, written, raw_key, bucket: as of `Entry`.
        size_bytes: of the stored value.
    """

    __slots__ = ("bucket", "key", "raw_key", "revision", "size_bytes", "written")
    __match_args__ = ("key", "revision")
    _fields = ("key", "revision", "written", "size_bytes", "raw_key", "bucket")

    def __init__(self, key: Key, revision: int, written: datetime, size_bytes: int, raw_key: str, bucket: str) -> None:
        self.key: Final = key
        self.revision: Final = revision
        self.written: Final = written
        self.size_bytes: Final = size_bytes
        self.raw_key: Final = raw_key
        self.bucket: Final = bucket


class Page(_Plain, Generic[T_co]):
    """Some entries of a longer list, in the order of their revisions.

    Attributes:
        entries: no more than were asked for.
        after: what to pass as `after=` for the next page; None if there is none.
    """

    __slots__ = ("after", "entries")
    __match_args__ = ("entries", "after")
    _fields = ("entries", "after")

    def __init__(self, entries: Sequence[Entry[T_co]], after: int | None) -> None:
        self.entries: Final = tuple(entries)
        self.after: Final = after

    @property
    def values(self) -> list[T_co]:
        """The objects alone."""
        return [entry.value for entry in self.entries]


class Marker(_Plain):
    """What delete, purge or expiry leaves in place of a value.

    Attributes:
        reason: "deleted", "purged" or "expired".
        revision, written, key, raw_key, bucket, incarnation: as of `Entry`.
    """

    __slots__ = ("bucket", "incarnation", "key", "raw_key", "reason", "revision", "written")
    __match_args__ = ("key", "reason")
    _fields = ("key", "reason", "revision", "written", "raw_key", "bucket")

    def __init__(
        self,
        key: Key,
        reason: MarkerReason,
        revision: int,
        written: datetime,
        raw_key: str,
        bucket: str,
        incarnation: str = "",
    ) -> None:
        self.key: Final = key
        self.reason: Final[MarkerReason] = reason
        self.revision: Final = revision
        self.written: Final = written
        self.raw_key: Final = raw_key
        self.bucket: Final = bucket
        self.incarnation: Final = incarnation


class CaughtUp(_Plain):
    """All that existed when the watch started, or started over, has been delivered.

    Attributes:
        revision: the last revision of the bucket that this covers; 0 for a bucket never written.
        incarnation: which life of the bucket this is.
    """

    __slots__ = ("incarnation", "revision")
    __match_args__ = ("revision",)
    _fields = ("revision",)

    def __init__(self, revision: int, incarnation: str = "") -> None:
        self.revision: Final = revision
        self.incarnation: Final = incarnation


class Reset(_Plain):
    """The watch could not go on without a gap: what was seen before is void, the state starts over."""

    __slots__ = ()
    __match_args__ = ()
