"""Lists of one model's entries: all under a filter, a page of them, or what they are without their values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, Generic, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import RawEntry, RawHead
from kvorm.entry import Entry, Head, Key, Page
from kvorm.errors import BucketNotFoundError, DecodeError
from kvorm.model import CompiledMapping
from kvorm.operation import Operation, check_revision
from kvorm.typed import OnInvalid, Typed, left_out

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

Begin: TypeAlias = Callable[[], AbstractAsyncContextManager[Operation[M]]]
"""Begins a step of a list: an operation with a time budget of its own, for the time between two is the caller's."""

_FIRST_AT_ONCE: Final = 64
_MOST_AT_ONCE: Final = 1024
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""About how many bytes of values are read ahead, unless one key has more."""

_LEAST_READ: Final = 64


class Lists(Generic[M]):
    """The lists of one filter."""

    def __init__(self, mapping: CompiledMapping[M], filter_: str, begin: Begin[M]) -> None:
        self._mapping = mapping
        self._filter = filter_
        self._begin = begin
        self._incarnation: str | None = None

    async def entries(self, most: int | None) -> AsyncGenerator[tuple[Typed[M], list[RawEntry]], None]:
        """Yield the live entries in portions, each key once: names first, then their values, one portion read ahead.

        With `most` no portion has more, and none is read ahead.
        """
        portions = self._portions(min(most or _MOST_AT_ONCE, _MOST_AT_ONCE))
        async with aclosing(_read_ahead(portions) if most is None else portions) as ahead:
            async for portion in ahead:
                yield portion

    async def count(self) -> int:
        """Return how many are live."""
        is_key, number = self._mapping.is_key, 0
        async with self._begin() as operation:
            timeout = operation.deadline.timeout
            async with aclosing(operation.handle.live_keys([self._filter], timeout=timeout)) as portions:
                async for raw_keys in portions:
                    number += sum(map(is_key, raw_keys))
        return number

    async def keys(self) -> AsyncGenerator[list[Key], None]:
        """Yield the keys of what is live in portions, each once."""
        key_of = self._mapping.key
        async with self._begin() as operation:
            timeout = operation.deadline.timeout
            async with aclosing(operation.handle.live_keys([self._filter], timeout=timeout)) as portions:
                async for raw_keys in portions:
                    yield [key for raw_key in raw_keys if (key := key_of(raw_key)) is not None]

    async def heads(self) -> AsyncGenerator[list[RawHead], None]:
        """Yield what is live in portions, each key once, without values."""
        async with self._begin() as operation:
            timeout = operation.deadline.timeout
            async with aclosing(operation.handle.heads([self._filter], timeout=timeout)) as portions:
                async for heads in portions:
                    yield heads

    async def page(self, limit: int, after: int, on_invalid: OnInvalid) -> Page[M]:
        """Return the entries that lie behind a revision, in the order of their revisions.

        An older revision of a key is none of its own; the latest comes where it stands.
        """
        entries: list[Entry[M]] = []
        async with self._begin() as operation:
            handle, deadline = operation.handle, operation.deadline
            # One more than asked for, to know whether there is a next page.
            while len(entries) <= limit:
                most = max(_LEAST_READ, limit + 1 - len(entries))
                changes = await handle.changes_after(self._filter, after, most=most, deadline=deadline)
                latest = {change.raw_key: change for change in changes}
                names = [raw_key for raw_key, change in latest.items() if isinstance(change, RawEntry)]
                current = dict(zip(names, await handle.get_many(names, deadline=deadline), strict=True))
                for change in changes:
                    raw = current.get(change.raw_key)
                    if isinstance(raw, RawEntry) and raw.revision == change.revision:
                        entries += self._entry(operation.typed, raw, on_invalid)
                if len(changes) < most:
                    break
                after = changes[-1].revision
        return Page(tuple(entries[:limit]), entries[limit - 1].revision if len(entries) > limit else None)

    def head(self, raw: RawHead, bucket: str) -> Head | None:
        """Return a typed head, or None if its key is none of the model."""
        key = self._mapping.key(raw.raw_key)
        return None if key is None else Head(key, raw.revision, raw.written, raw.size_bytes, raw.raw_key, bucket)

    def value(self, typed: Typed[M], raw: RawEntry, on_invalid: OnInvalid) -> M | None:
        """Return a stamped object, or None for another model's, and where an invalid one is left out."""
        try:
            return typed.value(raw)
        except DecodeError as error:
            self._left_out(error, raw, on_invalid)
            return None

    def _entry(self, typed: Typed[M], raw: RawEntry, on_invalid: OnInvalid) -> list[Entry[M]]:
        try:
            return [typed.entry(raw)]
        except DecodeError as error:
            self._left_out(error, raw, on_invalid)
            return []

    def _left_out(self, error: DecodeError, raw: RawEntry, on_invalid: OnInvalid) -> None:
        # What decodes is of the model; what does not may stand under a key that is none of it.
        if self._mapping.key(raw.raw_key) is not None:
            left_out(error, on_invalid)

    async def _portions(self, most: int) -> AsyncGenerator[tuple[Typed[M], list[RawEntry]], None]:
        at_once = min(_FIRST_AT_ONCE, most)
        async with aclosing(self._names()) as portions:
            async for names in portions:
                start = 0
                while start < len(names):
                    typed, entries = await self._read(names[start : start + at_once])
                    start += at_once
                    if entries:
                        yield typed, entries
                        size = sum(len(entry.data) for entry in entries) // len(entries) + 1
                        at_once = max(1, min(most, 2 * at_once, _BYTES_AT_ONCE // size))

    async def _names(self) -> AsyncGenerator[list[str], None]:
        async with self._begin() as operation:
            self._incarnation = operation.handle.incarnation
            timeout = operation.deadline.timeout
            async with aclosing(operation.handle.names([self._filter], timeout=timeout)) as portions:
                async for names in portions:
                    yield names

    async def _read(self, names: list[str]) -> tuple[Typed[M], list[RawEntry]]:
        async with self._begin() as operation:
            if operation.handle.incarnation != self._incarnation:
                bucket = operation.handle.settings.name
                raise BucketNotFoundError(
                    f"bucket {bucket!r} was made anew while it was listed; list it again", bucket=bucket
                )
            changes = await operation.handle.get_many(names, deadline=operation.deadline)
        return operation.typed, [change for change in changes if isinstance(change, RawEntry)]


def check_limit(limit: object) -> None:
    """Refuse what is no number of entries.

    Raises:
        ValueError: it is no int from 1 on.
    """
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"limit={limit!r} must be an int from 1 on")


def first_revision(after: int | None) -> int:
    """Return the revision that a page begins behind.

    Raises:
        ValueError: it is none.
    """
    if after is None:
        return 0
    check_revision("after", after, or_else="None or ", least=0)
    return after


async def _read_ahead(portions: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield what a generator yields, and let it work on the next one meanwhile; close it at the end."""

    async def following() -> T | None:
        return await anext(portions, None)

    next_ = asyncio.create_task(following())
    try:
        while (portion := await next_) is not None:
            next_ = asyncio.create_task(following())
            yield portion
    finally:
        next_.cancel()
        await asyncio.gather(next_, return_exceptions=True)
        await portions.aclose()
