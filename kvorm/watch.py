"""A typed stream of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import RawEntry, RawEvent, RawMarker
from kvorm.entry import CaughtUp, Entry, Marker, Reset
from kvorm.errors import DecodeError
from kvorm.feed import Feed, Interrupted
from kvorm.typed import OnInvalid, left_out

M = TypeVar("M", bound=BaseModel)

Event: TypeAlias = Entry[M] | Marker | CaughtUp | Reset


class Watch(Generic[M]):
    """The current state of some keys, then their changes as they come.

    Use it in `async for`; leaving the loop ends it. `async with` ends it at a known moment, and not before: a reader
    who stops waiting for the next event, by a timeout around `anext(watch)` for example, comes back and has missed
    nothing. `values()` is for those who want the models alone.

    Raises, while iterating, each again for who tries again:
        DecodeError: a value is no valid model, and `on_invalid` says "raise"; the watch has ended.
        BucketNotFoundError: the bucket was deleted.
        StoreClosedError: the store or its connection was closed; or the watch has ended because its reader stopped
            waiting, outside of `async with`.
    """

    def __init__(self, feed: Feed[M], on_invalid: OnInvalid) -> None:
        self._feed = feed
        self._on_invalid: OnInvalid = on_invalid
        # It does not refer to this object, so that an abandoned watch is collected, and ended, at once.
        self._portions = feed.portions()
        # What has come and is not told yet.
        self._at_hand: Iterator[RawEvent] = iter(())

    @property
    def caught_up(self) -> bool:
        """Whether all that existed at the start, or since the last Reset, has been delivered."""
        return self._feed.caught_up

    @property
    def revision(self) -> int:
        """The bucket's revision up to which everything has been delivered: `since=` goes on there."""
        return self._feed.revision

    @property
    def silent_for(self) -> timedelta:
        """How long the store has not been heard of; below two seconds while all is well, zero before the start."""
        return self._feed.silent_for

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[M]:
        if self._feed.error is not None:
            raise self._feed.error.with_traceback(None)
        while True:
            try:
                for raw in self._at_hand:
                    event = self._entry(raw) if isinstance(raw, RawEntry) else self._sign(raw)
                    if event is not None:
                        return event
            except Exception as error:
                try:
                    await self.aclose()
                finally:
                    self._feed.error = error
                raise
            portion = await anext(self._portions)
            if isinstance(portion, Interrupted):
                raise asyncio.CancelledError(*portion.args)
            self._at_hand = iter(portion)

    def _entry(self, raw: RawEntry) -> Entry[M] | None:
        feed = self._feed
        feed.revision = raw.revision
        try:
            return feed.typed.entry(raw)
        except DecodeError as error:
            if feed.is_of_model(raw):
                left_out(error, self._on_invalid)
            return None

    def _sign(self, raw: RawEvent) -> Marker | CaughtUp | Reset | None:
        feed = self._feed
        feed.note(raw)
        if isinstance(raw, RawMarker):
            return feed.typed.marker(raw) if feed.is_of_model(raw) else None
        return raw if isinstance(raw, CaughtUp | Reset) else None

    async def __aenter__(self) -> Self:
        self._feed.kept = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the watch, also for a task that waits for its next event; nothing stays on the server. Idempotent."""
        await self._feed.aclose()
        self._feed.error = None
        self._at_hand = iter(())
        # Raised while another task waits in it: that task ends it.
        with suppress(RuntimeError):
            await self._portions.aclose()

    async def values(self) -> AsyncGenerator[M, None]:
        """Yield the live models alone, as they are and as they change."""
        async with self:
            async for event in self:
                if isinstance(event, Entry):
                    yield event.value
