"""`store.health()`: what it tells of servers and buckets that are well and of those that are not; never an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import nats
import pytest

import kvorm
from kvorm import Bucket, Health, Key, Mapping, MemoryStore, Model, NatsStore, Repository, Store
from kvorm.testing.servers import NatsCluster, NatsServer

SHORT = timedelta(milliseconds=500)


class Note(Model, bucket="health-notes"):
    id: Key[str]
    text: str = ""


def notes_in(store: Store, bucket: Bucket) -> Repository[Note]:
    return store.repository(Note, mapping=Mapping(bucket, key=("id",)))


def new_bucket(**settings: object) -> Bucket:
    return Bucket(f"h-{token_hex(6)}", **settings)  # type: ignore[arg-type]


async def eventually(store: Store, holds: Callable[[Health], bool]) -> Health:
    async with asyncio.timeout(15):
        while not holds(health := await store.health()):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
    return health


@pytest.fixture
async def store(nats_server: NatsServer) -> AsyncIterator[Store]:
    async with kvorm.connect(nats_server.url) as store:
        yield store


async def test_a_server_that_is_well(store: Store, nats_server: NatsServer) -> None:
    health = await store.health()
    assert health.ok
    assert (health.reachable, health.jetstream, health.buckets, health.warnings) == (True, True, {}, ())
    assert health.round_trip is not None
    assert timedelta(0) < health.round_trip < timedelta(seconds=1)
    assert nats_server.name in health.server
    assert health.server.split()[1].startswith("2.")


async def test_each_opened_bucket_is_told_of(store: Store) -> None:
    bucket = new_bucket()
    notes = notes_in(store, bucket)
    assert bucket.name not in (await store.health()).buckets
    await notes.save(Note(id="a", text="x" * 1000))
    health = await store.health()
    one = health.buckets[bucket.name]
    assert (one.exists, one.replicas, one.lag, one.storage, one.warnings) == (True, 1, 0, "file", ())
    assert one.leader
    assert one.size_bytes > 1000
    assert health.ok


async def test_memory_storage_is_a_warning(store: Store) -> None:
    bucket = new_bucket(storage="memory")
    await notes_in(store, bucket).save(Note(id="a"))
    health = await store.health()
    assert health.buckets[bucket.name].storage == "memory"
    (warning,) = health.warnings
    assert bucket.name in warning
    assert "memory storage" in warning
    assert health.ok


async def test_direct_gets_that_are_off_are_a_warning(store: Store, nats_server: NatsServer) -> None:
    bucket = new_bucket()
    client = await nats.connect(nats_server.url)
    await client.jetstream().create_key_value(bucket=bucket.name)
    await client.close()
    assert await notes_in(store, bucket).count() == 0
    (warning,) = (await store.health()).buckets[bucket.name].warnings
    assert "allow_direct" in warning


async def test_a_missing_bucket(store: Store, nats_server: NatsServer) -> None:
    bucket = new_bucket()
    notes = notes_in(store, bucket)
    await notes.save(Note(id="a"))
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_key_value(bucket.name)
    await client.close()
    health = await store.health()
    assert health.reachable
    assert health.jetstream
    assert not health.ok
    assert not health.buckets[bucket.name].exists
    assert any(bucket.name in warning and "does not exist" in warning for warning in health.warnings)
    await store.ensure(notes)
    assert (await store.health()).ok


async def test_a_server_that_is_down(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url, timeout=SHORT) as store:
            await store.repository(Note).save(Note(id="a"))
            for end in (server.pause, server.kill):
                end()
                start = time.monotonic()
                health = await store.health()
                assert time.monotonic() - start < SHORT.total_seconds() + 0.3
                assert (health.reachable, health.ok, health.round_trip, health.jetstream) == (False, False, None, False)
                assert health.warnings
            server.start()
            health = await eventually(store, lambda health: health.ok)
            assert health.buckets["health-notes"].leader


@pytest.mark.parametrize("end", ["store", "connection"])
async def test_a_store_that_is_closed(nats_server: NatsServer, end: str) -> None:
    client = await nats.connect(nats_server.url)
    store = NatsStore(client)
    await (store.close() if end == "store" else client.close())
    health = await store.health()
    assert not health.reachable
    assert "closed" in health.warnings[0]
    await client.close()


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        client = await nats.connect(server.url)
        health = await NatsStore(client, timeout=SHORT).health()
        assert (health.reachable, health.jetstream, health.ok) == (True, False, False)
        assert "JetStream" in health.warnings[0]
        await client.close()


async def test_a_user_who_may_not_ask(tmp_path: Path) -> None:
    granted = kvorm.permissions(Note, manage=True)
    hidden = new_bucket()
    users = f"authorization {{ users: [ {{ user: admin, password: a }}, {{ user: app, password: b, {granted} }} ] }}"
    with NatsServer(tmp_path, config=users) as server:
        async with kvorm.connect(server.url, user="app", password="b") as store:
            await store.repository(Note).save(Note(id="a"))
            with pytest.raises(kvorm.PermissionDeniedError):
                await notes_in(store, hidden).count()
            assert (await store.health()).ok


async def test_memory_is_always_well() -> None:
    async with MemoryStore() as store:
        await store.repository(Note).save(Note(id="a"))
        health = await store.health()
        assert health.ok
        assert list(health.buckets) == ["health-notes"]


async def test_a_node_of_the_cluster_is_down(nats_cluster: NatsCluster) -> None:
    """One of three: work goes on, and a warning names it. Two of three: no leader."""
    client = await nats.connect(nats_cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    bucket = new_bucket(replicas=3)
    store = NatsStore(client, timeout=timedelta(seconds=3))
    notes = notes_in(store, bucket)
    await notes.save(Note(id="a"))
    health = await eventually(store, lambda health: not health.warnings)
    assert health.ok
    assert health.buckets[bucket.name].replicas == 3
    assert health.buckets[bucket.name].leader in {node.name for node in nats_cluster.nodes}
    assert client.connected_url is not None
    others = [node for node in nats_cluster.nodes if not node.url.endswith(f":{client.connected_url.port}")]
    try:
        await asyncio.to_thread(others[0].stop)
        health = await eventually(store, lambda health: health.ok and bool(health.warnings))
        assert any(others[0].name in warning and bucket.name in warning for warning in health.warnings)
        await asyncio.to_thread(others[1].stop)
        health = await eventually(store, lambda health: not health.ok)
        assert health.warnings
    finally:
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in others))
        await asyncio.to_thread(nats_cluster.wait_healthy)
    health = await eventually(store, lambda health: health.ok and not health.warnings)
    assert health.buckets[bucket.name].lag == 0
    await store.close()
    await client.close()
