"""Other NATS clients on the same bucket: nats-py's KeyValue, and natsrpy over the Rust client.

Each reads what kvorm wrote and writes what kvorm reads; deletes and purges mean the same to both.
"""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

import nats
import natsrpy
import pytest
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyDeletedError, KeyNotFoundError, NoKeysError
from nats.js.kv import KeyValue
from natsrpy.js import KVConfig, KVOperation

import kvorm
from kvorm import (
    ANY,
    Bucket,
    BucketMismatchError,
    CaughtUp,
    DecodeError,
    Difference,
    Entry,
    Key,
    KeyExistsError,
    Marker,
    Model,
    Repository,
    RevisionMismatchError,
    Store,
    StoreUnavailableError,
    ValueTooLargeError,
)
from kvorm.testing.servers import NatsServer

HISTORY = 5
RAW_KEY = "ac=2Eme.1"
names = itertools.count()

Change = tuple[str, bytes, int]
"""What happened, the value, the revision."""


class Order(Model, bucket=Bucket("interop", history=HISTORY)):
    tenant: Key[str]
    number: Key[int]
    total: Decimal = Decimal(0)
    note: str = ""


class OtherClient(Protocol):
    """A bucket as a client knows it that knows nothing of kvorm."""

    async def create_bucket(self, bucket: str, history: int) -> None: ...
    async def open(self, bucket: str) -> None: ...
    async def put(self, raw_key: str, value: bytes) -> int: ...
    async def create(self, raw_key: str, value: bytes) -> None: ...
    async def update(self, raw_key: str, value: bytes, revision: int) -> None: ...
    async def delete(self, raw_key: str) -> None: ...
    async def purge(self, raw_key: str) -> None: ...
    async def get(self, raw_key: str) -> bytes | None: ...
    async def history(self, raw_key: str) -> list[Change]: ...
    async def keys(self) -> list[str]: ...


class NatsPy:
    def __init__(self, client: Any) -> None:
        self._js = client.jetstream()
        self._kv: KeyValue

    async def create_bucket(self, bucket: str, history: int) -> None:
        self._kv = await self._js.create_key_value(KeyValueConfig(bucket=bucket, history=history))

    async def open(self, bucket: str) -> None:
        self._kv = await self._js.key_value(bucket)

    async def put(self, raw_key: str, value: bytes) -> int:
        return await self._kv.put(raw_key, value)

    async def create(self, raw_key: str, value: bytes) -> None:
        await self._kv.create(raw_key, value)

    async def update(self, raw_key: str, value: bytes, revision: int) -> None:
        await self._kv.update(raw_key, value, last=revision)

    async def delete(self, raw_key: str) -> None:
        await self._kv.delete(raw_key)

    async def purge(self, raw_key: str) -> None:
        await self._kv.purge(raw_key)

    async def get(self, raw_key: str) -> bytes | None:
        try:
            return (await self._kv.get(raw_key)).value
        except (KeyNotFoundError, KeyDeletedError):
            return None

    async def history(self, raw_key: str) -> list[Change]:
        try:
            entries = await self._kv.history(raw_key)
        except NoKeysError:
            return []
        return [(entry.operation or "PUT", entry.value or b"", entry.revision or 0) for entry in entries]

    async def keys(self) -> list[str]:
        try:
            return sorted(await self._kv.keys())
        except NoKeysError:
            return []


class NatsRust:
    def __init__(self, jetstream: Any) -> None:
        self._js = jetstream
        self._kv: Any = None

    async def create_bucket(self, bucket: str, history: int) -> None:
        self._kv = await self._js.kv.create(KVConfig(bucket=bucket, history=history))

    async def open(self, bucket: str) -> None:
        self._kv = await self._js.kv.get(bucket)

    async def put(self, raw_key: str, value: bytes) -> int:
        revision: int = await self._kv.put(raw_key, value)
        return revision

    async def create(self, raw_key: str, value: bytes) -> None:
        await self._kv.create(raw_key, value)

    async def update(self, raw_key: str, value: bytes, revision: int) -> None:
        await self._kv.update(raw_key, value, revision)

    async def delete(self, raw_key: str) -> None:
        await self._kv.delete(raw_key)

    async def purge(self, raw_key: str) -> None:
        await self._kv.purge(raw_key)

    async def get(self, raw_key: str) -> bytes | None:
        value = await self._kv.get(raw_key)
        return None if value is None else bytes(value)

    async def history(self, raw_key: str) -> list[Change]:
        words = {KVOperation.Put: "PUT", KVOperation.Delete: "DEL", KVOperation.Purge: "PURGE"}
        return [
            (words[entry.operation], bytes(entry.value), entry.revision)
            async for entry in await self._kv.history(raw_key)
        ]

    async def keys(self) -> list[str]:
        return sorted([key async for key in await self._kv.keys()])


@asynccontextmanager
async def nats_py(url: str) -> AsyncIterator[OtherClient]:
    client = await nats.connect(url)
    try:
        yield NatsPy(client)
    finally:
        await client.close()


@asynccontextmanager
async def nats_rust(url: str) -> AsyncIterator[OtherClient]:
    client = natsrpy.Nats(addrs=[url])
    await client.startup()
    try:
        yield NatsRust(await client.jetstream())
    finally:
        await client.shutdown()


@pytest.fixture(params=[nats_py, nats_rust])
async def other(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[OtherClient]:
    async with request.param(nats_server.url) as client:
        yield client


@pytest.fixture
async def store(nats_server: NatsServer) -> AsyncIterator[Store]:
    async with kvorm.connect(nats_server.url, namespace=f"interop-{next(names)}-") as store:
        yield store


@pytest.fixture
async def orders(store: Store, other: OtherClient) -> Repository[Order]:
    """A bucket that kvorm made and the other client has opened."""
    orders = store.repository(Order)
    await store.ensure(orders)
    await other.open(orders.bucket.name)
    return orders


def order(total: str = "9.90") -> Order:
    return Order(tenant="ac.me", number=1, total=Decimal(total))


# What kvorm writes


async def test_values_of_kvorm_are_plain_json(orders: Repository[Order], other: OtherClient) -> None:
    await orders.save(order())
    assert await other.get(RAW_KEY) == b'{"tenant":"ac.me","number":1,"total":"9.90","note":""}'
    assert await other.keys() == [RAW_KEY]


async def test_deletes_and_purges_of_kvorm_are_understood(orders: Repository[Order], other: OtherClient) -> None:
    one = order()
    await orders.save(one)
    await orders.delete(one)
    assert await other.get(RAW_KEY) is None
    assert await other.keys() == []
    assert [(what, revision) for what, _, revision in await other.history(RAW_KEY)] == [("PUT", 1), ("DEL", 2)]
    await orders.save(one)
    assert await other.get(RAW_KEY) is not None
    await orders.purge("ac.me", 1)
    assert await other.get(RAW_KEY) is None
    assert [(what, revision) for what, _, revision in await other.history(RAW_KEY)] == [("PURGE", 4)]


async def test_a_history_of_kvorm_is_a_history(orders: Repository[Order], other: OtherClient) -> None:
    one = order()
    for number in range(HISTORY + 2):
        one.note = str(number)
        await orders.save(one)
    history = await other.history(RAW_KEY)
    assert [revision for _, _, revision in history] == [3, 4, 5, 6, 7]
    assert [entry.value.note for entry in await orders.history("ac.me", 1) if isinstance(entry, Entry)] == list("23456")


async def test_a_key_deleted_by_kvorm_can_be_created(orders: Repository[Order], other: OtherClient) -> None:
    for erase in (orders.delete, orders.purge):
        await orders.save(order(), expect=ANY)
        await erase("ac.me", 1)
        await other.create(RAW_KEY, b'{"tenant": "ac.me", "number": 1}')
        assert await orders.get("ac.me", 1) == order("0")


# What others write


async def test_values_of_others_are_read(orders: Repository[Order], other: OtherClient) -> None:
    revision = await other.put(RAW_KEY, b' {"number": 1, "tenant": "ac.me", "total": 9.90, "colour": "red"}')
    entry = await orders.entry("ac.me", 1)
    assert entry.value == order("9.9")
    assert (entry.revision, entry.raw_key, entry.key) == (revision, RAW_KEY, ("ac.me", 1))
    assert [one async for one in orders.find(tenant="ac.me")] == [order("9.9")]


async def test_a_value_of_others_is_saved_on_top(orders: Repository[Order], other: OtherClient) -> None:
    await other.put(RAW_KEY, b'{"number": 1, "tenant": "ac.me"}')
    read = await orders.get("ac.me", 1)
    read.note = "ours"
    assert await orders.save(read) == 2
    await other.update(RAW_KEY, b'{"number": 1, "tenant": "ac.me", "note": "theirs"}', 2)
    with pytest.raises(RevisionMismatchError) as raised:
        await orders.save(read)
    assert isinstance(raised.value.current, Entry)
    assert (raised.value.current.revision, raised.value.current.value.note) == (3, "theirs")
    with pytest.raises(KeyExistsError):
        await orders.save(order())


async def test_others_notice_what_kvorm_wrote_meanwhile(orders: Repository[Order], other: OtherClient) -> None:
    revision = await other.put(RAW_KEY, b'{"number": 1, "tenant": "ac.me"}')
    await orders.update("ac.me", 1, apply=lambda one: one.model_copy(update={"note": "ours"}))
    with pytest.raises(Exception, match="wrong last sequence"):
        await other.update(RAW_KEY, b"{}", revision)
    assert (await orders.get("ac.me", 1)).note == "ours"


@pytest.mark.parametrize("reason", ["deleted", "purged"])
async def test_deletes_and_purges_of_others_are_understood(
    orders: Repository[Order], other: OtherClient, reason: str
) -> None:
    one = order()
    await orders.save(one)
    await (other.delete(RAW_KEY) if reason == "deleted" else other.purge(RAW_KEY))
    with pytest.raises(kvorm.KeyNotFoundError) as raised:
        await orders.get("ac.me", 1)
    assert raised.value.marker is not None
    assert (raised.value.marker.reason, raised.value.marker.revision) == (reason, 2)
    assert await orders.count() == 0
    history = await orders.history("ac.me", 1)
    assert [type(change) for change in history] == ([Entry, Marker] if reason == "deleted" else [Marker])
    with pytest.raises(RevisionMismatchError):
        await orders.save(one)
    assert await orders.save(order()) == 3


async def test_what_others_write_that_is_none_of_ours(orders: Repository[Order], other: OtherClient) -> None:
    for raw_key in ("acme", "acme.1.2", "acme.01", "ac=2eme.1", "_kvorm.1"):
        await other.put(raw_key, b"{}")
    assert await orders.count() == 0
    revision = await other.put(RAW_KEY, b"not json")
    with pytest.raises(DecodeError) as raised:
        await orders.get("ac.me", 1)
    assert (raised.value.key, raised.value.revision, raised.value.data) == (RAW_KEY, revision, b"not json")
    await other.put(RAW_KEY, b"")
    with pytest.raises(DecodeError):
        await orders.get("ac.me", 1)


async def test_changes_of_others_are_seen_by_a_watch(orders: Repository[Order], other: OtherClient) -> None:
    async with orders.watch() as events, asyncio.timeout(10):
        assert isinstance(await anext(events), CaughtUp)
        await other.put(RAW_KEY, b'{"number": 1, "tenant": "ac.me"}')
        await other.put("_kvorm.1", b"{}")
        seen = [await anext(events)]
        await other.delete(RAW_KEY)
        seen.append(await anext(events))
        # It erases what is before it, also what has not been told yet.
        await other.purge(RAW_KEY)
        seen.append(await anext(events))
    assert [getattr(event, "reason", "stored") for event in seen] == ["stored", "deleted", "purged"]


# Buckets


async def test_a_bucket_made_by_others_is_used(store: Store, other: OtherClient) -> None:
    orders = store.repository(Order)
    await other.create_bucket(orders.bucket.name, HISTORY)
    one = order()
    await orders.save(one)
    one.note = "again"
    await orders.save(one)
    assert await orders.get("ac.me", 1) == one
    assert [change.revision for change in await orders.history("ac.me", 1)] == [1, 2]
    assert await orders.get_many([("ac.me", 1), ("ac.me", 2)]) == [one, None]
    assert await orders.count(number=1) == 1
    await orders.purge(one)
    assert await other.get(RAW_KEY) is None


async def test_a_bucket_made_by_others_that_is_not_what_is_declared(store: Store, other: OtherClient) -> None:
    orders = store.repository(Order)
    await other.create_bucket(orders.bucket.name, HISTORY + 1)
    with pytest.raises(BucketMismatchError, match="history is 6, declared 5") as raised:
        await orders.count()
    assert raised.value.differences == {"history": Difference(HISTORY, HISTORY + 1)}
    await store.ensure(orders, on_difference="update")
    assert await orders.save(order()) == 1
    assert await other.get(RAW_KEY) is not None


class Session(Model, bucket=Bucket("sessions", ttl=timedelta(hours=1), max_value_bytes=1000, max_bytes=10**6)):
    id: Key[str]


async def test_a_bucket_of_kvorm_with_limits_is_used_by_others(store: Store, other: OtherClient) -> None:
    sessions = store.repository(Session)
    await store.ensure(sessions)
    await other.open(sessions.bucket.name)
    await other.put("a", b'{"id": "a"}')
    assert await sessions.get("a") == Session(id="a")
    await sessions.save(Session(id="b"))
    assert await other.keys() == ["a", "b"]


class Bare(Model, bucket="bare"):
    id: Key[str]


async def make_stream(store: Store, bucket: str, **settings: Any) -> None:
    assert isinstance(store, kvorm.NatsStore)
    # Not by the configuration of nats-py: its older versions do not know all settings.
    config = {"name": f"KV_{bucket}", "subjects": [f"$KV.{bucket}.>"], "max_msgs_per_subject": 1, "allow_direct": True}
    body = json.dumps({**config, **settings}).encode()
    answer = await store.client.request(f"$JS.API.STREAM.CREATE.KV_{bucket}", body)
    assert "error" not in json.loads(answer.data), answer.data


async def test_a_bucket_of_others_that_has_no_room_for_headers(store: Store) -> None:
    bares = store.repository(Bare)
    await make_stream(store, bares.bucket.name, max_msg_size=30)
    with pytest.raises(ValueTooLargeError, match="at most 0 can be stored, because the headers") as raised:
        await bares.save(Bare(id="a"))
    assert raised.value.limit == 0
    # It sends none.
    await bares.load([Bare(id="a")])
    assert await bares.count() == 1


@pytest.mark.parametrize("batched", [True, False])
async def test_a_stream_that_does_not_take_the_key_is_named(store: Store, batched: bool) -> None:
    bares = store.repository(Bare, timeout=timedelta(seconds=1))
    name = bares.bucket.name
    await make_stream(store, name, subjects=[f"$KV.{name}.a.>"], **({"allow_batched": True} if batched else {}))
    told = f"JetStream could not do it for 1 s, nothing was stored: nobody listens on $KV.{name}.a"
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: bares.load([Bare(id="a")]),
        lambda: bares.save(Bare(id="a"), expect=ANY),
    ]
    for attempt in attempts:
        with pytest.raises(StoreUnavailableError, match=f"^{re.escape(told)}(\n|$)"):
            await attempt()
