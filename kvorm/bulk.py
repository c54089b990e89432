"""Many writes of one call: each checked by itself, its outcome known at once, and bulk loading in order."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import Deadline, LoadError, Pair, Put, RefusedError
from kvorm.backends.message import new_operation_id
from kvorm.entry import Expect, Key
from kvorm.errors import (
    BucketNotFoundError,
    BulkError,
    InvalidKeyError,
    KvormError,
    StoreClosedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.operation import OPEN, Carried, Operation

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

Begin: TypeAlias = Callable[[], AbstractAsyncContextManager[Operation[M]]]
"""Begins a further operation, for one item, with a time budget of its own."""

_DELETES_AT_ONCE: Final = 64
_LOADED_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 1024 * 1024
"""How many bytes of values one portion of a load has, unless a single one has more."""

_HOPELESS: Final = (StoreUnavailableError, StoreTimeoutError, StoreClosedError, BucketNotFoundError)
"""What one item learns of the store that holds for the next one, too."""


class _Many(ABC, Generic[M, T]):
    """What the items of one call came to."""

    def __init__(self, operation: Operation[M], items: Iterable[T], begin: Begin[M]) -> None:
        self._operation = operation
        self._begin = begin
        self._typed = operation.typed
        self._items = list(items)
        self._saved: dict[int, int] = {}
        self._failed: dict[int, Exception] = {}
        self._hopeless: Exception | None = None

    async def run(self) -> list[int]:
        """Write them all; return their revisions in order.

        Raises:
            BulkError: not all were written.
        """
        self._refuse_twins()
        await self._write()
        if self._failed:
            raise BulkError.of(saved=self._saved, failed=self._failed)
        return [self._saved[index] for index in range(len(self._items))]

    @abstractmethod
    def _raw_key(self, item: T) -> str:
        """Return an item's raw key. Raises InvalidKeyError."""

    @abstractmethod
    async def _write(self) -> None:
        """Write each item, and tell its outcome."""

    def _to_do(self) -> Iterator[tuple[int, T]]:
        """Yield the items and their indices, as long as there is hope."""
        for index, item in enumerate(self._items):
            if self._hopeless is None:
                yield index, item
            else:
                self._failed[index] = _not_begun(self._hopeless)

    def _fail(self, index: int, error: Exception) -> None:
        self._failed[index] = error
        if isinstance(error, _HOPELESS):
            self._hopeless = error

    def _refuse_twins(self) -> None:
        first: dict[str, int] = {}
        twins: dict[int, Exception] = {}
        for index, item in enumerate(self._items):
            try:
                raw_key = self._raw_key(item)
            except InvalidKeyError:
                continue  # it fails alone, when it is its turn
            twin = first.setdefault(raw_key, index)
            if twin != index:
                error = InvalidKeyError(f"items {twin} and {index} have the same key {raw_key!r}", key=raw_key)
                twins[twin] = twins[index] = error
        if twins:
            raise BulkError.of(saved={}, failed=twins)


class Saves(_Many[M, M]):
    """The saves of one call."""

    def __init__(self, operation: Operation[M], items: Iterable[M], begin: Begin[M], expect: Expect | Carried) -> None:
        super().__init__(operation, items, begin)
        self._expect = expect
        self._under_way: dict[int, Put] = {}
        self._again: list[int] = []

    def _raw_key(self, item: M) -> str:
        mapping = self._typed.mapping
        if not mapping.is_instance(item):
            raise InvalidKeyError(f"{item!r} is no {mapping.model.__name__}", key=item)
        return mapping.raw_key_of(item)

    async def _write(self) -> None:
        operation = self._operation
        try:
            await operation.handle.put_many(self._puts(), deadline=operation.deadline, told=self._told)
        finally:
            for index, put in self._under_way.items():
                self._typed.leave_open(self._items[index], put.raw_key, put.operation_id)
        for index in self._again:
            await self._save_again(index)

    def _puts(self) -> Iterator[Put]:
        """Yield each save when it can be sent: what it expects is looked at as late as its bytes."""
        for index, value in self._to_do():
            try:
                raw_key, data = self._typed.encode(value)
            except Exception as error:
                self._failed[index] = error
                continue
            expected = self._operation.expectation(value, raw_key, self._expect)
            put = Put(index, raw_key, data, expected, new_operation_id())
            self._under_way[index] = put
            yield put

    def _told(self, index: int, outcome: int | Exception) -> None:
        put = self._under_way.pop(index)
        value = self._items[index]
        if isinstance(outcome, int):
            self._saved[index] = outcome
            self._typed.stamp(value, put.raw_key, outcome)
        elif not isinstance(outcome, RefusedError):
            if isinstance(outcome, OPEN):
                self._typed.leave_open(value, put.raw_key, put.operation_id)
            self._fail(index, outcome)
        elif self._operation.may_save_again(outcome, value, self._expect):
            self._again.append(index)
        else:
            conflict = self._typed.conflict(outcome, put.raw_key, put.expect)
            conflict.__cause__ = outcome
            self._failed[index] = conflict

    async def _save_again(self, index: int) -> None:
        """Save over an earlier write of the same object, as a single save does."""
        try:
            async with self._begin() as operation:
                self._saved[index] = await operation.save(self._items[index], self._expect)
        except Exception as error:
            self._failed[index] = error


class Deletes(_Many[M, M | Key]):
    """The deletes of one call, of objects or by key."""

    def _raw_key(self, item: M | Key) -> str:
        mapping = self._typed.mapping
        if mapping.is_instance(item):
            return mapping.raw_key_of(item)
        if not isinstance(item, tuple):
            raise InvalidKeyError(f"{item!r} is neither a {mapping.model.__name__} nor a tuple of key fields", key=item)
        return mapping.raw_key(item, {})

    async def _write(self) -> None:
        to_do = self._to_do()
        await asyncio.gather(*(self._work(to_do) for _ in range(min(_DELETES_AT_ONCE, len(self._items)))))

    async def _work(self, to_do: Iterator[tuple[int, M | Key]]) -> None:
        for index, item in to_do:
            try:
                self._saved[index] = await self._delete(item)
            except Exception as error:
                self._fail(index, error)

    async def _delete(self, item: M | Key) -> int:
        async with self._begin() as operation:
            if self._typed.mapping.is_instance(item):
                return await operation.mark_object(item, "deleted")
            return await operation.mark_key(self._raw_key(item), "deleted")


class Load(Generic[M]):
    """One load: objects in their order, a portion at a time, whatever is there."""

    def __init__(self, operation: Operation[M], progress: Callable[[int], object] | None) -> None:
        self._handle = operation.handle
        self._typed = operation.typed
        self._timeout = operation.deadline.timeout
        self._progress = progress
        self._stored = 0

    async def run(self, values: Iterable[M] | AsyncIterable[M]) -> int:
        """Store them all; return their number.

        Raises:
            StoreError: not all; `.stored` tells how many.
        """
        try:
            async with _OneBehind() as storing, aclosing(self._portions(values)) as portions:
                async for portion in portions:
                    await storing.follow(partial(self._store, portion))
        except LoadError as stopped:
            raise self._stopped(stopped.__cause__) from stopped.__cause__
        except Exception as error:  # of the iterable, or of `progress`
            error.add_note(f"{self._stored} objects were stored before")
            raise
        return self._stored

    async def _portions(self, values: Iterable[M] | AsyncIterable[M]) -> AsyncGenerator[list[Pair], None]:
        """Yield what is to be stored; before an error, what came before it."""
        portion: list[Pair] = []
        size = 0
        try:
            async with aclosing(_each(values)) as each:
                async for value in each:
                    portion.append(self._pair(value))
                    size += len(portion[-1].data)
                    if len(portion) >= _LOADED_AT_ONCE or size >= _BYTES_AT_ONCE:
                        yield portion
                        portion, size = [], 0
        except Exception:
            if portion:
                yield portion
            raise
        if portion:
            yield portion

    def _pair(self, value: M) -> Pair:
        try:
            pair = Pair(*self._typed.encode(value))
            self._handle.check_size(*pair)
        except KvormError as error:
            raise LoadError(0) from error
        return pair

    async def _store(self, portion: list[Pair]) -> None:
        try:
            await self._handle.load(portion, deadline=Deadline(self._timeout))
        except LoadError as stopped:
            self._stored += stopped.stored
            raise
        self._stored += len(portion)
        if self._progress is not None:
            self._progress(self._stored)

    def _stopped(self, cause: BaseException | None) -> StoreError:
        """Return why it stopped, as an error that knows how many are stored."""
        error = cause if isinstance(cause, StoreError) else StoreError(f"load stopped: {cause}")
        error.stored = self._stored
        error.add_note(f"{self._stored} objects were stored before")
        return error


class _OneBehind:
    """Runs a step while its caller prepares the next one. Left with a cancellation, it cancels the step."""

    def __init__(self) -> None:
        self._running: asyncio.Task[None] | None = None

    async def follow(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a step, once the one before has ended. Raises what that raised."""
        before, self._running = self._running, None
        if before is not None:
            await before
        self._running = asyncio.create_task(step())
        await asyncio.sleep(0)  # it sends before the caller goes on

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last step. Raises what it raised."""
        if self._running is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        else:
            await self._running


async def _each(values: Iterable[M] | AsyncIterable[M]) -> AsyncGenerator[M, None]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


def _not_begun(cause: Exception) -> StoreUnavailableError:
    error = StoreUnavailableError(f"not begun, nothing was sent, for another item of the call was told: {cause}")
    error.__cause__ = cause
    return error
