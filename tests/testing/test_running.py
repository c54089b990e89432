"""The contract run over wrappers: an honest one keeps it, and each dishonest one is caught."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from kvorm import MemoryStore, Store
from kvorm.backends.base import BucketHandle, RawWatch, Replay
from kvorm.entry import ANY
from kvorm.errors import KeyNotFoundError
from kvorm.testing.contract import CHECKS, Check, clauses, run
from kvorm.testing.contract.on_memory import MemoryHarness
from kvorm.testing.layer import Call, LayeredBackend

T = TypeVar("T")


class Honest:
    """Passes everything on."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        return await act()

    def watch(self, below: BucketHandle, filters: Sequence[str], start: Replay | int) -> RawWatch:
        return below.watch(filters, start=start)


class Overwriting(Honest):
    """Stores whatever was expected."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        if call.verb != "put" or call.below is None or call.deadline is None:
            return await act()
        revision: Any = await call.below.put(
            call.raw_keys[0], call.data, expect=ANY, headers={}, operation_id="", deadline=call.deadline
        )
        return revision


class Repeating(Honest):
    """Writes twice."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        if call.verb == "put" and call.expect is ANY:
            await act()
        return await act()


class Forgetful(Honest):
    """Knows of nothing in lists."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        told: Any = await act()
        return told[:-1] if call.verb == "live_keys" else told


class Shortened(Honest):
    """Has lost the oldest change of each history."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        told: Any = await act()
        return told[1:] if call.verb == "history" else told


class Deaf(Honest):
    """A watch that starts with what comes from now on, whatever was asked."""

    def watch(self, below: BucketHandle, filters: Sequence[str], start: Replay | int) -> RawWatch:
        return below.watch(filters, start=Replay.NOTHING)


class Lossy(Honest):
    """Says that a key was deleted, and leaves no marker."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        if call.verb != "delete" or not isinstance(call.expect, int):
            return await act()
        invented: Any = call.expect + 1
        return invented


class Hasty(Honest):
    """Tells a revision that is not the one stored."""

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        told: Any = await act()
        return told + 1 if call.verb == "put" else told


class Caching(Honest):
    """Answers with what it read first."""

    def __init__(self) -> None:
        self._first: dict[object, Any] = {}

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        if call.verb != "get":
            return await act()
        place = call.bucket, call.raw_keys
        if place not in self._first:
            self._first[place] = await act()
        first: Any = self._first[place]
        return first


class Untidy(Honest):
    """Leaves a task behind each write."""

    def __init__(self) -> None:
        self._left: list[asyncio.Task[None]] = []

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        if call.writes:
            self._left.append(asyncio.create_task(asyncio.sleep(30)))
        return await act()


def over(layer: Honest) -> Callable[[], MemoryHarness]:
    def wrap(store: MemoryStore) -> Store:
        return store.wrapped(lambda backend: LayeredBackend(backend, layer))

    return lambda: MemoryHarness(wrap)


def of(*numbers: str) -> list[Check]:
    return [check for check in CHECKS if set(numbers) & set(clauses(check))]


async def test_an_honest_wrapper_keeps_every_promise() -> None:
    results = await run(CHECKS, over(Honest()))
    assert [(result.check, result.error) for result in results if not result.passed] == []
    assert len(results) == len(CHECKS)


@pytest.mark.parametrize(
    ("layer", "clause"),
    [
        (Overwriting, "W4"),
        (Repeating, "W1"),
        (Hasty, "W1"),
        (Lossy, "R1"),
        (Caching, "R2"),
        (Forgetful, "R5"),
        (Shortened, "R4"),
        (Deaf, "S4"),
        (Untidy, "C3"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_dishonest_wrapper_is_caught(layer: type[Honest], clause: str) -> None:
    results = await run(of(clause), over(layer()), longest=timedelta(seconds=2))
    assert [result for result in results if not result.passed]


async def test_what_a_check_raises_is_its_result() -> None:
    async def broken(harness: MemoryHarness) -> None:
        raise KeyNotFoundError("gone", bucket="b", key="k")

    (result,) = await run([broken], MemoryHarness)
    assert result.check == "broken"
    assert isinstance(result.error, KeyNotFoundError)
    assert not result.passed
