"""S5, S7 and E1 for views: buckets made anew, entries that expire, views that end; and what a watch tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from kvorm.bucket import Bucket
from kvorm.entry import ANY
from kvorm.errors import BucketNotFoundError, KvormError, StoreClosedError
from kvorm.repository import Repository
from kvorm.testing.contract.harness import PATIENCE, Harness, eventually, raises
from kvorm.testing.contract.models import Note, Order, new_bucket, new_notes, new_orders, notes_in, orders_in
from kvorm.view import View

TTL: Final = timedelta(seconds=1)
_ALIVE: Final = timedelta(seconds=2)


async def _is(holds: Callable[[], object]) -> bool:
    return bool(holds())


async def s5_s8_a_bucket_made_anew_is_loaded_anew(harness: Harness) -> None:
    """What vanished is dropped, what comes is there and can be saved; whoever waited for a revision is told."""
    bucket = new_bucket(harness)
    orders = orders_in(await harness.open(), bucket)
    await orders.save(Order(tenant="acme", id=1))
    await orders.save(Order(tenant="acme", id=2))
    async with orders.view() as view, asyncio.timeout(PATIENCE.total_seconds()):
        waiting = asyncio.create_task(view.wait_for(1000))
        await asyncio.sleep(0)
        await harness.delete(bucket.name)
        await harness.create(bucket)
        with raises(BucketNotFoundError):
            await waiting
        others = orders_in(await harness.open(), bucket)
        await others.save(Order(tenant="acme", id=2, note="anew"), expect=ANY)
        await view.wait_for(1)
        assert view.values() == [Order(tenant="acme", id=2, note="anew")]
        order = view["acme", 2]
        order.note = "changed"
        await view.wait_for(await orders.save(order))
        assert view["acme", 2].note == "changed"


async def e1_s8_expired_entries_leave_a_view(harness: Harness) -> None:
    """By their marker, or, in a bucket of another client that keeps none, on their own."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=TTL)
    foreign = Bucket(harness.new_name(), replicas=harness.replicas, ttl=TTL)
    await harness.create(foreign)
    notes = notes_in(await harness.open(), foreign)
    await orders.save(Order(tenant="acme", id=1))
    await notes.save(Note(id="a"))
    async with orders.view() as view, notes.view() as texts:
        assert (len(view), len(texts)) == (1, 1)
        await orders.save(Order(tenant="acme", id=2))
        await notes.save(Note(id="b"))
        await harness.let_pass(TTL)
        await eventually(lambda: _is(lambda: not view.values() and not texts.values()))
        await view.wait_for(await orders.save(Order(tenant="acme", id=2), expect=ANY))
        assert list(view) == [("acme", 2)]


async def e1_s8_a_lifetime_of_its_own_ends_in_a_view(harness: Harness) -> None:
    """Other clients give single entries a lifetime; where the key has a history, its older value is back then."""
    notes = await new_notes(harness, marker_ttl=TTL, history=3)
    name = notes.bucket.name
    await notes.save(Note(id="a", text="old"))
    async with notes.view() as view:
        await harness.write(name, "a", b'{"id": "a", "text": "short"}', {"Nats-TTL": "1s"})
        await harness.write(name, "b", b'{"id": "b"}', {"Nats-TTL": "1"})
        await view.wait_for(await harness.write(name, "c", b'{"id": "c"}', {"Nats-TTL": "never"}))
        assert [note.text for note in view.values()] == ["short", "", ""]
        await harness.let_pass(TTL)
        await eventually(lambda: _is(lambda: sorted(view) == [("a",), ("c",)] and view["a"].text == "old"))
        assert view["a"] == await notes.get("a")


async def s7_leaving_a_view_leaves_nothing(harness: Harness) -> None:
    """Neither a consumer nor a task, also where entering was cancelled; what was read is not read any more."""
    orders = await new_orders(harness)
    name = orders.bucket.name
    await orders.save(Order(tenant="acme", id=1))
    assert await harness.consumers(name) == 0
    tasks = len(asyncio.all_tasks())
    for delay in (0.0, 0.001, 0.005):
        entering = asyncio.create_task(orders.view().__aenter__())
        await asyncio.sleep(delay)
        entering.cancel()
        await asyncio.wait({entering})
        if not entering.cancelled():
            await entering.result().__aexit__(None, None, None)
    view = orders.view()
    with raises(StoreClosedError):
        view.get("acme", 1)
    with raises(ZeroDivisionError):
        async with view:
            waiting = asyncio.create_task(view.wait_for(1000))
            await asyncio.sleep(0)
            _ = 1 // 0
    with raises(StoreClosedError):
        await waiting
    with raises(StoreClosedError):
        view.get("acme", 1)
    with raises(RuntimeError):
        await view.__aenter__()

    async def nothing_left() -> bool:
        return await harness.consumers(name) == 0 and len(asyncio.all_tasks()) <= tasks

    await eventually(nothing_left)


async def s7_s8_a_view_that_cannot_go_on_says_so(harness: Harness) -> None:
    """After its store was closed or its bucket deleted every read raises, and so does whoever waits."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    store = await harness.open()
    closing = orders_in(store, orders.bucket)

    async def close() -> None:
        await store.close()

    async def delete() -> None:
        await harness.delete(orders.bucket.name)

    cases: list[tuple[Repository[Order], Callable[[], Any], type[KvormError]]] = [
        (closing, close, StoreClosedError),
        (orders, delete, BucketNotFoundError),
    ]
    for repository, end, error in cases:
        async with repository.view() as view, asyncio.timeout(PATIENCE.total_seconds()):
            waiting = asyncio.create_task(view.wait_for(1000))
            await asyncio.sleep(0)
            await end()
            with raises(error):
                await waiting
            assert not view.caught_up
            for read in _reads(view):
                with raises(error):
                    read()
            with raises(error):
                await view.wait_for(1)


def _reads(view: View[Order]) -> list[Callable[[], object]]:
    return [
        lambda: view.get("acme", 1),
        lambda: view["acme", 1],
        lambda: ("acme", 1) in view,
        lambda: len(view),
        lambda: list(view),
        view.values,
        view.items,
        lambda: view.where(bool),
        lambda: view.by("note")["a"],
        lambda: view.invalid,
        lambda: view.revision,
    ]


async def api_a_watch_tells_how_far_it_is(harness: Harness) -> None:
    """`caught_up`, `revision`, `silent_for`, for health checks and for `since=`; a view tells the same."""
    orders = await new_orders(harness)
    watch = orders.watch(tenant="acme")
    assert (watch.caught_up, watch.revision, watch.silent_for) == (False, 0, timedelta(0))
    first = await orders.save(Order(tenant="acme", id=1))
    async with watch, asyncio.timeout(PATIENCE.total_seconds()):
        await anext(watch)
        assert (watch.caught_up, watch.revision) == (False, first)
        await anext(watch)
        assert (watch.caught_up, watch.revision) == (True, first)
        other = await orders.save(Order(tenant="other", id=1))
        reading = asyncio.create_task(anext(watch))
        await eventually(lambda: _is(lambda: watch.revision == other))
        assert watch.silent_for < _ALIVE
        await watch.aclose()
        with raises(StopAsyncIteration):
            await reading
    async with orders.view() as view:
        assert view.silent_for < _ALIVE
