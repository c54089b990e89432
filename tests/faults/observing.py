"""Watches of several kinds and a view beside writers while faults happen; then all is compared with what is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import nats
import nats.errors
from nats.js.kv import KeyValue

import kvorm
from kvorm import Bucket, CaughtUp, Key, Model, Store, View, revision_of
from kvorm.backends.base import BucketHandle, Deadline, RawEntry, RawMarker, Replay
from tests.faults.watching import (
    Raw,
    Told,
    Verdict,
    Writers,
    fields,
    follow,
    ignore,
    judge,
    raw,
    until,
    value,
)

Strike = Callable[[Raw], Awaitable[None]]

PROBE = 10**15
"""The numbers of the keys that are written when a fault is over; writers choose smaller ones."""

QUIET_SECONDS = 0.5
"""Between a fault that is over and the next one, beside the time until all is well."""

PEER_SECONDS = 15
"""How long nats-py may take in the end to come to what was written last."""


class Item(Model, bucket="watched"):
    tenant: Key[str]
    number: Key[int]
    text: str = ""


@dataclass(frozen=True)
class Scene:
    """Where faults happen: what writers connect to, what watches connect to, and what may happen there."""

    urls: str | list[str]
    watched_urls: str | list[str]
    bucket: Bucket
    strikes: Mapping[str, Strike]


@dataclass(repr=False)
class Report:
    """How watches and a view fared."""

    told: dict[str, Told] = field(default_factory=dict[str, Told])
    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    recoveries: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Seconds from a new connection that can write to the first event, by fault."""
    compared: int = 0
    differing: int = 0
    """Keys of the view that were not as the bucket's, in all comparisons."""
    peer: Verdict | None = None
    peer_seconds: list[float] = field(default_factory=list[float])
    """How long nats-py took each time; at least so long, where it never told."""

    @property
    def events(self) -> int:
        """How many changes all watches told."""
        return sum(len(told.changes) for told in self.told.values())

    def __repr__(self) -> str:
        times = {name: [round(one, 2) for one in sorted(each)] for name, each in self.recoveries.items()}
        return f"{self.events} events, {times}, {self.verdicts}, {self.differing} differing of {self.compared} views"


KINDS: Mapping[str, tuple[str, Replay]] = {
    "all": (">", Replay.CURRENT),
    "tenant": ("acme.>", Replay.CURRENT),
    "history": (">", Replay.HISTORY),
    "new": (">", Replay.NOTHING),
}


class Watched:
    """A watch of each kind, and one that goes on after a revision; with what they told."""

    def __init__(self, handle: BucketHandle, since: int) -> None:
        self.starts: dict[str, tuple[str, Replay | int]] = {**KINDS, "since": (">", since)}
        self.told = {name: Told() for name in self.starts}
        self._watches = {name: handle.watch([filter_], start=start) for name, (filter_, start) in self.starts.items()}

    async def __aenter__(self) -> Watched:
        self._readers = [asyncio.create_task(follow(self._watches[name], self.told[name])) for name in self.starts]
        await self.until(lambda told: bool(told.caught_up))
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in self._watches.values():
            await watch.aclose()
        await asyncio.gather(*self._readers)

    async def until(self, holds: Callable[[Told], bool]) -> None:
        """Wait until something holds for each, or raise what ended one of them."""
        await until(lambda: self._ended() or all(holds(told) for told in self.told.values()))
        for reader in self._readers:
            if reader.done():
                reader.result()

    def _ended(self) -> bool:
        return any(reader.done() for reader in self._readers)

    async def seconds(self, key: str, since: float) -> list[float]:
        """Return how long it took each to tell of a new key."""
        await self.until(lambda told: key in told.first)
        return [max(0.0, told.first[key] - since) for told in self.told.values()]

    async def judged(self, client: Raw, bucket: Bucket) -> dict[str, Verdict]:
        """Compare what each told with what is stored, where nobody writes."""
        last = await client.last(bucket.name)
        await self.until(lambda told: told.position >= last)
        filters = {filter_ for filter_, _ in self.starts.values()}
        stored = {filter_: await client.stored(bucket.name, filter_) for filter_ in filters}
        return {
            name: judge(self.told[name], self._due(name, stored[filter_])) for name, (filter_, _) in self.starts.items()
        }

    def _due(self, name: str, stored: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return what a watch had to tell."""
        told, (_, start) = self.told[name], self.starts[name]
        first = 0
        if not told.resets:
            first = told.start if start is Replay.NOTHING else start if isinstance(start, int) else 0
        return [(key, revision) for key, revision in stored if revision > first]


async def observe(scene: Scene, faults: Sequence[str], *, with_peer: bool = False) -> Report:
    """Let the faults happen, one after the other; `with_peer` lets a watch of nats-py run beside."""
    report, bucket = Report(), scene.bucket
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(raw(scene.urls))
        writers = await stack.enter_async_context(Writers(scene.urls, bucket))
        peer = await stack.enter_async_context(nats_py(scene)) if with_peer else None
        store = await stack.enter_async_context(kvorm.connect(scene.watched_urls))
        handle = await store.handle(bucket, Deadline(timedelta(seconds=10)))
        watched = await stack.enter_async_context(Watched(handle, await client.last(bucket.name)))
        view = await stack.enter_async_context(view_of(store, bucket))
        reachable: dict[str, float] = {}
        for number, fault in enumerate(faults):
            await scene.strikes[fault](client)
            key = f"acme.{PROBE + number}"
            reachable[key] = await write_again(scene, key)
            report.recoveries.setdefault(fault, []).extend(await watched.seconds(key, reachable[key]))
            await asyncio.sleep(QUIET_SECONDS)
            async with writers.paused():
                # The number of a revision may be one of an earlier life of the bucket; this key may not.
                await until(lambda key=key: fields(key) in view)
                report.differing += await differing(view, client, bucket)
                report.compared += 1
        async with writers.paused():
            report.told, report.verdicts = watched.told, await watched.judged(client, bucket)
            if peer is not None:
                report.peer = await judged(peer, client, bucket)
                report.peer_seconds = [
                    max(0.0, peer.first.get(key, time.monotonic()) - since) for key, since in reachable.items()
                ]
    async with raw(scene.urls) as client:
        # What could not be taken off in an outage, the server takes off by itself. On a cluster whose node was killed
        # it looks at some of them every 30 s only.
        await client.until_no_consumers(bucket.name, 90)
    return report


def view_of(store: Store, bucket: Bucket) -> View[Item]:
    """Return a view of all items."""
    return store.repository(Item, mapping=kvorm.Mapping(bucket, key=("tenant", "number"))).view()


async def differing(view: View[Item], client: Raw, bucket: Bucket) -> int:
    """Return how many keys of a view are not as they are in the bucket, where nobody writes."""
    await view.wait_for(await client.last(bucket.name))
    shown = {f"{tenant}.{number}": (revision_of(item), item) for (tenant, number), item in view.items()}
    stored = {
        key: (revision, Item.model_validate_json(data))
        for key, (revision, data) in (await client.live(bucket.name)).items()
    }
    return sum(shown.get(key) != stored.get(key) for key in shown.keys() | stored.keys())


async def write_again(scene: Scene, key: str) -> float:
    """Write a key through a new connection as soon as that works; return when it was stored."""
    subject = f"$KV.{scene.bucket.name}.{key}"
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError, nats.errors.Error):
                client = await nats.connect(
                    scene.watched_urls, allow_reconnect=False, connect_timeout=1, error_cb=ignore
                )
                try:
                    await client.request(subject, value(key), timeout=1)
                    return time.monotonic()
                finally:
                    await client.close()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def nats_py(scene: Scene) -> AsyncIterator[Told]:
    """Follow the bucket with nats-py's own `KeyValue.watch`, over a connection set up as kvorm's own."""
    client = await nats.connect(
        scene.watched_urls,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        ping_interval=1,
        max_outstanding_pings=2,
        error_cb=ignore,
    )
    bucket = await client.jetstream().key_value(scene.bucket.name)
    watcher = await bucket.watchall()
    told = Told()

    async def read() -> None:
        async for entry in watcher:
            told.take(CaughtUp(told.position) if entry is None else as_change(entry))

    reader = asyncio.create_task(read())
    try:
        yield told
    finally:
        reader.cancel()
        await asyncio.wait({reader})
        with suppress(nats.errors.Error):
            await watcher.stop()
        await client.close()


async def judged(peer: Told, client: Raw, bucket: Bucket) -> Verdict:
    """Compare what nats-py told with what is stored, where nobody writes; it may take its time."""
    last = await client.last(bucket.name)
    with suppress(TimeoutError):
        await until(lambda: peer.position >= last, PEER_SECONDS)
    return judge(peer, await client.stored(bucket.name))


def as_change(entry: KeyValue.Entry) -> RawEntry | RawMarker:
    """Return an entry of nats-py as a change."""
    revision = entry.revision or 0
    if entry.operation is None:
        return RawEntry(entry.key, entry.value or b"", revision, entry.created, {})
    return RawMarker(entry.key, "purged" if entry.operation == "PURGE" else "deleted", revision, entry.created)
