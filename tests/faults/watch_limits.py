"""What a watch costs and how exact it is: slow readers, those who leave, the end of the initial state, `wait_for`."""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import kvorm
from kvorm import Bucket, CaughtUp, Key, Mapping, Model
from kvorm.backends.base import BucketHandle, Deadline, Replay
from kvorm.testing.servers import NatsServer
from tests.faults.watching import Raw, Told, Verdict, Writers, follow, judge, opened, put, raw, until

BUCKET = Bucket("limits", history=64)
SIZE, FLOODED_KEYS = 4_000, 2_000
_MEGABYTE = 1024 * 1024


# A slow reader


@dataclass(frozen=True)
class Slow:
    """How a reader fared that paused while its bucket was flooded."""

    verdict: Verdict
    resumed: int
    megabytes: float
    """The most above the start."""
    slowest_beside: float
    """Seconds from a write to its event on another watch of the same connection."""


class Memory:
    """The most that this process had above the start."""

    def __init__(self) -> None:
        self.start = _resident()
        self.most = 0

    async def __aenter__(self) -> Memory:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, _resident() - self.start)
            await asyncio.sleep(0.02)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def slow_reader(server: NatsServer, number: int) -> Slow:
    """Read a quarter, pause until all is written, and read the rest."""
    async with opened(server.url, BUCKET) as (store, handle):
        other = await store.handle(Bucket("beside"), Deadline(timedelta(seconds=10)))
        beside = other.watch([">"], start=Replay.CURRENT)
        quick = Told()
        following = asyncio.create_task(follow(beside, quick))
        watch = handle.watch([">"], start=Replay.NOTHING)
        told = Told()
        told.take(await anext(watch))
        async with Memory() as memory:
            flooding = asyncio.create_task(_flood(server, number))
            while told.position < number / 4:
                told.take(await anext(watch))
            slowest = 0.0
            while not flooding.done():
                slowest = max(slowest, await _round_trip(other, quick))
                await asyncio.sleep(0.05)
            await flooding
            assert watch.silent_for < 2
            while told.position < number:
                told.take(await anext(watch))
        await watch.aclose()
        await beside.aclose()
        await following
    verdict = judge(told, [(f"k.{at % FLOODED_KEYS}", at + 1) for at in range(number)])
    return Slow(verdict, told.resumed, memory.most / _MEGABYTE, slowest)


async def _round_trip(handle: BucketHandle, told: Told) -> float:
    began = time.monotonic()
    revision = await put(handle, "a")
    await until(lambda: told.position >= revision)
    return time.monotonic() - began


async def _flood(server: NatsServer, number: int) -> None:
    script = str(Path(__file__).with_name("flood.py"))
    arguments = [server.url, BUCKET.name, str(number), str(SIZE), str(FLOODED_KEYS)]
    process = await asyncio.create_subprocess_exec(sys.executable, script, *arguments)
    assert await process.wait() == 0


# Those who leave


@dataclass(frozen=True)
class Left:
    """What is there of watches that were left; and how they were."""

    ways: Counter[str]
    consumers: int
    tasks: int
    subscriptions: int


async def left_watches(urls: str | list[str], bucket: Bucket, number: int) -> Left:
    """Open and leave so many, in every way, at any time; look two seconds later at most."""
    choice = random.Random(1)
    ways: Counter[str] = Counter()
    async with opened(urls, bucket) as (store, handle), raw(urls) as client:
        assert isinstance(store, kvorm.NatsStore)
        for key in range(50):
            await put(handle, f"k.{key}")
        subscriptions: dict[int, Any] = store.client._subs
        assert await client.consumers(bucket.name) == []
        before = len(asyncio.all_tasks()), len(subscriptions)
        for _ in range(number // 4):
            chosen = choice.choices(list(WAYS), k=4)
            ways.update(chosen)
            await asyncio.gather(*(WAYS[way](handle, choice) for way in chosen))
        try:
            await client.until_no_consumers(bucket.name, 2)
            await until(lambda: (len(asyncio.all_tasks()), len(subscriptions)) == before, 2)
        except TimeoutError:
            pass  # told below
        tasks, subscribed = len(asyncio.all_tasks()) - before[0], len(subscriptions) - before[1]
        return Left(ways, len(await client.consumers(bucket.name)), tasks, subscribed)


async def _cancelled(handle: BucketHandle, choice: random.Random) -> None:
    watch = handle.watch([">"], start=Replay.CURRENT)
    reader = asyncio.create_task(follow(watch, Told()))
    await _any_moment(choice)
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    await watch.aclose()


async def _closed_by_another(handle: BucketHandle, choice: random.Random) -> None:
    watch = handle.watch([">"], start=Replay.CURRENT)
    reader = asyncio.create_task(follow(watch, Told()))
    await _any_moment(choice)
    await watch.aclose()
    await watch.aclose()
    await reader


async def _broken_off(handle: BucketHandle, choice: random.Random) -> None:
    """Break, or an exception: it is closed by the one who reads it."""
    watch = handle.watch([">"], start=Replay.CURRENT)
    events = choice.randrange(60)
    while events and not isinstance(await anext(watch), CaughtUp):
        events -= 1
    await watch.aclose()


async def _any_moment(choice: random.Random) -> None:
    await asyncio.sleep(choice.choice([0, 0, choice.uniform(0, 0.005)]))


WAYS: dict[str, Callable[[BucketHandle, random.Random], Awaitable[None]]] = {
    "cancelled": _cancelled,
    "closed": _closed_by_another,
    "broken off": _broken_off,
}


# The end of the initial state


@dataclass
class CaughtUps:
    """How the ends of initial states were told, beside writers."""

    seconds: list[float] = field(default_factory=list[float])
    early: int = 0
    """Told before a key that was there."""
    not_once: int = 0
    hanging: int = 0


@dataclass(frozen=True)
class Load:
    """A bucket and who writes to it; what is older than `lasting_seconds` may have expired."""

    bucket: Bucket
    keys: int
    once: float = 0.0
    marks: float = 0.0
    lasting_seconds: float = float("inf")


LOADS = {
    "writers": Load(Bucket("load", history=3), 300, once=0.003, marks=0.1),
    "entries that expire": Load(Bucket("brief", ttl=timedelta(seconds=2)), 2_000, lasting_seconds=1),
    "every key rewritten, history 1": Load(Bucket("busy"), 300),
}


async def caught_up(server: NatsServer, load: Load, watches: int, *, at_once: int = 5) -> CaughtUps:
    """Open watches under a load, each tenth with a slow reader, and read each until it has caught up, and on."""
    found = CaughtUps()
    keys = [f"k.{number}" for number in range(load.keys)]
    async with opened(server.url, load.bucket) as (_, handle):
        for key in keys:
            await put(handle, key)
        # No purges: server 2.11 erases a key's history a moment before it stores the marker, and a watch that catches
        # up in that moment tells of the marker after CaughtUp.
        writing = Writers(
            server.url, load.bucket, keys, pause=0.002, marks=load.marks, reasons=["deleted"], once=load.once
        )
        async with writing as writers:
            for first in range(0, watches, at_once):
                numbers = range(first, min(first + at_once, watches))
                await asyncio.gather(*(_catch_up(handle, load, writers, number, found) for number in numbers))
    return found


async def _catch_up(handle: BucketHandle, load: Load, writers: Writers, number: int, found: CaughtUps) -> None:
    began = time.monotonic()
    there = {
        key: revision for key, (when, revision) in writers.acknowledged.items() if when > began - load.lasting_seconds
    }
    watch, told = handle.watch([">"], start=Replay.HISTORY if number % 2 else Replay.CURRENT), Told()
    try:
        async with asyncio.timeout(10):
            while not told.caught_up:
                told.take(await anext(watch))
                if number % 10 == 9 and not len(told.changes) % 10:
                    await asyncio.sleep(0.001)
            found.seconds.append(time.monotonic() - began)
            seen = dict(told.changes)
            found.early += any(seen.get(key, 0) < revision for key, revision in there.items())
            for _ in range(10):
                told.take(await anext(watch))
    except TimeoutError:
        found.hanging += 1
    finally:
        await watch.aclose()
    found.not_once += told.caught_up != 1


# wait_for


class Mine(Model, bucket="shared", prefix="mine"):
    tenant: Key[str]
    id: Key[int]


class Other(Model):
    id: Key[str]


@asynccontextmanager
async def waiting(server: NatsServer) -> AsyncIterator[dict[str, Callable[[], Awaitable[float]]]]:
    """Yield, by what the revision is of, what measures the seconds a view of one tenant takes to be at it."""
    async with kvorm.connect(server.url) as store, raw(server.url) as client:
        mine = store.repository(Mine)
        others = store.repository(Other, mapping=Mapping("shared", key=("id",), prefix="other"))
        async with mine.view(tenant="acme") as view:

            async def seconds(revision: int) -> float:
                began = time.monotonic()
                await view.wait_for(revision)
                return time.monotonic() - began

            async def own() -> float:
                return await seconds(await mine.save(Mine(tenant="acme", id=1), expect=kvorm.ANY))

            async def other_tenant() -> float:
                return await seconds(await mine.save(Mine(tenant="b", id=1), expect=kvorm.ANY))

            async def other_model() -> float:
                return await seconds(await others.save(Other(id="a"), expect=kvorm.ANY))

            async def purged() -> float:
                await mine.save(Mine(tenant="acme", id=2), expect=kvorm.ANY)
                return await seconds(await mine.purge("acme", 2))

            async def purged_with_its_marker() -> float:
                revision = await mine.save(Mine(tenant="b", id=2), expect=kvorm.ANY)
                await _purge_stream(client, "mine.b.2")
                return await seconds(revision)

            yield {
                "its own tenant": own,
                "another tenant": other_tenant,
                "another model": other_model,
                "a purged key": purged,
                "a key that was taken off the server": purged_with_its_marker,
            }


async def _purge_stream(client: Raw, key: str) -> None:
    answer = await client.call("STREAM.PURGE.KV_shared", {"filter": f"$KV.shared.{key}"})
    assert answer["purged"], answer
