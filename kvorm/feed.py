"""What a Watch and a View read: the raw events of one model's keys, and the bucket they come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import BucketHandle, Position, RawChange, RawEntry, RawEvent, RawMarker, RawWatch, Replay
from kvorm.entry import CaughtUp, Entry, Marker, Reset
from kvorm.errors import StoreClosedError, StoreTimeoutError, StoreUnavailableError
from kvorm.model import CompiledMapping
from kvorm.typed import Typed

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

Start: TypeAlias = Replay | int | Entry[Any] | Marker | CaughtUp
"""Where it starts: a number goes on after that revision; so does an event, if the bucket is still the same one."""

_RETRY_SECONDS: Final = 0.1


class Interrupted(NamedTuple):
    """No event: the reader stopped waiting, for good or to come back. It is to be told so by a CancelledError."""

    args: tuple[Any, ...]


class Feed(Generic[M]):
    """One raw watch, how far it has come, and the model's side of the bucket as it is now.

    Attributes:
        typed: makes typed events of the raw ones; another one after a Reset.
        handle: the bucket itself.
        caught_up: whether all that existed at the start, or since the last Reset, has been told.
        revision: the bucket's revision up to which everything has been told.
        kept: whether somebody is sure to close it in the end. It outlives a reader who stops waiting then.
        error: what ended it before its time, None if nothing did.
    """

    typed: Typed[M]
    handle: BucketHandle

    def __init__(
        self,
        mapping: CompiledMapping[M],
        open_bucket: Callable[[], Awaitable[BucketHandle]],
        filter_: str,
        start: Start,
    ) -> None:
        self._mapping = mapping
        self._open_bucket = open_bucket
        self._start = start
        self._raw: RawWatch | None = None
        self._closed = False
        self.filter: Final = filter_
        self.caught_up = False
        self.revision = start if isinstance(start, int) else 0
        self.kept = False
        self.error: Exception | None = None

    @property
    def silent_for(self) -> timedelta:
        """How long the store has not been heard of; zero before the start."""
        return timedelta(seconds=self._raw.silent_for if self._raw is not None else 0.0)

    async def portions(self) -> AsyncGenerator[Sequence[RawEvent] | Interrupted, None]:
        """Yield what the watch tells, as much as is at hand. To be read once.

        `note` each event as it is told. Changes may be of keys that are none of the model: `is_of_model` tells. An
        entry that decodes is of one.
        """
        try:
            async with aclosing(self._portions()) as portions:
                async for portion in portions:
                    yield portion
        except Exception as error:
            self.error = error
            raise

    async def _portions(self) -> AsyncGenerator[Sequence[RawEvent] | Interrupted, None]:
        while isinstance(interrupted := await self._attempt(self._open()), Interrupted):
            yield interrupted
        start = self._start
        if isinstance(start, Entry | Marker | CaughtUp):
            if start.incarnation == self.handle.incarnation:
                self.revision = start = start.revision
            else:
                start = Replay.CURRENT
                yield [Reset()]
        if self._closed:
            return
        self._raw = self.handle.watch([self.filter], start=start)
        async with aclosing(self._raw):
            while True:
                try:
                    events = await self._attempt(self._raw.next_at_hand())
                except StopAsyncIteration:
                    return
                if isinstance(events, Interrupted):
                    yield events
                    continue
                while isinstance(events[0], Reset) and isinstance(
                    interrupted := await self._attempt(self._reopen()), Interrupted
                ):
                    yield interrupted
                yield events

    def is_of_model(self, change: RawChange) -> bool:
        """Whether its key is one of the model."""
        return self._mapping.key(change.raw_key) is not None

    async def aclose(self) -> None:
        """End it, also for a task that waits for the next event. Idempotent."""
        self._closed = True
        if self._raw is not None:
            await self._raw.aclose()

    async def _attempt(self, step: Awaitable[T]) -> T | Interrupted:
        """Take a step, which must be taken again if its reader stops waiting meanwhile; one that is not kept ends."""
        try:
            return await step
        except asyncio.CancelledError as cancelled:
            if self.kept:
                return Interrupted(cancelled.args)
            self.error = StoreClosedError(
                "the watch has ended, because its reader stopped waiting for the next event (it was cancelled, or "
                "there is a timeout around it): read it inside of `async with`, and it goes on afterwards"
            )
            raise

    async def _open(self) -> None:
        self.handle = await self._open_bucket()
        self.typed = Typed(self._mapping, self.handle)

    async def _reopen(self) -> None:
        """Learn which bucket the state that follows belongs to; what is read of it carries that."""
        while True:
            try:
                return await self._open()
            except (StoreUnavailableError, StoreTimeoutError):
                # A watch outlives that: it goes on whenever the store is back.
                await asyncio.sleep(_RETRY_SECONDS)

    def note(self, event: RawEvent) -> None:
        """Take note that an event is told."""
        if isinstance(event, RawEntry):
            self.revision = event.revision
            return
        match event:
            case Reset():
                self.caught_up = False
                self.revision = 0
            case CaughtUp(revision=revision):
                self.caught_up = True
                self.revision = revision
            case RawMarker(revision=revision) | Position(revision=revision):
                self.revision = revision
            case _:
                pass
