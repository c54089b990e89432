"""Watches beside writers: what was told, when, and how it compares with what is stored."""

from __future__ import annotations

import asyncio
import json
import random
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client

import kvorm
from kvorm import ANY, Bucket, CaughtUp, KvormError, Reset, Store
from kvorm.backends.base import (
    BucketHandle,
    Deadline,
    MarkReason,
    Position,
    RawEntry,
    RawMarker,
    RawWatch,
    RefusedError,
    Resumed,
)

BUCKET = Bucket("watched", history=3)
KEYS = tuple(f"{tenant}.{number}" for tenant in ("acme", "b") for number in range(20))
WRITERS = 3


@dataclass
class Told:
    """What one watch told since its last Reset."""

    changes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Keys and revisions."""
    first: dict[str, float] = field(default_factory=dict[str, float])
    """When each key was told first."""
    caught_up: int = 0
    start: int = 0
    """The revision at which it had caught up."""
    position: int = 0
    resets: int = 0
    resumed: int = 0

    def take(self, event: object) -> None:
        match event:
            case RawEntry() | RawMarker():
                self.changes.append((event.raw_key, event.revision))
                self.first.setdefault(event.raw_key, time.monotonic())
                self.position = event.revision
            case CaughtUp():
                self.caught_up += 1
                self.start = event.revision
                self.position = max(self.position, event.revision)
            case Position():
                self.position = max(self.position, event.revision)
            case Resumed():
                self.resumed += 1
            case Reset():
                self.changes.clear()
                self.first.clear()
                self.caught_up = self.start = self.position = 0
                self.resets += 1
            case _:
                raise AssertionError(event)

    @property
    def revisions(self) -> list[int]:
        return [revision for _, revision in self.changes]


@dataclass(frozen=True)
class Verdict:
    """What is wrong with what a watch told."""

    missed: int
    twice: int
    out_of_order: int


NOTHING_WRONG = Verdict(0, 0, 0)


def judge(told: Told, stored: Sequence[tuple[str, int]]) -> Verdict:
    """Compare with the keys and revisions that are stored: the last of each, and all kept since the start."""
    seen = set(told.changes)
    due = set(dict(stored).items()) | {change for change in stored if change[1] > told.start}
    return Verdict(
        missed=len(due - seen),
        twice=len(told.changes) - len(seen),
        out_of_order=sum(before > after for before, after in pairwise(told.revisions)),
    )


class Raw:
    """A plain client that asks JetStream."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        payload = json.dumps(body).encode() if body is not None else b""
        for attempt in range(10):
            with suppress(nats.errors.Error):
                answer = await self.client.request(f"$JS.API.{verb}", payload, timeout=1 + attempt)
                told: dict[str, Any] = json.loads(answer.data)
                return told
            await asyncio.sleep(0.2)
        raise AssertionError(f"no answer to {verb}")

    async def messages(self, bucket: str, filter_: str = ">") -> AsyncIterator[dict[str, Any]]:
        """Yield all messages, oldest first."""
        after = 0
        while True:
            body = {"seq": after + 1, "next_by_subj": f"$KV.{bucket}.{filter_}"}
            answer = await self.call(f"STREAM.MSG.GET.KV_{bucket}", body)
            if "error" in answer:
                return
            yield answer["message"]
            after = answer["message"]["seq"]

    async def stored(self, bucket: str, filter_: str = ">") -> list[tuple[str, int]]:
        """Return the keys and revisions of all messages, oldest first."""
        return [(_key(message), message["seq"]) async for message in self.messages(bucket, filter_)]

    async def live(self, bucket: str) -> dict[str, tuple[int, bytes]]:
        """Return the revision and the value of each key that has one."""
        last = {_key(message): message async for message in self.messages(bucket)}
        return {
            key: (message["seq"], b64decode(message["data"]))
            for key, message in last.items()
            if b"KV-Operation" not in b64decode(message.get("hdrs", ""))
        }

    async def last(self, bucket: str) -> int:
        info = await self.call(f"STREAM.INFO.KV_{bucket}")
        last: int = info["state"]["last_seq"]
        return last

    async def consumers(self, bucket: str) -> list[str]:
        answer = await self.call(f"CONSUMER.NAMES.KV_{bucket}")
        return list(answer["consumers"] or [])

    async def until_no_consumers(self, bucket: str, seconds: float) -> None:
        """Wait until kvorm has none there; those of nats-py stay for five minutes where it lost its connection."""
        async with asyncio.timeout(seconds):
            while any(name.startswith("kvorm-") for name in await self.consumers(bucket)):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)

    async def delete_consumers(self, bucket: str) -> None:
        for name in await self.consumers(bucket):
            await self.call(f"CONSUMER.DELETE.KV_{bucket}.{name}")

    async def make_anew(self, bucket: str) -> None:
        config = (await self.call(f"STREAM.INFO.KV_{bucket}"))["config"]
        assert "error" not in await self.call(f"STREAM.DELETE.KV_{bucket}")
        assert "error" not in await self.call(f"STREAM.CREATE.KV_{bucket}", config)


def _key(message: dict[str, Any]) -> str:
    subject: str = message["subject"]
    return subject.split(".", 2)[2]


async def ignore(error: Exception) -> None:
    """Lost connections are what this is about."""


@asynccontextmanager
async def raw(urls: str | list[str]) -> AsyncIterator[Raw]:
    client = await nats.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=ignore)
    try:
        yield Raw(client)
    finally:
        await client.close()


@asynccontextmanager
async def opened(
    urls: str | list[str], bucket: Bucket, *, create: bool = True, **options: Any
) -> AsyncIterator[tuple[Store, BucketHandle]]:
    """Yield a store and its handle on a bucket."""
    async with kvorm.connect(urls, create_buckets=create, **options) as store:
        yield store, await store.handle(bucket, Deadline(timedelta(seconds=10)))


async def put(handle: BucketHandle, key: str, data: bytes = b"{}", *, seconds: float = 10) -> int:
    deadline = Deadline(timedelta(seconds=seconds))
    return await handle.put(key, data, expect=ANY, headers={}, operation_id="", deadline=deadline)


class Writers:
    """Clients that write, delete and purge without pause; what was acknowledged, and when."""

    def __init__(
        self,
        urls: str | list[str],
        bucket: Bucket,
        keys: Sequence[str] = KEYS,
        *,
        pause: float = 0.004,
        marks: float = 0.1,
        reasons: Sequence[MarkReason] = ("deleted", "purged"),
        once: float = 0.03,
    ) -> None:
        """Describe them; `marks` and `once` are the shares of markers, and of keys that are written once."""
        self.acknowledged: dict[str, tuple[float, int]] = {}
        """The latest revision of each key, and when that was told."""
        self._urls = urls
        self._bucket = bucket
        self._keys = keys
        self._pause = pause
        self._marks = marks
        self._reasons = reasons
        self._once = once
        self._resources = AsyncExitStack()
        self._turns = [asyncio.Lock() for _ in range(WRITERS)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Writers:
        for seed, turn in enumerate(self._turns):
            store = await self._resources.enter_async_context(kvorm.connect(self._urls))
            await store.handle(self._bucket, Deadline(timedelta(seconds=10)))
            self._tasks.append(asyncio.create_task(self._write(store, turn, random.Random(seed))))
        await until(lambda: len(self.acknowledged) >= len(self._keys) / 2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resources.aclose()
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let nobody write meanwhile."""
        async with AsyncExitStack() as stack:
            for turn in self._turns:
                await stack.enter_async_context(turn)
            yield

    async def _write(self, store: Store, turn: asyncio.Lock, choice: random.Random) -> None:
        while True:
            try:
                async with turn:
                    key, revision = await self._write_one(store, choice)
                self.acknowledged[key] = max(self.acknowledged.get(key, (0.0, 0)), (time.monotonic(), revision))
            except (KvormError, RefusedError):
                await asyncio.sleep(0.01)
            await asyncio.sleep(choice.uniform(0, self._pause))

    async def _write_one(self, store: Store, choice: random.Random) -> tuple[str, int]:
        # What is not written again is missing in the end if it was missed once.
        key = f"acme.{choice.getrandbits(48)}" if choice.random() < self._once else choice.choice(self._keys)
        deadline = Deadline(timedelta(seconds=1))
        handle = await store.handle(self._bucket, deadline)
        if choice.random() < self._marks and isinstance(entry := await handle.get(key, deadline=deadline), RawEntry):
            return key, await handle.mark(
                key,
                choice.choice(self._reasons),
                expect=entry.revision,
                operation_id=f"{random.random()}",
                deadline=deadline,
            )
        return key, await put(handle, key, value(key, choice.getrandbits(32)), seconds=1)


def fields(raw_key: str) -> tuple[str, int]:
    """Return what a key of the watched bucket is made of."""
    tenant, number = raw_key.split(".")
    return tenant, int(number)


def value(raw_key: str, text: object = "") -> bytes:
    """Return what lies under a key of the watched bucket."""
    tenant, number = fields(raw_key)
    return json.dumps({"tenant": tenant, "number": number, "text": str(text)}).encode()


async def follow(watch: RawWatch, told: Told) -> None:
    """Take note of all that a watch tells."""
    async for event in watch:
        told.take(event)


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
