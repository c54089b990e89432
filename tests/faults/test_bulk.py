"""Many writes of one call while the server is killed, or its answers are lost: what is told is what is stored."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import kvorm
from kvorm import (
    BulkError,
    Key,
    Mapping,
    Model,
    Repository,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.backends.base import Deadline
from kvorm.store import Store
from kvorm.testing.proxy import Direction, FlakyProxy
from kvorm.testing.servers import NatsServer
from tests.faults.watching import raw

ITEMS = 5_000
BUDGET = timedelta(seconds=2)


class Note(Model):
    id: Key[int]
    text: str = ""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url) as store:
            await store.ensure(notes_of(store))
        yield server


@pytest.fixture
async def proxy(server: NatsServer) -> AsyncIterator[FlakyProxy]:
    async with FlakyProxy(server.url) as proxy:
        yield proxy


def notes_of(store: Store) -> Repository[Note]:
    return store.repository(Note, mapping=Mapping("notes", key=("id",)))


def new_notes(count: int = ITEMS) -> Iterator[Note]:
    return (Note(id=number, text=f"{number}") for number in range(count))


async def stored(server: NatsServer) -> dict[int, int]:
    """Return the revision of each note, from a client that met no fault."""
    async with kvorm.connect(server.url) as store:
        notes = notes_of(store)
        return {note.id: kvorm.revision_of(note) or 0 async for note in notes.find()}


async def test_a_load_side_by_side_tells_that_later_ones_may_be_stored(server: NatsServer) -> None:
    """One value alone does not fit into a bucket of a size limit that takes no batches."""
    async with kvorm.connect(server.url) as store, raw(server.url) as client:
        notes = notes_of(store)
        assert await notes.count() == 0
        config = (await client.call("STREAM.INFO.KV_notes"))["config"]
        await client.call("STREAM.UPDATE.KV_notes", {**config, "allow_batched": False, "max_bytes": 2_000})
        with pytest.raises(StoreTimeoutError) as raised:
            await notes.load([Note(id=0), Note(id=1, text="x" * 2_000), Note(id=2)])
        assert raised.value.stored == 1
        assert "full" in str(raised.value.__cause__)
        assert set(await stored(server)) == {0, 2}


async def until_stored(server: NatsServer, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await stored(server)) < count:
            pass


async def until_connected(store: Store) -> None:
    async with asyncio.timeout(10):
        while not (await store.health()).reachable:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until_some_are_stamped(notes: list[Note]) -> None:
    async with asyncio.timeout(10):
        while kvorm.revision_of(notes[len(notes) // 10]) is None:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_saves_go_on_over_a_restart(server: NatsServer) -> None:
    items = list(new_notes())
    async with kvorm.connect(server.url) as store:
        saving = asyncio.create_task(notes_of(store).save_many(items))
        await until_some_are_stamped(items)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        revisions = await saving
    assert await stored(server) == dict(enumerate(revisions))
    assert len(set(revisions)) == max(revisions) == ITEMS


async def test_the_answers_of_some_saves_are_lost(server: NatsServer, proxy: FlakyProxy) -> None:
    items = list(new_notes())
    async with kvorm.connect(proxy.url) as store:
        saving = asyncio.create_task(notes_of(store).save_many(items))
        await until_some_are_stamped(items)
        proxy.swallow(Direction.TO_CLIENT)
        await asyncio.sleep(0.1)
        proxy.cut()
        proxy.swallow()
        revisions = await saving
    assert await stored(server) == dict(enumerate(revisions))
    assert len(set(revisions)) == max(revisions) == ITEMS


async def test_what_is_unknown_is_told_and_can_be_saved_again(server: NatsServer, proxy: FlakyProxy) -> None:
    items = list(new_notes())
    # Shorter than the client needs to notice.
    async with kvorm.connect(proxy.url, timeout=BUDGET / 2) as store:
        notes = notes_of(store)
        saving = asyncio.create_task(notes.save_many(items))
        await until_some_are_stamped(items)
        proxy.swallow(Direction.TO_CLIENT)
        await asyncio.sleep(0.1)
        proxy.strand()
        with pytest.raises(BulkError) as raised:
            await saving
        error = raised.value
        assert error.saved.keys() | error.failed.keys() == set(range(ITEMS))
        assert {type(one) for one in error.failed.values()} == {StoreTimeoutError, StoreUnavailableError}
        there = await stored(server)
        assert error.saved.items() <= there.items()
        unavailable = {index for index, one in error.failed.items() if isinstance(one, StoreUnavailableError)}
        assert not unavailable & there.keys()
        proxy.cut()
        await until_connected(store)
        await notes.save_many(items)
        assert {item.id: kvorm.revision_of(item) for item in items} == await stored(server)


async def test_what_was_sent_is_unknown_where_the_bucket_cannot_be_looked_at(
    server: NatsServer, proxy: FlakyProxy
) -> None:
    items = list(new_notes(10))
    async with kvorm.connect(proxy.url, timeout=BUDGET / 2) as store:
        notes = notes_of(store)
        handle = await store.handle(notes.bucket, Deadline(BUDGET))
        proxy.swallow(Direction.TO_CLIENT)
        saving = asyncio.create_task(notes.save_many(items))
        await until_stored(server, len(items))
        handle.outdate()
        with pytest.raises(BulkError) as raised:
            await saving
        proxy.cut()
        proxy.swallow()
    assert not raised.value.saved
    assert {type(one) for one in raised.value.failed.values()} == {StoreTimeoutError}


async def test_a_call_on_a_dead_server_ends_with_one_budget(server: NatsServer) -> None:
    items = list(new_notes())
    async with kvorm.connect(server.url, timeout=BUDGET) as store:
        notes = notes_of(store)
        await notes.save_many(items[:10])
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(4 * BUDGET.total_seconds()):
            with pytest.raises((BulkError, StoreError)):
                await notes.save_many(items)
            with pytest.raises((BulkError, StoreError)):
                await notes.delete_many(items[:10])
        await asyncio.to_thread(server.start)
        await until_connected(store)
    assert len(await stored(server)) == 10


@pytest.mark.parametrize("fault", ["kill", "cut", "swallow"])
async def test_a_load_that_stops_says_how_far_it_came(server: NatsServer, proxy: FlakyProxy, fault: str) -> None:
    some = asyncio.Event()

    async def endless() -> AsyncIterator[Note]:
        number = 0
        while True:
            yield Note(id=number, text=f"{number}")
            number += 1

    # A proxy before a dead server accepts and hangs up, which leaves sockets of nats-py behind.
    async with kvorm.connect(server.url if fault == "kill" else proxy.url, timeout=BUDGET) as store:
        loading = asyncio.create_task(notes_of(store).load(endless(), progress=lambda _: some.set()))
        await some.wait()
        match fault:
            case "kill":
                await asyncio.to_thread(server.kill)
            case "cut":
                proxy.cut()
            case _:
                proxy.swallow(Direction.TO_CLIENT)
                await asyncio.sleep(0.1)
                proxy.strand()
        with pytest.raises(StoreError) as raised:
            await loading
        if fault == "kill":
            await asyncio.to_thread(server.start)
        proxy.cut()
        await until_connected(store)
        in_batches = store.client.connected_server_version.minor >= 14
    assert raised.value.stored
    numbers = sorted(await stored(server))
    assert numbers[: raised.value.stored] == list(range(raised.value.stored))
    if in_batches:
        assert numbers == list(range(len(numbers)))
    if in_batches and not isinstance(raised.value, StoreTimeoutError):
        assert len(numbers) == raised.value.stored
    async with kvorm.connect(server.url) as store:
        rest = ITEMS - raised.value.stored
        assert await notes_of(store).load(Note(id=raised.value.stored + number) for number in range(rest)) == rest
