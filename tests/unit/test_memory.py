"""The store in memory: one server for many clients, time set by hand, and the refusals of a real server."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from kvorm import (
    ABSENT,
    ANY,
    Bucket,
    BucketMismatchError,
    BucketNotFoundError,
    CaughtUp,
    Difference,
    Entry,
    InvalidKeyError,
    Key,
    KeyExistsError,
    KeyNotFoundError,
    Marker,
    MemoryStore,
    Model,
    Repository,
    Reset,
    RevisionMismatchError,
    StoreClosedError,
    StoreError,
    UnsupportedError,
    ValueTooLargeError,
    connect,
    revision_of,
)
from kvorm.backends.base import Deadline, Position, RawEntry, Replay, Resumed

HOUR = timedelta(hours=1)


class Note(Model, bucket=Bucket("notes", history=3)):
    id: Key[str]
    text: str = ""


class Session(Model, bucket=Bucket("sessions", history=2, ttl=HOUR)):
    id: Key[str]


class Clock:
    """Time set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def next_event(events: object) -> object:
    return await asyncio.wait_for(anext(events), 5)  # type: ignore[call-overload]


# Stores and their server


async def test_each_store_is_its_own() -> None:
    await MemoryStore().repository(Note).save(Note(id="a"))
    assert not await MemoryStore().repository(Note).exists("a")
    async with connect("memory:") as one, connect("memory:") as other:
        await one.repository(Note).save(Note(id="a"))
        assert await other.repository(Note).count() == 0


async def test_stores_on_one_server_see_the_same() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    others = MemoryStore(server=store.server).repository(Note)
    note = Note(id="a")
    await notes.save(note)
    read = await others.get("a")
    await others.save(read)
    with pytest.raises(RevisionMismatchError) as raised:
        await notes.save(note)
    assert isinstance(raised.value.current, Entry)
    assert raised.value.current.revision == revision_of(read) == 2


async def test_an_object_of_another_store_was_never_saved_here() -> None:
    note = Note(id="a")
    notes, others = MemoryStore().repository(Note), MemoryStore().repository(Note)
    await notes.save(note)
    await others.save(Note(id="a", text="theirs"))
    with pytest.raises(KeyExistsError) as raised:
        await others.save(note)
    assert raised.value.expected is ABSENT
    assert (await others.get("a")).text == "theirs"


async def test_a_closed_store_answers_nothing_and_leaves_others_alone() -> None:
    store = MemoryStore()
    other = MemoryStore(server=store.server)
    notes = store.repository(Note)
    await notes.save(Note(id="a"))
    await store.close()
    await store.close()
    for asked in (notes.get("a"), notes.save(Note(id="b")), notes.count(), store.ensure(Note)):
        with pytest.raises(StoreClosedError):
            await asked
    assert await other.repository(Note).get("a") == Note(id="a")


async def test_namespaces_are_apart() -> None:
    store = MemoryStore(namespace="staging-")
    notes = store.repository(Note)
    await notes.save(Note(id="a"))
    assert notes.bucket.name == (await notes.entry("a")).bucket == "staging-notes"
    assert not await MemoryStore(server=store.server).repository(Note).exists("a")
    assert await MemoryStore(server=store.server).repository(Note, bucket="staging-notes").exists("a")


# Buckets


async def test_missing_buckets_are_created_only_if_wished() -> None:
    store = MemoryStore(create_buckets=False)
    notes = store.repository(Note)
    with pytest.raises(
        BucketNotFoundError, match=r"bucket 'notes' does not exist and create_buckets is off; `await sto"
    ):
        await notes.exists("a")
    await store.ensure(Note)
    assert not await notes.exists("a")


async def test_a_deleted_bucket_is_not_made_again_by_itself() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    note = Note(id="a")
    await notes.save(note)
    store.server.delete("notes")
    with pytest.raises(BucketNotFoundError):
        await notes.get("a")
    await store.ensure(notes)
    with pytest.raises(KeyNotFoundError):
        await notes.get("a")
    assert await notes.save(note) == 1
    with pytest.raises(BucketNotFoundError):
        store.server.delete("no-such")


async def test_a_bucket_that_is_not_what_is_declared() -> None:
    store = MemoryStore()
    await store.ensure(Note)
    other = MemoryStore(server=store.server)

    class Longer(Model, bucket=Bucket("notes", history=5, max_value_bytes=100)):
        id: Key[str]

    longer = other.repository(Longer)
    with pytest.raises(
        BucketMismatchError, match=r"history is 3, declared 5; max_value_bytes is None, declared 100"
    ) as bad:
        await longer.exists("a")
    assert bad.value.bucket == "notes"
    assert bad.value.differences == {"history": Difference(5, 3), "max_value_bytes": Difference(100, None)}
    await other.ensure(Longer, on_difference="update")
    assert not await longer.exists("a")
    with pytest.raises(BucketMismatchError):
        await MemoryStore(server=store.server).ensure(Note)


async def test_an_update_applies_to_what_is_stored() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    for text in "abc":
        await notes.save(Note(id="a", text=text), expect=ANY)

    class Shorter(Model, bucket=Bucket("notes", history=1)):
        id: Key[str]
        text: str

    other = MemoryStore(server=store.server)
    await other.ensure(Shorter, on_difference="update")
    assert [change.revision for change in await other.repository(Shorter).history("a")] == [3]


async def test_storage_cannot_be_changed() -> None:
    store = MemoryStore()
    await store.ensure(Note)

    class Fleeting(Model, bucket=Bucket("notes", history=3, storage="memory")):
        id: Key[str]

    with pytest.raises(UnsupportedError, match="the server cannot change storage from 'file' to 'memory'; make a new"):
        await MemoryStore(server=store.server).ensure(Fleeting, on_difference="update")


# What a server refuses


class Small(Model, bucket=Bucket("small", max_value_bytes=40)):
    id: Key[str]
    text: str


async def test_values_up_to_the_declared_size() -> None:
    small = MemoryStore().repository(Small)
    fits = Small(id="a", text="x" * (40 - len('{"id":"a","text":""}')))
    await small.save(fits)
    await small.save(fits)
    with pytest.raises(ValueTooLargeError) as raised:
        await small.save(Small(id="a", text=fits.text + "x"), expect=ANY)
    assert (raised.value.size, raised.value.limit, raised.value.key) == (41, 40, "a")
    assert len(await small.history("a")) == 1


async def test_values_up_to_what_a_server_takes() -> None:
    notes = MemoryStore().repository(Note)
    with pytest.raises(ValueTooLargeError) as raised:
        await notes.save(Note(id="a", text="x" * 2**20))
    assert 2**20 - 256 < raised.value.limit < 2**20
    await notes.save(Note(id="a", text="x" * (raised.value.limit - len('{"id":"a","text":""}'))))


async def test_keys_up_to_1024_bytes() -> None:
    notes = MemoryStore().repository(Note)
    await notes.save(Note(id="x" * 1024))
    with pytest.raises(InvalidKeyError, match="has 1025 bytes, at most 1024 are allowed"):
        await notes.save(Note(id="x" * 1025))
    with pytest.raises(InvalidKeyError, match="has 1026 bytes"):
        await notes.exists("é" * 171)


async def test_a_full_bucket_refuses() -> None:
    class Tiny(Model, bucket=Bucket("tiny", max_bytes=300)):
        id: Key[str]
        text: str = ""

    tiny = MemoryStore().repository(Tiny)
    one = Tiny(id="a", text="x" * 100)
    await tiny.save(one)
    with pytest.raises(
        StoreError, match=r"tiny/b: the bucket is full \(300 bytes\), nothing was stored; purge keys or"
    ):
        await tiny.save(Tiny(id="b", text="x" * 100))
    await tiny.purge(one)
    assert await tiny.exists("b") is False


# Time


async def test_entries_expire_to_markers(clock: Clock) -> None:
    sessions = MemoryStore(clock=clock).repository(Session)
    session = Session(id="a")
    await sessions.save(session)
    assert (await sessions.entry("a")).written == clock.now
    clock.now += HOUR - timedelta(milliseconds=1)
    assert await sessions.exists("a")
    clock.now += timedelta(milliseconds=1)
    with pytest.raises(
        KeyNotFoundError, match=r"sessions/a was expired at 2026-01-01 01:00:00 UTC \(revision 2\)"
    ) as raised:
        await sessions.get("a")
    assert raised.value.marker == Marker(("a",), "expired", 2, clock.now, "a", "sessions")
    assert [type(change) for change in await sessions.history("a")] == [Marker]
    assert await sessions.count() == 0
    clock.now += timedelta(minutes=1)
    with pytest.raises(KeyNotFoundError) as raised:
        await sessions.get("a")
    assert raised.value.marker is None
    assert await sessions.history("a") == []


async def test_an_expired_key_is_absent(clock: Clock) -> None:
    sessions = MemoryStore(clock=clock).repository(Session)
    session = Session(id="a")
    await sessions.save(session)
    clock.now += HOUR
    with pytest.raises(RevisionMismatchError) as raised:
        await sessions.save(session)
    assert isinstance(raised.value.current, Marker)
    assert await sessions.save(Session(id="a")) == 3


async def test_an_older_revision_does_not_come_back(clock: Clock) -> None:
    sessions = MemoryStore(clock=clock).repository(Session)
    session = Session(id="a")
    await sessions.save(session)
    clock.now += HOUR / 2
    await sessions.save(session)
    clock.now += HOUR / 2
    assert [change.revision for change in await sessions.history("a")] == [2]
    clock.now += HOUR / 2
    assert not await sessions.exists("a")


async def test_a_watch_sees_expiry(clock: Clock) -> None:
    sessions = MemoryStore(clock=clock).repository(Session)
    await sessions.save(Session(id="a"))
    async with sessions.watch() as events:
        assert [type(await next_event(events)) for _ in range(2)] == [Entry, CaughtUp]
        clock.now += HOUR
        match await next_event(events):
            case Marker(key=("a",), reason="expired"):
                pass
            case other:
                raise AssertionError(other)


# Watching


async def events_until(repository: Repository[Note], last: type[object], **options: object) -> list[object]:
    seen: list[object] = []
    async with repository.watch(**options) as events:  # type: ignore[arg-type]
        while not seen or not isinstance(seen[-1], last):
            seen.append(await next_event(events))
    return seen


async def test_a_watch_delivers_the_state_then_changes() -> None:
    notes = MemoryStore().repository(Note)
    await notes.save(Note(id="a"))
    async with notes.watch() as events:
        first = await next_event(events)
        assert isinstance(first, Entry)
        assert await next_event(events) == CaughtUp(1)
        await notes.save(Note(id="b"))
        await notes.delete("a")
        second, third = await next_event(events), await next_event(events)
    assert isinstance(second, Entry)
    assert second.key == ("b",)
    assert isinstance(third, Marker)
    assert (third.key, third.reason, third.revision) == (("a",), "deleted", 3)


async def test_a_watch_starts_where_it_is_told() -> None:
    notes = MemoryStore().repository(Note)
    for text in "abc":
        await notes.save(Note(id="a", text=text), expect=ANY)
    assert [getattr(event, "revision", None) for event in await events_until(notes, CaughtUp)] == [3, 3]
    assert [getattr(one, "revision", 0) for one in await events_until(notes, CaughtUp, history=True)] == [1, 2, 3, 3]
    assert [getattr(one, "revision", 0) for one in await events_until(notes, CaughtUp, since=1)] == [2, 3, 3]
    assert await events_until(notes, CaughtUp, updates_only=True) == [CaughtUp(3)]
    reset, entry, caught_up = await events_until(notes, CaughtUp, since=7)
    assert (reset, caught_up) == (Reset(), CaughtUp(3))
    assert isinstance(entry, Entry)


async def test_a_watch_ends_with_its_store_or_its_bucket() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    async with notes.watch() as events, notes.watch() as others:
        await next_event(events)
        await next_event(others)
        asked = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        store.server.delete("notes")
        with pytest.raises(BucketNotFoundError):
            await asked
        await store.close()
        with pytest.raises((StoreClosedError, BucketNotFoundError)):
            await next_event(others)


async def test_closing_a_store_wakes_its_watches() -> None:
    store = MemoryStore()
    async with store.repository(Note).watch() as events:
        await next_event(events)
        asked = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreClosedError):
            await asyncio.wait_for(asked, 5)


async def test_one_of_many_writers_at_once_creates() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    results = await asyncio.gather(*(notes.save(Note(id="a")) for _ in range(20)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in results) == ["KeyExistsError"] * 19 + ["int"]


async def test_a_watch_tells_its_position_and_ends_once() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    await store.ensure(notes)
    handle = await store.handle(notes.bucket, Deadline(timedelta(seconds=1)))
    watch = handle.watch(["a"], start=Replay.CURRENT)
    assert watch.silent_for == 0.0
    assert await anext(aiter(watch)) == CaughtUp(0)
    await notes.save(Note(id="b"))
    assert await anext(aiter(watch)) == Position(1)
    await notes.save(Note(id="a"))
    await notes.save(Note(id="c"))
    change, position = [await anext(aiter(watch)) for _ in range(2)]
    assert isinstance(change, RawEntry)
    assert (change.revision, position) == (2, Position(3))
    store.server.delete("notes")
    store.server.create(notes.bucket)
    assert [await anext(aiter(watch)) for _ in range(2)] == [Reset(), CaughtUp(0)]
    never_read = handle.watch([">"], start=Replay.CURRENT)
    for one in (watch, watch, never_read):
        await one.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(one))
    await store.close()


async def test_a_watch_says_that_a_marker_may_have_come_and_gone(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    sessions = store.repository(Session)
    await store.ensure(sessions)
    handle = await store.handle(sessions.bucket, Deadline(timedelta(seconds=1)))
    watch = handle.watch([">"], start=Replay.CURRENT)
    assert isinstance(await anext(aiter(watch)), CaughtUp)
    await sessions.save(Session(id="a"))
    await sessions.purge("a")
    clock.now += timedelta(days=1)
    assert [await anext(aiter(watch)) for _ in range(2)] == [Resumed(), Position(2)]
    await store.close()
