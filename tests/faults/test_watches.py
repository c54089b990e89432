"""A watch misses nothing and tells nothing twice, whatever happens to the connection and the server (S1-S7)."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from itertools import chain
from pathlib import Path

import pytest

import kvorm
from kvorm import Bucket, BucketNotFoundError, StoreUnavailableError
from kvorm.backends.base import Replay
from kvorm.testing.proxy import FlakyProxy
from kvorm.testing.servers import NatsServer
from tests.faults.observing import Report, observe, view_of
from tests.faults.watch_faults import UNSEEN, a_cluster, another_bucket, appear, blind, one_server, vanish
from tests.faults.watching import BUCKET, NOTHING_WRONG, Told, Writers, fields, follow, judge, opened, put, raw, until

TYPICAL, WORST = 2.0, 5.0
"""Seconds until events flow again."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with NatsServer(tmp_path / "server") as server:
        yield server


def check(report: Report) -> None:
    print(report)
    assert set(report.verdicts.values()) == {NOTHING_WRONG}, report
    assert all(told.caught_up == 1 for told in report.told.values()), report
    assert not report.differing, report
    # Each fault happens once or twice, and the machine may have other things to do; the long form judges each alone.
    times = sorted(chain.from_iterable(report.recoveries.values()))
    assert times[len(times) // 2] <= TYPICAL, report
    assert times[-1] <= WORST, report


async def test_one_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kvorm")
    async with one_server(tmp_path) as scene:
        report = await observe(scene, list(scene.strikes))
    check(report)
    assert report.told["all"].resumed >= 5
    assert not any(told.resets for told in report.told.values())
    lost, back = (sum(text in record.message for record in caplog.records) for text in ("lost its", "has its server"))
    # The view has a watch of its own.
    assert lost == back > sum(told.resumed for told in report.told.values())


async def test_a_cluster(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as scene:
        report = await observe(scene, list(scene.strikes))
    check(report)
    assert not any(told.resets for told in report.told.values())


async def test_a_bucket_made_anew_starts_over(tmp_path: Path) -> None:
    async with another_bucket(tmp_path) as scene:
        report = await observe(scene, list(scene.strikes) * 2)
    check(report)
    assert all(told.resets == 2 for told in report.told.values())


async def test_a_view_drops_what_vanished_unseen(server: NatsServer) -> None:
    """Nothing is left on the server that could tell of it."""
    unseen = [fields(key) for key in UNSEEN]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(raw(server.url))
        proxy = await stack.enter_async_context(FlakyProxy(server.url))
        store = await stack.enter_async_context(kvorm.connect(proxy.url))
        view = await stack.enter_async_context(view_of(store, BUCKET))
        await appear(client)
        await until(lambda: all(key in view for key in unseen))
        async with blind(proxy):
            await vanish(client)
        await until(lambda: len(view) == 0, 5)


async def test_a_view_is_not_entered_while_there_is_no_server(server: NatsServer) -> None:
    """Its budget is that of an operation; nothing is left of it, and later another one is."""
    async with kvorm.connect(server.url, timeout=timedelta(seconds=1)) as store:
        async with view_of(store, BUCKET):
            pass
        assert isinstance(store, kvorm.NatsStore)
        await asyncio.to_thread(server.kill)
        await until(lambda: not store.client.is_connected)
        before = asyncio.all_tasks()
        began = time.monotonic()
        # Its bucket or its watch is what waited in vain: the client tells of a lost connection when it gets to it.
        with pytest.raises(StoreUnavailableError, match="for 1 s"):
            async with asyncio.timeout(5), view_of(store, BUCKET):
                pass
        assert 0.9 < time.monotonic() - began < 2
        # An attempt to connect has a task of its own while it lasts.
        await until(lambda: asyncio.all_tasks() <= before)
        await asyncio.to_thread(server.start)
        async with view_of(store, BUCKET) as view:
            assert view.caught_up


async def test_a_bucket_restored_from_a_backup_starts_over(server: NatsServer, tmp_path: Path) -> None:
    data = server.directory / "jetstream"
    async with opened(server.url, BUCKET) as (_, handle):
        for number in range(10):
            await put(handle, f"acme.{number}")
        await asyncio.to_thread(server.stop)
        shutil.copytree(data, tmp_path / "backup")
        await asyncio.to_thread(server.start)
        told = Told()
        watch = handle.watch([">"], start=Replay.CURRENT)
        reader = asyncio.create_task(follow(watch, told))
        for number in range(10):
            await put(handle, f"b.{number}")
        await until(lambda: told.position == 20)
        await asyncio.to_thread(server.stop)
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
        await asyncio.to_thread(server.start)
        await until(lambda: told.resets == 1 and told.caught_up == 1, 3)
        await put(handle, "acme.0")
        await until(lambda: told.position == 11)
        await watch.aclose()
        await reader
        async with raw(server.url) as client:
            assert judge(told, await client.stored(BUCKET.name)) == NOTHING_WRONG


async def test_a_deleted_bucket_ends_its_watches(server: NatsServer) -> None:
    async with opened(server.url, BUCKET) as (_, handle), raw(server.url) as client:
        watches = [handle.watch([">"], start=Replay.CURRENT) for _ in range(5)]
        readers = [asyncio.create_task(follow(watch, Told())) for watch in watches]
        await asyncio.sleep(0.2)
        await client.call(f"STREAM.DELETE.KV_{BUCKET.name}")
        async with asyncio.timeout(3):
            ended = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(one, BucketNotFoundError) for one in ended), ended


async def test_caught_up_once_over_lost_connections(server: NatsServer) -> None:
    """What was told before the connection was lost is not told again, and the count goes on."""
    keys = [f"k.{number}" for number in range(2_000)]
    async with FlakyProxy(server.url) as proxy, opened(server.url, BUCKET) as (_, direct):
        for key in keys:
            await put(direct, key, b"x" * 4_000)
        async with opened(proxy.url, BUCKET) as (_, handle):
            watch = handle.watch([">"], start=Replay.CURRENT)
            told = Told()
            while not told.caught_up:
                told.take(await anext(watch))
                if len(told.changes) % 500 == 100 and told.resumed < 4:
                    proxy.cut()
                    await asyncio.sleep(0.15)
            assert told.revisions == list(range(1, len(keys) + 1))
            assert told.start == len(keys)
            assert told.resumed >= 2
            await watch.aclose()


async def test_a_reader_that_stops_waiting_may_come_back(server: NatsServer) -> None:
    """Whatever it was waiting for: the start, an event, or a connection."""
    async with FlakyProxy(server.url) as proxy, opened(proxy.url, BUCKET) as (_, handle):
        watch, told = handle.watch([">"], start=Replay.CURRENT), Told()

        async def read(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await follow(watch, told)

        async with Writers(server.url, BUCKET):
            for number in range(200):
                if number % 20 == 10:
                    proxy.cut()
                await read(0.0005 * (number % 10))
        async with raw(server.url) as client:
            last = await client.last(BUCKET.name)
            while told.position < last:
                await read(0.1)
            stored = await client.stored(BUCKET.name)
        await watch.aclose()
        assert judge(told, stored) == NOTHING_WRONG
        assert told.caught_up == 1


async def test_caught_up_while_entries_expire(server: NatsServer) -> None:
    """What was to come is gone before the reader gets there."""
    async with raw(server.url) as client:
        # Without markers.
        brief = Bucket("brief", ttl=timedelta(seconds=1.5))
        config = {"name": "KV_brief", "subjects": ["$KV.brief.>"], "max_msgs_per_subject": 1, "max_age": 1_500_000_000}
        await client.call("STREAM.CREATE.KV_brief", config)
        async with opened(server.url, brief, create=False) as (_, handle):
            for number in range(600):
                await put(handle, f"k.{number}", b"x" * 10_000)
            watch = handle.watch([">"], start=Replay.CURRENT)
            told = Told()
            told.take(await anext(watch))
            await asyncio.sleep(2)
            began = time.monotonic()
            async with asyncio.timeout(5):
                while not told.caught_up:
                    told.take(await anext(watch))
            assert len(told.changes) < 600
            assert told.start == 600
            print(f"caught up after {time.monotonic() - began:.3f} s, with {len(told.changes)} of 600")
            assert time.monotonic() - began < 1
            await watch.aclose()
