"""What keeps a view like the bucket: a task that reads a watch, and asks the store for what no event tells."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import Deadline, Position, RawChange, RawEntry, RawEvent, RawMarker, Resumed
from kvorm.contents import Contents
from kvorm.entry import CaughtUp, Reset
from kvorm.errors import (
    BucketNotFoundError,
    DecodeError,
    KvormError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.feed import Feed, Interrupted
from kvorm.lifetimes import Leaving, Lifetimes
from kvorm.typed import OnInvalid, left_out

M = TypeVar("M", bound=BaseModel)

WhatOfInvalid: TypeAlias = Literal["keep"] | OnInvalid
"""What a view does with a value that does not decode, beside keeping its error in `invalid`."""

_LOOK_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.1
_AT_ONCE: Final = 256


class Follower(Generic[M]):
    """The contents of a view, and the task that fills them."""

    def __init__(self, feed: Feed[M], *, on_invalid: WhatOfInvalid, timeout: timedelta) -> None:
        self._feed = feed
        self._on_invalid: WhatOfInvalid = on_invalid
        self._timeout = timeout
        # What readers see, and what the watch fills: another one while the bucket is loaded anew.
        self._shown: Contents[M] = Contents()
        self._filled: Contents[M] = self._shown
        self._lifetimes = Lifetimes()
        self._task: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._progress = asyncio.Event()
        self._error: Exception | None = StoreClosedError("the view is not open: read it inside of `async with`")

    @property
    def contents(self) -> Contents[M]:
        """What the bucket holds.

        Raises:
            BucketNotFoundError, StoreClosedError: nobody follows the bucket any more.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._shown

    @property
    def revision(self) -> int:
        """The bucket's revision that the contents are at; 0 while they are loaded anew. Raises as `contents`."""
        return self._feed.revision if self.contents is self._filled else 0

    @property
    def caught_up(self) -> bool:
        """Whether the contents are complete, and still kept up to date."""
        return self._error is None and self._shown is self._filled

    async def wait_for(self, revision: int) -> None:
        """Return once the contents are at a revision.

        Raises:
            BucketNotFoundError: the bucket was made anew or restored meanwhile.
        """
        contents = self._filled
        while self.revision < revision:
            await self._progress.wait()
            if self._filled is not contents:
                name = self._feed.handle.settings.name
                raise BucketNotFoundError(
                    f"bucket {name!r} was made anew or restored while the view waited for its revision {revision}; "
                    f"decide again",
                    bucket=name,
                )

    async def open(self) -> None:
        """Start; return once all that exists is here. To be called once.

        Raises:
            RuntimeError: it was called before.
            StoreUnavailableError: the store has not been heard of for the time budget; nothing is left of it.
        """
        if self._task is not None:
            raise RuntimeError("a view is entered once; ask the repository for another one")
        self._task = asyncio.create_task(self._run())
        try:
            await self._await_opened()
            _ = self.contents
        except BaseException:
            await self.close()
            raise

    async def _await_opened(self) -> None:
        """Wait as long as the store is heard of; what a bucket holds may take any time to come.

        Raises:
            StoreUnavailableError: it has not been heard of for the time budget.
        """
        while not self._opened.is_set():
            left = self._timeout - self._feed.silent_for
            if left <= timedelta(0):
                raise StoreUnavailableError(
                    f"the view could not be loaded: the server has not been heard of for "
                    f"{self._timeout.total_seconds():g} s"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(left.total_seconds()):
                    await self._opened.wait()

    async def close(self) -> None:
        """End the task and its watch. Idempotent."""
        self._error = StoreClosedError("the view is closed: read it inside of `async with`")
        tasks = {task for task in (self._task, self._expiring) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # The task

    async def _run(self) -> None:
        try:
            await self._follow()
            self._fail(StoreClosedError("the watch of the view has ended"))
        except Exception as error:
            self._fail(error)
        finally:
            if self._expiring is not None:
                self._expiring.cancel()
            self._opened.set()
            self._announce()

    async def _follow(self) -> None:
        async with aclosing(self._feed.portions()) as portions:
            async for portion in portions:
                # Nobody stops the task but to end it, so it is never interrupted.
                if isinstance(portion, Interrupted):
                    continue
                for event in portion:
                    await self._follow_one(event)
                self._announce()

    async def _follow_one(self, event: RawEvent) -> None:
        self._feed.note(event)
        match event:
            case RawEntry():
                self._take(event)
            case RawMarker():
                if self._feed.is_of_model(event):
                    self._take(event)
            case Reset():
                self._filled = Contents()
                await self._forget_lifetimes()
            case CaughtUp():
                self._show()
            case Resumed():
                self._announce()
                await self._compare()
            case Position():
                pass

    def _show(self) -> None:
        self._shown = self._filled
        if not self._opened.is_set():
            self._error = None
            self._opened.set()

    def _fail(self, error: Exception) -> None:
        """Whatever it is, it is the readers' to know."""
        self._error = error
        self._announce()

    def _announce(self) -> None:
        """Wake all who wait for a revision."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _take(self, raw: RawChange) -> None:
        held: M | DecodeError | None
        try:
            held = self._feed.typed.value(raw) if isinstance(raw, RawEntry) else None
        except DecodeError as error:
            if not self._feed.is_of_model(raw):
                return
            if self._on_invalid != "keep":
                left_out(error, self._on_invalid)
            held = error
        self._filled.put(raw.raw_key, held)
        self._lifetimes.note(raw, held, self._feed.handle.settings)
        if self._lifetimes and self._expiring is None:
            self._expiring = asyncio.create_task(self._expire())

    # What no event tells

    async def _compare(self) -> None:
        """Drop what is gone from the store: its marker may have gone, too, before the watch went on."""
        while True:
            try:
                return await self._drop_what_is_gone(self._filled)
            except BucketNotFoundError:
                return None  # the watch will tell
            except (StoreUnavailableError, StoreTimeoutError):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _drop_what_is_gone(self, contents: Contents[M]) -> None:
        handle = self._feed.handle
        names: list[str] = []
        async with aclosing(handle.names([self._feed.filter], timeout=self._timeout)) as portions:
            async for portion in portions:
                names += portion
        suspects = contents.besides(names)
        changes = await handle.get_many(list(suspects), deadline=Deadline(self._timeout))
        for (raw_key, held), change in zip(suspects.items(), changes, strict=True):
            if not isinstance(change, RawEntry) and contents.held(raw_key) is held:
                contents.put(raw_key, None)

    async def _forget_lifetimes(self) -> None:
        """Ask no more for what another bucket held, which might wait for what the new one never tells."""
        self._lifetimes = Lifetimes()
        expiring, self._expiring = self._expiring, None
        if expiring is not None:
            expiring.cancel()
            await asyncio.wait({expiring})

    async def _expire(self) -> None:
        """Ask the store for the entries whose time has come."""
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                # One alone first: while that is there, our clock is ahead of the store's.
                number = 1
                while (due := self._lifetimes.take_due(number)) and await self._have_left(due):
                    number = _AT_ONCE
        except Exception as error:
            self._fail(error)

    async def _have_left(self, due: list[Leaving]) -> bool:
        """Look at the store, and drop or replace what is gone; return whether all are."""
        lifetimes = self._lifetimes
        raw_keys = [entry.raw_key for entry in due]
        try:
            changes = await self._feed.handle.get_many(raw_keys, deadline=Deadline(self._timeout))
        except KvormError:
            # The watch meets the same, and tells or goes on.
            for entry in due:
                lifetimes.ask_again(entry)
            return False
        all_left = True
        for entry, change in zip(due, changes, strict=True):
            if self._filled.held(entry.raw_key) is not entry.held:
                continue
            if change is not None and change.revision >= entry.revision:
                # It is still there, or the watch will tell of what is.
                all_left = False
                lifetimes.ask_again(entry)
            elif isinstance(change, RawEntry):
                self._take(change)
            else:
                self._filled.put(entry.raw_key, None)
        return all_left
