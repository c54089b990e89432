"""A live local copy of some keys, fed by a watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Final, Generic, Self, TypeGuard, TypeVar

from pydantic import BaseModel

from kvorm.contents import LookUp
from kvorm.copying import copier
from kvorm.entry import Key
from kvorm.errors import DecodeError
from kvorm.feed import Feed
from kvorm.follower import Follower, WhatOfInvalid
from kvorm.model import CompiledMapping
from kvorm.operation import check_revision

M = TypeVar("M", bound=BaseModel)

_KNOWN_KEYS: Final = 65_536


class View(Generic[M]):
    """Some keys of a bucket, here: caught up on entering, kept up to date by a task of its own, read without I/O.

    What it hands out is the caller's to change and to save: deeply immutable objects (frozen, and all that they hold)
    are shared, all others are copies, and both carry their revision. Objects and keys are those that decode; a value
    that does not is in `invalid` alone.

    When the bucket was made anew or restored, the view loads it anew, and shows what it had until that is complete.
    Once it cannot go on, each read raises the reason: BucketNotFoundError or StoreClosedError. It is never silently
    stale. Keys are passed as to the repository's `get`; InvalidKeyError says what is wrong with them.

    Entries that expire leave when the store says so: by the marker's event where the bucket keeps markers. Where
    nothing tells, the store is asked at the end of their lifetime, so they leave up to half a second later, or later by
    as much as this machine's clock is behind the server's. Nothing tells in a bucket that keeps no markers, and of an
    entry with a lifetime of its own (`Nats-TTL`, of other clients) whose key has a history: there the older value is
    back, in the bucket and in the view.

    The changes of an atomic batch of another client come one by one.
    """

    def __init__(
        self, mapping: CompiledMapping[M], feed: Feed[M], *, on_invalid: WhatOfInvalid, timeout: timedelta
    ) -> None:
        self._mapping = mapping
        self._feed = feed
        self._follower = Follower(feed, on_invalid=on_invalid, timeout=timeout)
        self._copy: Callable[[M], M] = copier(mapping.model)
        # The validation of a key takes longer than the look-up. Typed: `1` and `True` are two keys.
        self._known_raw_key = lru_cache(_KNOWN_KEYS, typed=True)(self._validated)

    async def __aenter__(self) -> Self:
        """Load the keys; return once all that exists is here.

        That may take any time, while the store is heard of.

        Raises:
            StoreUnavailableError: the store has not been heard of for the time budget; nothing is left of the view.
            BucketNotFoundError, BucketMismatchError: as of any operation.
        """
        await self._follower.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._follower.close()

    # Reading

    def get(self, *key: object, **key_fields: object) -> M | None:
        """Return the object of a key, or None where nothing is.

        Raises:
            DecodeError: the stored bytes are no valid object.
        """
        raw_key = self._raw_key(key, key_fields)
        contents = self._follower.contents
        value = contents.values.get(raw_key)
        if value is None:
            if raw_key in contents.invalid:
                raise contents.invalid[raw_key].with_traceback(None)
            return None
        return self._copy(value)

    def __getitem__(self, key: object) -> M:
        """Return the object of a key: a tuple of the key fields, or the value of the only one.

        Raises:
            KeyNotFoundError: nothing is there.
            DecodeError: the stored bytes are no valid object.
        """
        values = _as_key(key)
        value = self.get(*values)
        if value is None:
            raise self._feed.typed.not_found(None, self._raw_key(values, {}))
        return value

    def __contains__(self, key: object) -> bool:
        return self._raw_key(_as_key(key), {}) in self._follower.contents.values

    def __len__(self) -> int:
        return len(self._follower.contents.values)

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys as they are now, each a tuple of the key fields."""
        return iter([self._mapping.key_of(value) for value in self._follower.contents.values.values()])

    def values(self) -> list[M]:
        """Return all objects."""
        return [self._copy(value) for value in self._follower.contents.values.values()]

    def items(self) -> list[tuple[Key, M]]:
        """Return all keys with their objects."""
        return [(self._mapping.key_of(value), self._copy(value)) for value in self._follower.contents.values.values()]

    def where(self, predicate: Callable[[M], object]) -> list[M]:
        """Return the objects for which a function says yes. It looks at each; `by` does not."""
        return [value for value in self.values() if predicate(value)]

    def by(self, field: str) -> LookUp[M]:
        """Return the objects by the value of a field, kept up to date.

        Raises:
            ValueError: the model has no such field.
        """
        if field not in self._mapping.model.model_fields:
            known = ", ".join(self._mapping.model.model_fields)
            raise ValueError(f"{self._mapping.model.__name__} has no field {field!r}; its fields are {known}")
        return LookUp(field, lambda: self._follower.contents, self._copy)

    @property
    def invalid(self) -> dict[Key, DecodeError]:
        """The keys whose values do not decode, and why."""
        found = self._follower.contents.invalid.items()
        return {key: error for raw_key, error in found if (key := self._mapping.key(raw_key)) is not None}

    # How far it is

    @property
    def revision(self) -> int:
        """The bucket's revision that the view is at; 0 while it loads anew."""
        return self._follower.revision

    @property
    def caught_up(self) -> bool:
        """Whether the view is complete and kept up to date. Never raises."""
        return self._follower.caught_up

    @property
    def silent_for(self) -> timedelta:
        """How long the store has not been heard of; below two seconds while all is well. Never raises."""
        return self._feed.silent_for

    async def wait_for(self, revision: int) -> None:
        """Return once the view shows everything up to a revision of the bucket, whichever key it is of.

        It waits as long as that takes: put `asyncio.timeout` around it.

        Raises:
            BucketNotFoundError: the bucket was made anew or restored meanwhile; this revision may never come.
        """
        check_revision("revision", revision, least=0)
        await self._follower.wait_for(revision)

    def _raw_key(self, key: Key, key_fields: dict[str, object]) -> str:
        try:
            return self._known_raw_key(*key, **key_fields)
        except TypeError:  # not hashable; validation says what it is
            return self._validated(*key, **key_fields)

    def _validated(self, *key: object, **key_fields: object) -> str:
        return self._mapping.raw_key(key, key_fields)


def _as_key(key: object) -> Key:
    """Return the key that stands in `[]` or before `in`: a tuple, or the value of the only key field."""
    return key if _is_tuple(key) else (key,)


def _is_tuple(key: object) -> TypeGuard[Key]:
    return isinstance(key, tuple)
