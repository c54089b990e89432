"""S1, S2, S4, S5 and S7 in quiet times: a watch over a healthy store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from kvorm.entry import ANY, CaughtUp, Entry, Marker, Reset
from kvorm.errors import BucketNotFoundError, InvalidKeyError, StoreClosedError
from kvorm.testing.contract.harness import PATIENCE, Harness, eventually, raises
from kvorm.testing.contract.models import (
    Note,
    Order,
    elsewhere,
    new_bucket,
    new_notes,
    new_orders,
    notes_in,
    orders_in,
)
from kvorm.watch import Event, Watch

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


async def until_caught_up(watch: Watch[M]) -> list[Event[M]]:
    """Return what a watch delivers until it has caught up, that included, and end it."""
    async with watch:
        return await caught_up(watch)


async def caught_up(watch: Watch[M]) -> list[Event[M]]:
    """Return what a watch delivers until it has caught up, that included."""
    events: list[Event[M]] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        async for event in watch:
            events.append(event)
            if isinstance(event, CaughtUp):
                break
    return events


async def take(events: AsyncIterator[T], number: int) -> list[T]:
    """Return the next few."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return [await anext(events) for _ in range(number)]


def told(events: list[Event[Any]]) -> list[object]:
    """Return events in short."""
    short: list[object] = []
    for event in events:
        match event:
            case Entry(value=value, revision=revision):
                short.append((revision, value))
            case Marker(key=key, reason=reason):
                short.append((event.revision, key, reason))
            case CaughtUp():
                short.append("caught up")
            case Reset():
                short.append("reset")
    return short


def latest(events: Sequence[Event[M]]) -> list[Event[M]]:
    """Leave out what was told anew: a replica that lags tells its state, and then what it learns."""
    newest = {event.raw_key: event.revision for event in events if isinstance(event, Entry | Marker)}
    return [
        event for event in events if not isinstance(event, Entry | Marker) or event.revision == newest[event.raw_key]
    ]


async def s4_the_state_then_caught_up_then_changes(harness: Harness) -> None:
    """The latest of each key, markers too, one CaughtUp, then each change as it comes."""
    orders = await new_orders(harness, history=5)
    one, two = Order(tenant="acme", id=1), Order(tenant="acme", id=2)
    await orders.save(one)
    first = await orders.save(one)
    second = await orders.save(two)
    deleted = await orders.delete("acme", 2)
    async with orders.watch() as watch:
        events = await caught_up(watch)
        assert told(latest(events)) == [(first, one), (deleted, ("acme", 2), "deleted"), "caught up"]
        assert events[-1] == CaughtUp(deleted)
        assert second < deleted
        third = await orders.save(one)
        assert told(await take(watch, 1)) == [(third, one)]
        purged = await orders.purge("acme", 1)
        assert told(await take(watch, 1)) == [(purged, ("acme", 1), "purged")]
        created = [await orders.save(Order(tenant="b", id=id)) for id in range(3)]
        assert told(await take(watch, 3)) == [(created[id], Order(tenant="b", id=id)) for id in range(3)]
    assert [entry.raw_key for entry in latest(events) if isinstance(entry, Entry)] == ["acme.1"]


async def s4_caught_up_comes_once(harness: Harness) -> None:
    """Also for an empty bucket, an empty filter, and with `updates_only`; it says how far it reaches."""
    orders = await new_orders(harness)
    (event,) = await until_caught_up(orders.watch())
    assert event == CaughtUp(0)
    revision = await orders.save(Order(tenant="acme", id=1))
    starts: list[Callable[[], Watch[Order]]] = [
        lambda: orders.watch(tenant="nobody"),
        lambda: orders.watch(updates_only=True),
        lambda: orders.watch(since=revision),
    ]
    for start in starts:
        async with start() as watch:
            assert await caught_up(watch) == [CaughtUp(revision)]
            revision = await orders.save(Order(tenant="nobody", id=revision))
            assert told(await take(watch, 1)) == [(revision, Order(tenant="nobody", id=revision - 1))]
            # Nothing more comes, no second CaughtUp either.
            with raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(watch)
        revision = await orders.delete("nobody", revision - 1)


async def s1_s2_revisions_rise_and_none_comes_twice(harness: Harness) -> None:
    """While others write, from before the start until after it; each key's last state is among the events."""
    orders = await new_orders(harness, history=2)
    others = await elsewhere(harness, orders)
    writing = True
    last: dict[int, int] = {}

    async def write() -> None:
        number = 0
        while writing:
            id = number % 7
            last[id] = await others.save(Order(tenant="acme", id=id, note=f"{number}"), expect=ANY)
            number += 1

    writer = asyncio.create_task(write())
    try:
        await eventually(lambda: _has(last, 7))
        for history in (False, True):
            async with orders.watch(history=history) as watch:
                seen = await caught_up(watch)
                assert isinstance(seen.pop(), CaughtUp)
                seen += await take(watch, 30)
                revisions = [event.revision for event in seen if isinstance(event, Entry)]
                assert len(revisions) == len(seen)
                assert revisions == sorted(set(revisions))
                assert {event.key for event in seen if isinstance(event, Entry)} == {("acme", id) for id in range(7)}
        async with orders.watch() as watch:
            *_, event = await caught_up(watch)
            assert isinstance(event, CaughtUp)
            writing = False
            await writer
            # The last write may have been among the state that the watch began with.
            while event.revision < max(last.values()):
                (event,) = await take(watch, 1)
                assert isinstance(event, Entry)
    finally:
        writing = False
        await writer


async def _has(found: dict[int, int], number: int) -> bool:
    return len(found) >= number


async def s4_a_watch_sees_its_filter_alone(harness: Harness) -> None:
    """The server filters by any subset of the key fields; refused values are InvalidKeyError at once."""
    orders = await new_orders(harness)
    for tenant in ("acme", "b.b", "*"):
        for id in (1, 2):
            await orders.save(Order(tenant=tenant, id=id))
    filters: list[tuple[dict[str, Any], set[tuple[str, int]]]] = [
        ({"tenant": "b.b"}, {("b.b", 1), ("b.b", 2)}),
        ({"tenant": "*"}, {("*", 1), ("*", 2)}),
        ({"id": "2"}, {("acme", 2), ("b.b", 2), ("*", 2)}),
        ({"tenant": "acme", "id": 1}, {("acme", 1)}),
    ]
    for fields, keys in filters:
        async with orders.watch(**fields) as watch:
            events = await caught_up(watch)
            assert {event.key for event in events if isinstance(event, Entry)} == keys
            assert len(events) == len(keys) + 1
            await orders.save(Order(tenant="none of them", id=9), expect=ANY)
            tenant, id = min(keys)
            await orders.save(Order(tenant=tenant, id=id), expect=ANY)
            (event,) = await take(watch, 1)
            assert isinstance(event, Entry)
            assert event.key == (tenant, id)
    wrong: list[dict[str, Any]] = [{"id": "one"}, {"number": 1}, {"tenant": None}]
    for fields in wrong:
        with raises(InvalidKeyError):
            orders.watch(**fields)


async def s5_since_goes_on_after_a_revision(harness: Harness) -> None:
    """After a number, or after what an earlier watch delivered; what was evicted meanwhile is no gap."""
    orders = await new_orders(harness, history=2)
    order = Order(tenant="acme", id=1)
    revisions = [await orders.save(order) for _ in range(4)]
    events = latest(await until_caught_up(orders.watch()))
    for since in (revisions[0], revisions[1]):
        later = told(await until_caught_up(orders.watch(since=since)))
        if harness.replicas and later[0] == (revisions[1], order):
            del later[0]  # a replica that lags still has it
        assert later == [*((revision, order) for revision in revisions[2:]), "caught up"]
    for event in events:
        assert isinstance(event, Entry | CaughtUp)
        assert await until_caught_up(orders.watch(since=event)) == [CaughtUp(revisions[3])]
    marker = await orders.delete("acme", 1)
    (deleted, _) = await until_caught_up(orders.watch(since=events[0] if isinstance(events[0], Entry) else 0))
    assert isinstance(deleted, Marker)
    assert deleted.revision == marker
    assert await until_caught_up(orders.watch(since=deleted)) == [CaughtUp(marker)]


async def s5_where_it_cannot_go_on_it_starts_over(harness: Harness) -> None:
    """A revision to come, and what was seen in an earlier life of the bucket: Reset, the state, CaughtUp."""
    notes = await new_notes(harness)
    revision = await notes.save(Note(id="a"))
    events = await until_caught_up(notes.watch())
    assert told(await until_caught_up(notes.watch(since=revision + 5))) == [
        "reset",
        (revision, Note(id="a")),
        "caught up",
    ]
    await harness.delete(notes.bucket.name)
    store = await harness.open()
    others = notes_in(store, notes.bucket)
    again = await others.save(Note(id="b"))
    await others.save(Note(id="c"))
    for event in events:
        assert isinstance(event, Entry | CaughtUp)
        assert told(await until_caught_up(notes.watch(since=event)))[:2] == ["reset", (again, Note(id="b"))]


async def s5_a_running_watch_starts_over_with_its_bucket(harness: Harness) -> None:
    """Deleted and made anew at once: Reset, the state, CaughtUp; what is read from then on can be saved."""
    bucket = new_bucket(harness)
    orders = orders_in(await harness.open(), bucket)
    await orders.save(Order(tenant="acme", id=1))
    async with orders.watch() as watch:
        await caught_up(watch)
        await harness.delete(bucket.name)
        await harness.create(bucket)
        assert told(await caught_up(watch)) == ["reset", "caught up"]
        await orders_in(await harness.open(), bucket).save(Order(tenant="acme", id=2))
        (event,) = await take(watch, 1)
        assert isinstance(event, Entry)
        event.value.note = "changed"
        assert await orders.save(event.value) == event.revision + 1


async def s5_history_replays_every_kept_change(harness: Harness) -> None:
    """All kept entries and markers in the order of their revisions, then CaughtUp."""
    orders = await new_orders(harness, history=3)
    revisions = [await orders.save(Order(tenant="acme", id=id), expect=ANY) for id in (1, 2, 1, 1, 2, 1)]
    marker = await orders.delete("acme", 2)
    events = await until_caught_up(orders.watch(history=True))
    replayed = [event.revision for event in events if not isinstance(event, Reset)]
    if harness.replicas and replayed[0] == revisions[0]:
        del replayed[0]  # a replica that lags still has it
    assert replayed == [*revisions[1:], marker, marker]
    both: list[dict[str, Any]] = [{"history": True, "updates_only": True}, {"since": 1, "history": True}]
    for options in both:
        with raises(ValueError):
            orders.watch(**options)


async def s4_values_are_the_live_models(harness: Harness) -> None:
    """`watch().values()` yields models alone, stamped, as they are and as they change."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1, note="a"))
    async with orders.watch(tenant="acme") as watch:
        values = watch.values()
        (order,) = await take(values, 1)
        assert order.note == "a"
        order.note = "b"
        await orders.save(order)
        assert [order.note for order in await take(values, 1)] == ["b"]
        await orders.delete(order)
        await orders.save(Order(tenant="acme", id=2, note="c"))
        assert [order.note for order in await take(values, 1)] == ["c"]


async def s7_leaving_a_watch_leaves_nothing(harness: Harness) -> None:
    """A break, `async with`, `aclose` and a cancelled task end it; no consumer and no task stays."""
    orders = await new_orders(harness)
    name = orders.bucket.name
    await orders.save(Order(tenant="acme", id=1))
    # The harness' own client starts a task with its first question.
    assert await harness.consumers(name) == 0
    tasks = len(asyncio.all_tasks())

    async def read_on() -> None:
        async for _ in orders.watch():
            pass

    for _ in range(3):
        async with orders.watch() as watch:
            async for _ in watch:
                break
        watch = orders.watch()
        await caught_up(watch)
        await watch.aclose()
        await watch.aclose()
        reader = asyncio.create_task(read_on())
        await asyncio.sleep(0.05)
        reader.cancel()
        await asyncio.wait({reader})
        assert reader.cancelled()
    await eventually(lambda: _no_consumers(harness, name))
    await eventually(lambda: _tasks(tasks))


async def _no_consumers(harness: Harness, bucket: str) -> bool:
    return await harness.consumers(bucket) == 0


async def _tasks(number: int) -> bool:
    return len(asyncio.all_tasks()) <= number


async def s7_closing_the_store_ends_its_watches(harness: Harness) -> None:
    """Each reader, waiting or about to, gets StoreClosedError at once; other stores' watches go on."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    store = await harness.open()
    closing = orders_in(store, orders.bucket)
    idle = closing.watch()
    await caught_up(idle)

    async def read_on() -> None:
        async for _ in closing.watch():
            pass

    readers = [asyncio.create_task(read_on()) for _ in range(3)]
    async with orders.watch() as staying:
        await caught_up(staying)
        await asyncio.sleep(0.1)
        await store.close()
        async with asyncio.timeout(timedelta(seconds=2).total_seconds()):
            for result in await asyncio.gather(*readers, return_exceptions=True):
                assert isinstance(result, StoreClosedError), result
            with raises(StoreClosedError):
                await anext(idle)
        with raises(StoreClosedError):
            await anext(closing.watch())
        revision = await orders.save(Order(tenant="acme", id=2))
        (event,) = await take(staying, 1)
        assert isinstance(event, Entry)
        assert event.revision == revision


async def s7_a_deleted_bucket_ends_its_watches(harness: Harness) -> None:
    """BucketNotFoundError, from which nobody can go on by silence."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    async with orders.watch() as watch:
        await caught_up(watch)
        await harness.delete(orders.bucket.name)
        with raises(BucketNotFoundError) as raised:
            await take(watch, 1)
        assert raised.error.bucket == orders.bucket.name
