"""R1 and R3 to R6: what is read is what was stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from kvorm.entry import ANY, Entry
from kvorm.errors import InvalidKeyError, KeyNotFoundError
from kvorm.repository import Repository
from kvorm.testing.contract.harness import Attempt, Harness, listed, raises
from kvorm.testing.contract.marks import reason
from kvorm.testing.contract.models import Note, Order, elsewhere, new_notes, new_orders


async def r1_get_returns_the_latest(harness: Harness) -> None:
    """Every way of reading, here and in another client, by position and by name, gives what was stored last."""
    orders = await new_orders(harness, history=3)
    others = await elsewhere(harness, orders)
    order = Order(tenant="acme", id=1)
    for note in ("one", "two", "three", "four"):
        order.note = note
        revision = await orders.save(order)
        for reader in (orders, others):
            assert await reader.get("acme", 1) == order
            assert await reader.get(tenant="acme", id="1") == order
            assert await reader.get("acme", id=1) == order
            assert await reader.get_or_none("acme", 1) == order
            assert await reader.get("acme", 1, revision=revision) == order
            assert await reader.exists("acme", 1)
            entry = await reader.entry("acme", 1)
            assert (entry.value, entry.revision) == (order, revision)


async def r2_a_read_sees_what_was_acknowledged(harness: Harness) -> None:
    """Every way of reading, in another client, right after a write was acknowledged: that write or a newer one."""
    orders = await new_orders(harness, history=3)
    others = await elsewhere(harness, orders)
    order = Order(tenant="acme", id=1)
    for number in range(40):
        order.note = str(number)
        revision = await orders.save(order)
        assert (await others.entry("acme", 1)).revision == revision
        assert (await others.history("acme", 1))[-1].revision == revision
        fresh = Order(tenant="acme", id=100 + number)
        await orders.save(fresh)
        many = await others.get_many([("acme", 1), ("acme", 99), ("acme", fresh.id), ("acme", 98)])
        assert many == [order, None, fresh, None]
        assert [found.id async for found in others.find(id=fresh.id)] == [fresh.id]
        assert await others.count() == number + 2
        await orders.delete(fresh)
        assert await others.get_or_none("acme", fresh.id) is None
        assert await others.count(id=fresh.id) == 0
        await orders.save(fresh)


async def r1_an_entry_tells_its_place(harness: Harness) -> None:
    """Key, raw key, bucket and the aware UTC time of its storing."""
    store = await harness.open()
    notes = await new_notes(harness)
    revision = await notes.save(Note(id="a b"))
    entry = await notes.entry("a b")
    assert (entry.key, entry.raw_key, entry.bucket, entry.revision) == (("a b",), "a=20b", notes.bucket.name, revision)
    assert entry.written.utcoffset() == timedelta(0)
    # Time rises with the revisions, as far as the server's clock can tell.
    later = await notes.save(Note(id="b"))
    written = (await notes.entry("b")).written
    assert later > revision
    assert written >= entry.written
    assert written > datetime(2025, 1, 1, tzinfo=UTC)
    await store.close()


async def r1_nothing_live_is_not_found(harness: Harness) -> None:
    """Never written, deleted or purged: KeyNotFoundError with what is there instead, None, False."""
    orders = await new_orders(harness, history=3)
    for mark in (None, orders.delete, orders.purge):
        marker = None
        if mark is not None:
            await orders.save(Order(tenant="acme", id=1))
            marker = await mark("acme", 1)
        attempts: list[Attempt] = [lambda: orders.get("acme", 1), lambda: orders.entry("acme", 1)]
        for attempt in attempts:
            with raises(KeyNotFoundError) as raised:
                await attempt()
            error = raised.error
            assert (error.bucket, error.key) == (orders.bucket.name, "acme.1")
            if marker is None:
                assert error.marker is None
            else:
                assert error.marker is not None
                assert (error.marker.revision, error.marker.key) == (marker, ("acme", 1))
                assert error.marker.reason == ("deleted" if mark == orders.delete else "purged")
        assert await orders.get_or_none("acme", 1) is None
        assert not await orders.exists("acme", 1)
        assert await orders.get_many([("acme", 1)]) == [None]


async def r3_a_revision_is_exactly_that(harness: Harness) -> None:
    """Older revisions come back as they were; another key's, a marker's, an evicted one and one to come never do."""
    orders = await new_orders(harness, history=3)
    first = await orders.save(Order(tenant="acme", id=1, note="1"))
    kept = [await orders.save(Order(tenant="acme", id=1, note=note), expect=ANY) for note in ("2", "3")]
    other = await orders.save(Order(tenant="acme", id=2, note="other"))
    assert [(await orders.get("acme", 1, revision=revision)).note for revision in (first, *kept)] == ["1", "2", "3"]
    entry = await orders.entry("acme", 1, revision=first)
    assert (entry.revision, entry.value.note, entry.key) == (first, "1", ("acme", 1))
    marker = await orders.delete("acme", 1)
    # The marker has pushed the first revision out.
    for revision in (first, other, marker, marker + 1, 10**9):
        for attempt in (
            partial(orders.get, "acme", 1, revision=revision),
            partial(orders.entry, "acme", 1, revision=revision),
        ):
            with raises(KeyNotFoundError):
                await attempt()
    with raises(KeyNotFoundError) as raised:
        await orders.get("acme", 1, revision=marker)
    assert raised.error.marker is not None
    assert (await orders.get("acme", 1, revision=kept[-1])).note == "3"
    assert (await orders.get("acme", 2, revision=other)).note == "other"


async def r4_history_is_every_kept_change(harness: Harness) -> None:
    """Entries and markers of this key alone, oldest first, at most as many as declared; none of an unknown key."""
    orders = await new_orders(harness, history=4)
    assert await orders.history("acme", 1) == []
    told: list[tuple[int, str]] = []
    for round_ in range(3):
        told.append((await orders.save(Order(tenant="acme", id=1, note=f"{round_}")), "stored"))
        await orders.save(Order(tenant="acme", id=2), expect=ANY)
        assert [(event.revision, reason(event)) for event in await orders.history("acme", 1)] == told[-4:]
        told.append((await orders.delete("acme", 1), "deleted"))
        history = await orders.history(tenant="acme", id=1)
        assert [(event.revision, reason(event)) for event in history] == told[-4:]
        assert all((event.key, event.raw_key) == (("acme", 1), "acme.1") for event in history)
        assert all(event.bucket == orders.bucket.name for event in history)
        assert [event.value.note for event in history if isinstance(event, Entry)][-1] == f"{round_}"
    assert await orders.history("acme", 3) == []


async def r4_history_goes_to_64(harness: Harness) -> None:
    """A bucket may keep 64 changes of a key; the 65th pushes the first one out."""
    orders = await new_orders(harness, history=64)
    order = Order(tenant="acme", id=1)
    revisions: list[int] = []
    for number in range(65):
        order.note = f"{number}"
        revisions.append(await orders.save(order))
        if number == 63:
            assert [event.revision for event in await orders.history("acme", 1)] == revisions
    history = await orders.history("acme", 1)
    assert [event.revision for event in history] == revisions[1:]
    assert [event.value.note for event in history if isinstance(event, Entry)] == [f"{n}" for n in range(1, 65)]
    assert (await orders.get("acme", 1, revision=revisions[1])).note == "1"
    with raises(KeyNotFoundError):
        await orders.get("acme", 1, revision=revisions[0])


async def r4_history_is_of_one_moment(harness: Harness) -> None:
    """While others write, each history is complete: the declared number of changes, none missing between two."""
    depth = 64
    orders = await new_orders(harness, history=depth)
    others = await elsewhere(harness, orders)
    numbers = count()

    async def write() -> None:
        orders = [Order(tenant="acme", id=1, note=f"{next(numbers)} {'x' * 2000}") for _ in range(16)]
        # One connection keeps their order.
        await asyncio.gather(*(others.save(order, expect=ANY) for order in orders))

    for _ in range(depth // 16):
        await write()
    async with writing(write):
        for _ in range(40):
            history = await orders.history("acme", 1)
            notes = [int(event.value.note.split()[0]) for event in history if isinstance(event, Entry)]
            assert notes == list(range(notes[0], notes[0] + depth))


async def r4_history_shows_nothing_that_a_purge_erased(harness: Harness) -> None:
    """While others write and purge, a history begins with the purge, or holds none."""
    orders = await new_orders(harness, history=64)
    others = await elsewhere(harness, orders)
    numbers = count()

    async def write() -> None:
        orders = [Order(tenant="acme", id=1, note=f"{next(numbers)} {'x' * 2000}") for _ in range(40)]
        await asyncio.gather(*(others.save(order, expect=ANY) for order in orders))
        await others.purge("acme", 1)

    await write()
    async with writing(write):
        for _ in range(40):
            history = await orders.history("acme", 1)
            assert "purged" not in [reason(event) for event in history[1:]]
            notes = [int(event.value.note.split()[0]) for event in history if isinstance(event, Entry)]
            assert notes == list(range(notes[0], notes[0] + len(notes)) if notes else [])


@asynccontextmanager
async def writing(write: Callable[[], Awaitable[object]]) -> AsyncGenerator[None, None]:
    """Write again and again while the block runs."""
    going_on = True

    async def write_on() -> None:
        while going_on:
            await write()

    writer = asyncio.create_task(write_on())
    try:
        yield
    finally:
        going_on = False
        await writer


async def r5_lists_have_every_live_key_once(harness: Harness) -> None:
    """`find`, `keys` and `count`, over any subset of the key fields, beyond one batch, without what was deleted."""
    orders = await new_orders(harness, history=2)
    await check_lists(orders, {})
    # More than the server or kvorm handles at a time.
    await orders.save_many([Order(tenant="acme", id=number) for number in range(300)])
    await orders.save_many([Order(tenant=tenant, id=number) for tenant in ("b.b", "*", ">") for number in range(3)])
    await orders.save_many([await orders.get("acme", number) for number in range(3)])
    await orders.delete("acme", 5)
    await orders.purge("b.b", 1)
    live = {("acme", number) for number in range(300)} - {("acme", 5)}
    live |= {(tenant, number) for tenant in ("b.b", "*", ">") for number in range(3)}
    live -= {("b.b", 1)}
    await check_lists(orders, {key: Order(tenant=key[0], id=key[1]) for key in live})
    with raises(InvalidKeyError):
        await orders.count(number=1)
    with raises(InvalidKeyError):
        await anext(orders.find(note=""))
    with raises(InvalidKeyError):
        await anext(orders.keys(id="one"))


async def check_lists(orders: Repository[Order], live: dict[tuple[str, int], Order]) -> None:
    """Compare all lists with what must be live."""
    filters: list[dict[str, Any]] = [{}, {"tenant": "acme"}, {"tenant": "*"}, {"id": 1}, {"tenant": "b.b", "id": 2}]
    filters += [{"tenant": "nobody"}, {"tenant": "acme", "id": "2"}, {"tenant": "b.b", "id": 1}]
    for one in filters:
        wanted = {
            key: order
            for key, order in live.items()
            if one.get("tenant", key[0]) == key[0] and int(one.get("id", key[1])) == key[1]
        }
        found = await listed(orders.find(**one))
        assert {(order.tenant, order.id): order for order in found} == wanted
        assert len(found) == len(wanted)
        keys = await listed(orders.keys(**one))
        assert set(keys) == set(wanted)
        assert len(keys) == len(wanted)
        assert await orders.count(**one) == len(wanted)


async def r5_a_key_of_a_list_can_be_read(harness: Harness) -> None:
    """`get(*key)` takes what `keys` yields; leaving a list early does no harm."""
    orders = await new_orders(harness)
    await orders.save_many([Order(tenant="a.*", id=number) for number in range(5)])
    async for key in orders.keys():
        assert (await orders.get(*key)).tenant == "a.*"
    async for order in orders.find():
        await orders.save(order)
        break
    assert await orders.get_many(await listed(orders.keys(id=3))) == [Order(tenant="a.*", id=3)]


async def r6_get_many_answers_in_order(harness: Harness) -> None:
    """None where nothing live is, doubles twice, beyond one batch."""
    orders = await new_orders(harness)
    await orders.save_many([Order(tenant="acme", id=number) for number in range(280)])
    await orders.delete("acme", 7)
    asked: list[tuple[str, int | str]] = [
        *(("acme", number) for number in range(300, -1, -1)),
        ("acme", 3),
        ("nobody", 1),
        ("acme", "3"),
    ]
    found = await orders.get_many(asked)
    assert len(found) == len(asked)
    for (tenant, number), order in zip(asked, found, strict=True):
        id = int(number)
        live = tenant == "acme" and id < 280 and id != 7
        assert order == (Order(tenant=tenant, id=id) if live else None)
    assert await orders.get_many([]) == []
    with raises(InvalidKeyError):
        await orders.get_many([("acme",)])
