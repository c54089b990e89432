"""What a view does when its store is not quiet. The store is memory, with a hand in it."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from kvorm import ANY, Bucket, DecodeError, Key, MemoryStore, Model, StoreUnavailableError
from kvorm.backends.base import BucketHandle, Deadline, Position, RawEvent, RawWatch, Replay, Resumed
from kvorm.bucket import Bucket as Declared
from kvorm.entry import Reset
from kvorm.store import Store


class Note(Model, bucket=Bucket("notes", history=2)):
    id: Key[str]
    text: str = ""


class MeddledWatch:
    """A watch of memory that holds events back, and has some of its own."""

    def __init__(self, watch: RawWatch, meddling: "Meddling") -> None:
        self._watch = watch
        self._meddling = meddling
        meddling.running.add(id(self))

    @property
    def silent_for(self) -> float:
        return 1.5

    def __aiter__(self) -> AsyncIterator[RawEvent]:
        return self

    async def __anext__(self) -> RawEvent:
        await self._meddling.sees.wait()
        if self._meddling.events:
            return self._meddling.events.pop(0)
        return await anext(self._watch)

    async def next_at_hand(self) -> list[RawEvent]:
        return [await anext(self)]

    async def aclose(self) -> None:
        self._meddling.running.discard(id(self))
        await self._watch.aclose()


class MeddledHandle:
    def __init__(self, handle: BucketHandle, meddling: "Meddling") -> None:
        self._handle = handle
        self._meddling = meddling

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    async def names(self, filters: Sequence[str], *, timeout: timedelta) -> AsyncGenerator[list[str], None]:
        self._meddling.asked += 1
        if self._meddling.asked < 3:
            raise StoreUnavailableError("not now")
        async for portion in self._handle.names(filters, timeout=timeout):
            yield portion

    def watch(self, filters: Sequence[str], *, start: Replay | int) -> MeddledWatch:
        return MeddledWatch(self._handle.watch(filters, start=start), self._meddling)


class Meddling(MemoryStore):
    """A store of memory whose watches can be blind and told what to say."""

    def __init__(self) -> None:
        super().__init__()
        self.sees = asyncio.Event()
        self.sees.set()
        self.events: list[RawEvent] = []
        self.asked = 0
        self.running: set[int] = set()

    async def handle(self, bucket: Declared, deadline: Deadline) -> Any:
        return MeddledHandle(await super().handle(bucket, deadline), self)

    def erase(self, raw_key: str) -> None:
        """Remove a key with its markers, as a purge of the stream does."""
        log = self.server.find("notes").log
        for stored in log.of(raw_key):
            log._remove(stored)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_after_a_gap_what_is_gone_without_a_marker_is_dropped() -> None:
    """H11: deleted, and the marker purged, while the watch was blind."""
    async with Meddling() as store:
        notes = store.repository(Note)
        for id in "abc":
            await notes.save(Note(id=id))
        await notes.save(Note(id="bad"))
        store.server.find("notes").log.append("bad", b"?", {})
        async with notes.view() as view:
            await view.wait_for(5)
            assert (len(view), len(view.invalid)) == (3, 1)
            store.sees.clear()
            await notes.delete("a")
            store.erase("a")
            store.erase("bad")
            await notes.save(Note(id="d"))
            store.events.append(Resumed())
            # The watch waits where it is until something happens.
            store.sees.set()
            await view.wait_for(7)
            await notes.save(Note(id="e"))
            await view.wait_for(8)
            assert [note.id for note in view.values()] == ["b", "c", "d", "e"]
            assert view.invalid == {}
            assert store.asked == 3


async def test_a_view_that_loads_anew_shows_what_it_had_until_that_is_complete() -> None:
    async with Meddling() as store:
        notes = store.repository(Note)
        await notes.save(Note(id="a"))
        async with notes.view() as view:
            by_text = view.by("text")
            assert len(by_text[""]) == 1
            store.events += [Reset(), Position(0)]
            await notes.save(Note(id="b"))
            await until(lambda: not view.caught_up)
            assert [note.id for note in view.values()] == ["a", "b"]
            assert view.revision == 0
            assert len(by_text[""]) == 2


async def test_a_reader_that_waits_for_a_watch_is_let_go_when_another_ends_it() -> None:
    async with MemoryStore() as store:
        notes = store.repository(Note)
        watch = notes.watch(updates_only=True)
        await anext(watch)
        reading = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.01)
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await reading
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_an_abandoned_watch_ends() -> None:
    async with Meddling() as store:
        notes = store.repository(Note)
        await notes.save(Note(id="a"))
        async for _ in notes.watch():
            break
        async for _ in notes.watch().values():
            break
        watch = notes.watch()
        await anext(watch)
        assert store.running
        assert watch.silent_for == timedelta(seconds=1.5)
        del watch
        gc.collect()
        await until(lambda: not store.running)


async def test_what_a_function_for_invalid_values_raises_ends_the_view() -> None:
    def refuse(error: DecodeError) -> None:
        raise LookupError(error.key)

    async with MemoryStore() as store:
        notes = store.repository(Note)
        await notes.save(Note(id="a"))
        async with notes.view(on_invalid=refuse) as view:
            stored = store.server.find("notes")
            stored.log.append("b", b"?", {})
            stored.announce()
            with pytest.raises(LookupError, match="b"):
                await view.wait_for(2)
            with pytest.raises(LookupError, match="b"):
                view.get("a")


async def test_equal_keys_of_different_types_are_told_apart() -> None:
    async with MemoryStore() as store:
        notes = store.repository(Note)
        await notes.save(Note(id="1"), expect=ANY)
        async with notes.view() as view:
            assert "1" in view
            for wrong in (1, True, ["1"], None):
                with pytest.raises(ValueError, match="id"):
                    view.get(wrong)
            assert view.get("1") is not None


async def test_entering_tells_why_it_cannot(tmp_path: object) -> None:
    store: Store = MemoryStore(create_buckets=False)
    view = store.repository(Note).view()
    with pytest.raises(Exception, match="create_buckets"):
        await view.__aenter__()
    await store.close()
