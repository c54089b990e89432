"""What a watch costs beside nats-py's `watchall` and `model_validate_json`, on the same server in the same run.

`python -m benchmarks.watches`. Every number is the time of the peer over the time of kvorm, each the best of
interleaved repeats: 1.50x is half as fast again. Both make a model of each entry; only kvorm checks that its key is the
one that it is stored under, and gives it its revision to be saved with.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import nats
from nats.js.kv import KeyValue
from pydantic import BaseModel

import kvorm
from benchmarks.codec import NESTED, SMALL
from kvorm import Bucket, CaughtUp, Entry, Mapping, Repository
from kvorm.testing.servers import NatsServer

REPEATS = 10
ENTRIES = 100_000
LIVE_KEYS = 1_000
UPDATES = 20_000
_AT_ONCE = 2_000
"""The server drops what it cannot keep up with, so each so many the last one is acknowledged."""

Timed = Callable[[], Awaitable[float]]


def publish(url: str, bucket: str, values: list[tuple[str, bytes]]) -> None:
    """Store values through a connection of its own; that takes next to nothing of this process."""
    server = urlsplit(url)
    with socket.create_connection((server.hostname, server.port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB stored 1\r\n')
        for first in range(0, len(values), _AT_ONCE):
            batch = values[first : first + _AT_ONCE]
            *most, last = [(f"$KV.{bucket}.{key}".encode(), value) for key, value in batch]
            sent = [b"PUB %b %d\r\n%b\r\n" % (subject, len(value), value) for subject, value in most]
            subject, value = last
            connection.sendall(b"".join(sent) + b"PUB %b stored %d\r\n%b\r\n" % (subject, len(value), value))
            while not answers.readline().startswith(b"MSG stored"):
                pass


async def ratio(ours: Timed, peers: Timed) -> tuple[float, float]:
    """Return how often faster ours is, and its seconds."""
    best_ours = best_peers = float("inf")
    for _ in range(REPEATS):
        best_peers = min(best_peers, await peers())
        best_ours = min(best_ours, await ours())
    return best_peers / best_ours, best_ours


class Bench:
    """One model in a bucket of its own: kvorm's repository beside the plain bucket, on a connection each."""

    def __init__(self, url: str, objects: Repository[BaseModel], kv: KeyValue, sample: BaseModel, field: str) -> None:
        self._url = url
        self._objects = objects
        self._kv = kv
        self._model = type(sample)
        self._values = [
            (f"key-{number}", sample.model_copy(update={field: f"key-{number}"}).model_dump_json().encode())
            for number in range(ENTRIES)
        ]

    async def store(self, values: list[tuple[str, bytes]]) -> None:
        await asyncio.to_thread(publish, self._url, self._model.__name__, values)

    async def initial(self) -> float:
        start = time.perf_counter()
        async with self._objects.watch() as watch:
            async for event in watch:
                if isinstance(event, CaughtUp):
                    break
        return time.perf_counter() - start

    async def peer_initial(self) -> float:
        start = time.perf_counter()
        watcher = await self._kv.watchall()
        async for entry in watcher:
            if entry is None:
                break
            self._model.model_validate_json(entry.value or b"")
        seconds = time.perf_counter() - start
        await watcher.stop()
        return seconds

    async def live(self) -> float:
        async with self._objects.watch() as watch:
            while not watch.caught_up:
                await anext(watch)
            start = time.perf_counter()
            storing = asyncio.create_task(self.store(self._updates()))
            told = 0
            async for event in watch:
                told += isinstance(event, Entry)
                if told == UPDATES:
                    break
            seconds = time.perf_counter() - start
            await storing
        return seconds

    async def peer_live(self) -> float:
        watcher = await self._kv.watchall()
        while await anext(watcher) is not None:
            pass
        start = time.perf_counter()
        storing = asyncio.create_task(self.store(self._updates()))
        for _ in range(UPDATES):
            entry = await anext(watcher)
            self._model.model_validate_json(entry.value or b"")
        seconds = time.perf_counter() - start
        await storing
        await watcher.stop()
        return seconds

    def _updates(self) -> list[tuple[str, bytes]]:
        return self._values[:LIVE_KEYS] * (UPDATES // LIVE_KEYS)

    async def figures(self) -> tuple[tuple[float, float], tuple[float, float]]:
        await self.store(self._values[:LIVE_KEYS])
        live = await ratio(self.live, self.peer_live)
        await self.store(self._values)
        return await ratio(self.initial, self.peer_initial), live


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        client = await nats.connect(server.url)
        print(f"{'faster, and entries a second':<32}{'initial state':>24}{'live updates':>24}")
        async with kvorm.connect(server.url) as store:
            for sample, field in ((SMALL, "tenant"), (NESTED, "name")):
                # No update is pushed out before it is delivered.
                mapping = Mapping(bucket=Bucket(type(sample).__name__, history=64), key=(field,))
                objects: Repository[BaseModel] = store.repository(type(sample), mapping=mapping)
                await store.ensure(objects)
                kv = await client.jetstream().key_value(type(sample).__name__)
                (faster, seconds), (faster_live, seconds_live) = await Bench(
                    server.url, objects, kv, sample, field
                ).figures()
                print(
                    f"{type(sample).__name__:<32}{faster:>14.2f}x{ENTRIES / seconds:>8,.0f}"
                    f"{faster_live:>15.2f}x{UPDATES / seconds_live:>8,.0f}"
                )
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
