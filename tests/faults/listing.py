"""Lists under fire: find, keys and count while others create, rewrite, delete, purge and expire; each answer judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import count
from typing import TypeVar

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NoKeysError, NoStreamResponseError, ServiceUnavailableError

import kvorm
from kvorm import Bucket, Mapping, Model, Repository
from tests.faults.lives import Key, Life, Lives, Wrong, judge, judge_count, old

T = TypeVar("T")

WRITERS = "abcd"
"""Each writes a tenant of its own and its part of the standing keys, one write after the other."""

FLICKERING = 60
"""Keys of each writer that come and go."""

STANDING, WAVE = "s", "0"
"""The tenants of what is live all the time, and of what comes and goes in one: it is sorted before all others."""

SLACK_SECONDS = 3.0
"""How long the server may take to notice that an entry has expired."""

_WRITE_SECONDS = 60.0
"""How long a write may take beside lists of many keys."""

_CALL_SECONDS = timedelta(seconds=60)
"""How long a list may wait for its next portion where several are made of many keys, beside their writers."""
_LOADED_AT_ONCE = 500


class Thing(Model):
    tenant: kvorm.Key[str]
    number: kvorm.Key[int]
    version: int = 0


@dataclass(frozen=True)
class Load:
    """How lists are put under fire."""

    history: int = 1
    replicas: int | None = None
    standing: int = 200
    calls: int = 500
    """Of each operation."""
    listers: int = 1
    """How many make them, side by side."""
    wave: int = 0
    """So many keys are made and then erased from the stream at one stroke, again and again."""

    @property
    def bucket(self) -> Bucket:
        return Bucket("fire", history=self.history, replicas=self.replicas, marker_ttl=timedelta(seconds=1))


@dataclass
class Report:
    """What the lists told, and what was written beside them."""

    calls: Counter[str] = field(default_factory=Counter)
    wrong_calls: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    live: int = 0
    unlike: int = 0
    """Keys that a list, the writers or the stream read raw had otherwise in the end, when nobody wrote."""

    def take(self, operation: str, wrong: Wrong) -> None:
        self.calls[operation] += 1
        self.wrong.update(asdict(wrong))
        self.wrong_calls[operation] += wrong != Wrong()


class Writer:
    """Writes one tenant and its share of the standing keys through a plain client."""

    def __init__(self, jetstream: JetStreamContext, bucket: str, lives: Lives, report: Report, tenant: str) -> None:
        self._jetstream = jetstream
        self._bucket = bucket
        self._lives = lives
        self._report = report
        self._tenant = tenant
        self._choice = random.Random(tenant)
        self._standing = sorted(lives.standing)[WRITERS.find(tenant) :: len(WRITERS)]
        self._versions: Counter[Key] = Counter()
        self._lasting: dict[Key, Life] = {}
        self._fresh = count(FLICKERING)
        self.over = False

    async def run(self) -> None:
        """Write until it is over; no write is broken off, so that its outcome is known."""
        ways = {self._rewrite: 4, self._flicker: 5, self._expire: 1}
        while not self.over:
            (way,) = self._choice.choices(list(ways), list(ways.values()))
            await way()

    async def waves(self, size: int) -> None:
        """Make many keys and erase all of them at one stroke, which moves what is sorted behind them."""
        while not self.over:
            keys = [(self._tenant, number) for number in range(size)]
            lives = await asyncio.gather(*(self._create(key) for key in keys))
            await asyncio.sleep(self._choice.random() / 2)
            for life in lives:
                life.ending = time.monotonic()
            await self._erase(f"$KV.{self._bucket}.{self._tenant}.>")
            for life in lives:
                life.over = time.monotonic()
            self._report.writes["erased"] += size

    async def _rewrite(self) -> None:
        await self._put(self._choice.choice(self._standing))
        self._report.writes["rewritten"] += 1

    async def _flicker(self) -> None:
        key = self._tenant, self._choice.randrange(FLICKERING)
        life = self._lasting.get(key)
        if life is None:
            self._lasting[key] = await self._create(key)
            return
        kind = self._choice.choice(["rewritten", "deleted", "purged", "erased"])
        if kind == "rewritten":
            await self._put(key)
        else:
            del self._lasting[key]
            life.ending = time.monotonic()
            await self._end(key, kind)
            life.over = time.monotonic()
        self._report.writes[kind] += 1

    async def _end(self, key: Key, kind: str) -> None:
        subject = self._subject(key)
        match kind:
            case "deleted":
                await self._publish(subject, b"", {"KV-Operation": "DEL"})
            case "purged":
                await self._publish(subject, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})
            case _:
                await self._erase(subject)

    async def _expire(self) -> None:
        """Make a key that expires, and is written once alone: an older value would come back."""
        seconds = self._choice.choice([1, 2])
        life = await self._create((self._tenant, next(self._fresh)), {"Nats-TTL": f"{seconds}s"}, seconds)
        life.over = life.stored + seconds + SLACK_SECONDS
        self._report.writes["expiring"] += 1

    async def _create(self, key: Key, headers: dict[str, str] | None = None, lifetime: float | None = None) -> Life:
        now = time.monotonic()
        life = self._lives.begin(key, now)
        if lifetime is not None:
            life.ending = now + lifetime
        await self._put(key, headers)
        life.stored = time.monotonic()
        self._report.writes["created"] += 1
        return life

    async def _put(self, key: Key, headers: dict[str, str] | None = None) -> None:
        self._versions[key] += 1
        version = self._versions[key]
        body = {"tenant": key[0], "number": key[1], "version": version}
        await self._publish(self._subject(key), json.dumps(body).encode(), headers)
        self._lives.versions[key] = version

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None) -> None:
        await _when_there_is_a_leader(lambda: self._jetstream.publish(subject, data, headers=headers))

    async def _erase(self, subject: str) -> None:
        await _when_there_is_a_leader(lambda: self._jetstream.purge_stream(f"KV_{self._bucket}", subject=subject))

    def _subject(self, key: Key) -> str:
        return f"$KV.{self._bucket}.{key[0]}.{key[1]}"


async def _when_there_is_a_leader(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask for what an overloaded cluster may be without a leader for: what nobody listened to was not done."""
    async with asyncio.timeout(_WRITE_SECONDS):
        while True:
            try:
                return await ask()
            except (NoStreamResponseError, ServiceUnavailableError):
                await asyncio.sleep(0.05)


class Lister:
    """Lists and judges: each third time one tenant."""

    def __init__(self, lives: Lives, report: Report) -> None:
        self._lives = lives
        self._report = report

    async def find(self, things: Repository[Thing], tenant: str | None) -> None:
        acknowledged = dict(self._lives.versions)
        began = time.monotonic()
        found = [thing async for thing in things.find(**_filter(tenant))]
        ended = time.monotonic()
        keys = [(thing.tenant, thing.number) for thing in found]
        wrong = judge(self._lives, keys, began, ended, tenant)
        versions = {(thing.tenant, thing.number): thing.version for thing in found}
        behind = old(versions, acknowledged)
        self._report.take("find", Wrong(wrong.missing, wrong.never, wrong.twice, behind))

    async def keys(self, things: Repository[Thing], tenant: str | None) -> None:
        began = time.monotonic()
        told = await _keys_of(things, tenant)
        self._report.take("keys", judge(self._lives, told, began, time.monotonic(), tenant))

    async def count(self, things: Repository[Thing], tenant: str | None) -> None:
        began = time.monotonic()
        number = await things.count(**_filter(tenant))
        self._report.take("count", judge_count(self._lives, number, began, time.monotonic(), tenant))

    async def peer_keys(self, keys: Callable[[], Awaitable[list[str]]]) -> None:
        """List the keys with nats-py."""
        began = time.monotonic()
        told: list[str] = []
        with suppress(NoKeysError):
            told = await keys()
        keys_told = [_key(raw_key) for raw_key in told]
        self._report.take("keys of nats-py", judge(self._lives, keys_told, began, time.monotonic()))


async def under_fire(writing_urls: list[str], listing_urls: list[str], load: Load) -> Report:
    """List with kvorm while others write."""
    report, lives = Report(), Lives()
    async with _things(listing_urls, load) as things, _fire(writing_urls, load, lives, report) as fire:
        lister = Lister(lives, report)
        begun = dict.fromkeys(range(load.listers), time.monotonic())

        async def call(first: int) -> None:
            for number in range(first, load.calls, load.listers):
                tenant = [None, None, WRITERS[number % len(WRITERS)]][number % 3]
                for operation in (lister.find, lister.keys, lister.count):
                    begun[first] = time.monotonic()
                    lives.forget(min(begun.values()))
                    await operation(things, tenant)
                    fire.check()

        async with asyncio.TaskGroup() as listers:
            for first in begun:
                listers.create_task(call(first))
        await fire.stop()
        await asyncio.sleep(2 + SLACK_SECONDS)
        now = time.monotonic()
        must, may = lives.due(now, now)
        stored = await fire.live()
        found = {(thing.tenant, thing.number) async for thing in things.find()}
        listed = set(await _keys_of(things, None))
        report.live = len(stored)
        report.unlike = sum(len(each ^ stored) for each in (must, may, found, listed))
        report.unlike += abs(await things.count() - len(stored))
    return report


async def peer_under_fire(urls: list[str], load: Load, *, until_wrong: bool = False) -> Report:
    """List the keys with nats-py in place of kvorm, and stop at the first wrong answer if only that is wanted."""
    report, lives = Report(), Lives()
    async with _things(urls, load), _fire(urls, load, lives, report) as fire:
        client = await nats.connect(urls)
        kv = await client.jetstream().key_value(load.bucket.name)
        lister = Lister(lives, report)
        for _ in range(load.calls):
            await lister.peer_keys(kv.keys)
            fire.check()
            if until_wrong and report.wrong_calls.total():
                break
        await client.close()
    return report


class Fire:
    """Writers at work."""

    def __init__(self, jetstream: JetStreamContext, load: Load, lives: Lives, report: Report) -> None:
        self._jetstream = jetstream
        self._bucket = load.bucket.name
        self._writers = {name: Writer(jetstream, self._bucket, lives, report, name) for name in [*WRITERS, WAVE]}
        self._tasks = [asyncio.create_task(self._writers[name].run()) for name in WRITERS]
        if load.wave:
            self._tasks.append(asyncio.create_task(self._writers[WAVE].waves(load.wave)))

    def check(self) -> None:
        """Raise what ended a writer."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        for writer in self._writers.values():
            writer.over = True
        await asyncio.gather(*self._tasks)

    async def live(self) -> set[Key]:
        """Return what the stream read raw has; nobody writes."""
        return await _when_there_is_a_leader(self._live)

    async def _live(self) -> set[Key]:
        config = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, ack_policy=AckPolicy.NONE)
        subscription = await self._jetstream.pull_subscribe(
            f"$KV.{self._bucket}.>", stream=f"KV_{self._bucket}", config=config
        )
        live: set[Key] = set()
        pending = 1
        while pending:
            for message in await subscription.fetch(1_000, timeout=5):
                pending = message.metadata.num_pending
                if not {"KV-Operation", "Nats-Marker-Reason"} & (message.headers or {}).keys():
                    live.add(_key(message.subject.split(".", 2)[2]))
        await subscription.unsubscribe()
        return live


@asynccontextmanager
async def _fire(urls: list[str], load: Load, lives: Lives, report: Report) -> AsyncIterator[Fire]:
    client = await nats.connect(urls)
    fire = Fire(client.jetstream(timeout=_WRITE_SECONDS), load, _standing(lives, load), report)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        stack.push_async_callback(fire.stop)
        await asyncio.sleep(0.2)
        yield fire


def _standing(lives: Lives, load: Load) -> Lives:
    lives.standing = {(STANDING, number) for number in range(load.standing)}
    return lives


@asynccontextmanager
async def _things(urls: list[str], load: Load) -> AsyncIterator[Repository[Thing]]:
    async with kvorm.connect(urls, timeout=_CALL_SECONDS) as store:
        things = store.repository(Thing, mapping=Mapping(load.bucket, key=("tenant", "number")))
        await store.ensure(things)
        await things.load(Thing(tenant=STANDING, number=number) for number in range(load.standing))
        yield things


async def _keys_of(things: Repository[Thing], tenant: str | None) -> list[Key]:
    listed = things.keys(**_filter(tenant))
    return [(str(key[0]), int(str(key[1]))) async for key in listed]


def _filter(tenant: str | None) -> dict[str, object]:
    return {} if tenant is None else {"tenant": tenant}


def _key(raw_key: str) -> Key:
    tenant, number = raw_key.split(".")
    return tenant, int(number)
