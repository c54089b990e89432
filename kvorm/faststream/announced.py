"""A store without a server behind it that still has change handlers: each write runs them before it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeAlias, cast

from kvorm.backends.base import BucketHandle, Deadline, Pair, Put, RawChange, Told
from kvorm.bucket import Bucket
from kvorm.model import CompiledMapping
from kvorm.store import Store

Announce: TypeAlias = Callable[[BucketHandle, RawChange], Awaitable[None]]


class Announced:
    """The buckets of a store, whose writes are announced."""

    def __init__(self, store: Store, announce: Announce) -> None:
        self._store = store
        self._announce = announce

    @property
    def timeout(self) -> timedelta:
        """The budget of one operation."""
        return self._store.timeout

    def claim(self, mapping: CompiledMapping[Any], bucket: str | None) -> Bucket:
        """Return the declaration of the bucket under its full name."""
        return self._store.claim(mapping, bucket)

    async def handle(self, bucket: Bucket, deadline: Deadline) -> BucketHandle:
        """Open the bucket as it is now, creating it at first use."""
        handle = await self._store.handle(bucket, deadline)
        return cast("BucketHandle", _AnnouncedBucket(handle, self._announce))


class _AnnouncedBucket:
    """A bucket handle that tells of each write; the rest goes to the handle below."""

    def __init__(self, handle: BucketHandle, announce: Announce) -> None:
        self._handle = handle
        self._announce = announce

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    async def put(self, raw_key: str, data: bytes, *, deadline: Deadline, **how: Any) -> int:
        """Store bytes, then run the change handlers."""
        revision = await self._handle.put(raw_key, data, deadline=deadline, **how)
        return await self._announced(raw_key, revision, deadline)

    async def put_many(self, puts: Iterable[Put], *, deadline: Deadline, told: Told) -> None:
        """Store each, then run the change handlers for those that are stored."""
        raw_keys: dict[int, str] = {}
        revisions: dict[int, int] = {}

        def asked() -> Iterator[Put]:
            for put in puts:
                raw_keys[put.number] = put.raw_key
                yield put

        def noted(number: int, result: int | Exception) -> None:
            if isinstance(result, int):
                revisions[number] = result
            told(number, result)

        await self._handle.put_many(asked(), deadline=deadline, told=noted)
        for number, revision in revisions.items():
            await self._announced(raw_keys[number], revision, Deadline(deadline.timeout))

    async def load(self, pairs: Sequence[Pair], *, deadline: Deadline) -> None:
        """Store bytes in this order, then run the change handlers for what is there."""
        await self._handle.load(pairs, deadline=deadline)
        for raw_key in dict.fromkeys(pair.raw_key for pair in pairs):
            raw = await self._handle.get(raw_key, deadline=deadline)
            if raw is not None:
                await self._announce(self._handle, raw)

    async def mark(self, raw_key: str, reason: Any, *, deadline: Deadline, **how: Any) -> int:
        """Delete or purge a key, then run the change handlers."""
        revision = await self._handle.mark(raw_key, reason, deadline=deadline, **how)
        return await self._announced(raw_key, revision, deadline)

    async def _announced(self, raw_key: str, revision: int, deadline: Deadline) -> int:
        raw = await self._handle.get_revision(raw_key, revision, deadline=deadline)
        # Another writer may have pushed it out already; then that one's change is announced.
        if raw is not None:
            await self._announce(self._handle, raw)
        return revision
