"""What a watch costs, and that nothing of it stays: slow readers, leaving, refusals (S3, S6, S7, C3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import nats
import pytest

import kvorm
from kvorm import Bucket, PermissionDeniedError, Permissions, StoreClosedError, StoreError
from kvorm.backends.base import Deadline, RawWatch, Replay
from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.rights import as_admin, as_app, users
from tests.faults.watch_limits import BUCKET, LOADS, WAYS, Left, caught_up, left_watches, slow_reader, waiting
from tests.faults.watching import NOTHING_WRONG, Told, follow, opened, put, raw

FLOOD, OPENED = 30_000, 200
"""`python -m tests.faults watches` has more of both."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with NatsServer(tmp_path / "server") as server:
        yield server


async def test_a_slow_reader_misses_nothing_in_bounded_memory(server: NatsServer) -> None:
    """It pauses while the bucket is flooded; another watch of its connection and requests go on."""
    slow = await slow_reader(server, FLOOD)
    print(slow)
    assert slow.verdict == NOTHING_WRONG
    assert not slow.resumed
    assert slow.slowest_beside < 2
    assert slow.megabytes <= 64


def nothing_stays(left: Left) -> bool:
    return left.consumers == left.tasks == left.subscriptions == 0


async def test_nothing_stays_of_those_who_left(server: NatsServer) -> None:
    left = await left_watches(server.url, BUCKET, OPENED)
    assert nothing_stays(left), left
    assert set(left.ways) == set(WAYS)


async def test_nothing_stays_on_a_cluster(nats_cluster: NatsCluster) -> None:
    left = await left_watches(nats_cluster.urls, Bucket(BUCKET.name, history=5, replicas=3), OPENED // 4)
    assert nothing_stays(left), left


@pytest.mark.parametrize("load", LOADS)
async def test_caught_up_is_told_once_and_not_too_early(server: NatsServer, load: str) -> None:
    """At history 1 what a watch is about to tell is pushed out under it."""
    found = await caught_up(server, LOADS[load], 60)
    print(f"caught up after {sorted(found.seconds)[30]:.3f} s, at most {max(found.seconds):.3f} s")
    assert (found.early, found.not_once, found.hanging) == (0, 0, 0)
    async with raw(server.url) as client:
        await client.until_no_consumers(LOADS[load].bucket.name, 5)


async def test_a_view_comes_to_any_revision_of_its_bucket(server: NatsServer) -> None:
    async with waiting(server) as kinds:
        for name, measure in kinds.items():
            seconds = max([await measure() for _ in range(2)])
            print(f"a revision of {name}: {seconds:.3f} s")
            assert seconds < 1.5


@pytest.mark.parametrize("way", ["close", "drain"])
async def test_a_connection_closed_for_good_ends_its_watches(server: NatsServer, way: str) -> None:
    client = await nats.connect(server.url)
    store = kvorm.NatsStore(client)
    handle = await store.handle(BUCKET, Deadline(timedelta(seconds=10)))
    readers = [asyncio.create_task(follow(handle.watch([">"], start=Replay.CURRENT), Told())) for _ in range(20)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await getattr(client, way)()
    async with asyncio.timeout(2):
        ended = await asyncio.gather(*readers, return_exceptions=True)
    print(f"{way}: all ended after {time.monotonic() - began:.3f} s")
    assert all(isinstance(one, StoreClosedError) for one in ended), ended
    await store.close()


async def first(watch: RawWatch) -> None:
    """Read until it has caught up."""
    told = Told()
    try:
        while not told.caught_up:
            told.take(await anext(watch))
    finally:
        await watch.aclose()


@pytest.mark.parametrize("subject", ["$JS.API.CONSUMER.CREATE.KV_limits.*", "$JS.FC.KV_limits.>"])
async def test_who_may_not_watch_is_told_at_once(tmp_path: Path, subject: str) -> None:
    class Limited(kvorm.Model, bucket=BUCKET):
        id: kvorm.Key[str]

    granted = kvorm.permissions(Limited)
    less = Permissions(tuple(one for one in granted.publish if one != subject), granted.subscribe)
    assert less != granted
    with NatsServer(tmp_path, config=users(less)) as server:
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(as_admin(server))
            theirs = await admin.handle(BUCKET, Deadline(timedelta(seconds=10)))
            for number in range(30):
                await put(theirs, f"k.{number}", b"x" * 100_000)
            store = await stack.enter_async_context(as_app(server))
            handle = await store.handle(BUCKET, Deadline(timedelta(seconds=10)))
            began = time.monotonic()
            with pytest.raises(PermissionDeniedError):
                await first(handle.watch([">"], start=Replay.CURRENT))
            assert time.monotonic() - began < 1
            await first(theirs.watch([">"], start=Replay.CURRENT))


async def test_too_many_consumers_are_an_error_in_the_end(server: NatsServer) -> None:
    async with raw(server.url) as client:
        await client.call(
            "STREAM.CREATE.KV_few",
            {"name": "KV_few", "subjects": ["$KV.few.>"], "max_msgs_per_subject": 1, "max_consumers": 1},
        )
        async with opened(server.url, Bucket("few"), create=False) as (_, handle):
            watch = handle.watch([">"], start=Replay.CURRENT)
            await anext(watch)
            with pytest.raises(StoreError, match="10026"):
                async with asyncio.timeout(15):
                    await first(handle.watch([">"], start=Replay.CURRENT))
            await watch.aclose()
            # One that ends in time makes room.
            await first(handle.watch([">"], start=Replay.CURRENT))
