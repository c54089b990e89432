"""Readers of a watch that stop waiting for its next event, and what they get when they come back (S3, S7)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from kvorm import Bucket, CaughtUp, DecodeError, Entry, Key, Mapping, Model, Repository, Reset, StoreClosedError, Watch
from kvorm.testing.contract.harness import Harness

SOON = 15.0


class Order(Model):
    id: Key[int]
    note: str = ""


@pytest.fixture
def bucket(harness: Harness) -> Bucket:
    return Bucket(harness.new_name(), history=3, replicas=harness.replicas)


async def opened(harness: Harness, bucket: Bucket) -> Repository[Order]:
    return (await harness.open()).repository(Order, mapping=Mapping(bucket, key=("id",)))


async def next_of(watch: Watch[Order], seconds: float = SOON) -> object:
    async with asyncio.timeout(seconds):
        return await anext(watch)


async def test_a_timeout_around_the_next_event_loses_nothing(harness: Harness, bucket: Bucket) -> None:
    orders = await opened(harness, bucket)
    async with orders.watch() as watch:
        assert isinstance(await next_of(watch), CaughtUp)
        for id in range(3):
            with pytest.raises(TimeoutError):
                await next_of(watch, 0.05)
            revision = await orders.save(Order(id=id))
            event = await next_of(watch)
            assert isinstance(event, Entry)
            assert event.revision == revision == watch.revision


async def test_a_reader_that_never_waits_long_is_told_everything(harness: Harness, bucket: Bucket) -> None:
    """It stops waiting at any step: while the bucket is opened, the watch begins, an event comes."""
    revisions = [await (await opened(harness, bucket)).save(Order(id=id)) for id in range(20)]
    orders = await opened(harness, bucket)
    told: list[object] = []
    async with orders.watch() as watch, asyncio.timeout(SOON):
        turns = 0
        while not watch.caught_up:
            turns += 1
            reader = asyncio.ensure_future(anext(watch))
            for _ in range(turns % 7):
                await asyncio.sleep(0)
            # Longer from time to time: to open the bucket is begun again each time.
            await asyncio.sleep(0.0002 * turns if turns % 5 == 0 else 0)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                told.append(await reader)
    assert [event.revision for event in told if isinstance(event, Entry)] == revisions
    assert len([event for event in told if isinstance(event, CaughtUp)]) == 1


async def test_a_reset_is_told_to_one_who_did_not_wait_for_it(harness: Harness, bucket: Bucket) -> None:
    """It takes a while: what follows belongs to another bucket, which must be opened."""
    orders = await opened(harness, bucket)
    await orders.save(Order(id=1))
    async with orders.watch() as watch, asyncio.timeout(SOON):
        while not watch.caught_up:
            await anext(watch)
        await harness.delete(bucket.name)
        await harness.create(bucket)
        await harness.write(bucket.name, "2", b'{"id": 2}')
        told: list[Any] = []
        while not (told and isinstance(told[-1], CaughtUp)):
            with suppress(TimeoutError):
                told.append(await next_of(watch, 0.001))
        assert [type(event) for event in told] == [Reset, Entry, CaughtUp]
        await orders.save(told[1].value)


async def test_a_cancelled_task_ends_its_watch_all_the_same(harness: Harness, bucket: Bucket) -> None:
    orders = await opened(harness, bucket)
    caught_up = asyncio.Event()

    async def read() -> None:
        async with orders.watch() as watch:
            async for _ in watch:
                caught_up.set()

    reader = asyncio.create_task(read())
    await caught_up.wait()
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    async with asyncio.timeout(SOON):
        while await harness.consumers(bucket.name):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def test_one_that_nobody_closes_ends_with_its_reader_and_says_so(harness: Harness, bucket: Bucket) -> None:
    watch = (await opened(harness, bucket)).watch()
    assert isinstance(await next_of(watch), CaughtUp)
    with pytest.raises(TimeoutError):
        await next_of(watch, 0.05)
    for _ in range(2):
        with pytest.raises(StoreClosedError, match=r"stopped waiting.*`async with`"):
            await next_of(watch)
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await next_of(watch)


@pytest.mark.parametrize("expected", [DecodeError, ZeroDivisionError])
async def test_what_ended_it_is_said_again(harness: Harness, bucket: Bucket, expected: type[Exception]) -> None:
    """Who tries again is not let off as if all had been said."""

    def refuse(error: DecodeError) -> None:
        raise ZeroDivisionError

    orders = await opened(harness, bucket)
    await orders.save(Order(id=1))
    await harness.write(bucket.name, "7", b"no order")
    async with orders.watch(on_invalid="raise" if expected is DecodeError else refuse) as watch:
        assert isinstance(await next_of(watch), Entry)
        for _ in range(3):
            with pytest.raises(expected):
                await next_of(watch)
