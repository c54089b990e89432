"""R5 beyond the plain lists: while others write, in pages, without values, and only so many."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from kvorm.backends.message import CODEC
from kvorm.entry import ANY, Entry, Page
from kvorm.errors import BucketNotFoundError, DecodeError, KvormError
from kvorm.model import Mapping
from kvorm.repository import Repository
from kvorm.testing.contract.harness import Attempt, Harness, eventually, listed, raises
from kvorm.testing.contract.models import Note, Order, elsewhere, new_notes, new_orders, notes_in

KEYS = 40
CALLS = 12


async def r5_lists_are_exact_while_others_write(harness: Harness) -> None:
    """What lives throughout is in each list once, what never lived is in none; at any history."""
    for history in (1, 10):
        await check_under_fire(await new_orders(harness, history=history), harness)


async def check_under_fire(orders: Repository[Order], harness: Harness) -> None:
    """List again and again while one client rewrites what lives, and another makes and erases other keys."""
    await orders.save_many([Order(tenant="a", id=number) for number in range(KEYS)])
    await orders.save_many([Order(tenant="b", id=number) for number in range(KEYS)])
    await orders.delete_many([("b", number) for number in range(KEYS)])
    rewriting, flickering = await elsewhere(harness, orders), await elsewhere(harness, orders)
    over = False

    async def rewrite() -> None:
        for number in count():
            if over:
                return
            await rewriting.save_many([Order(tenant="a", id=number % KEYS + one) for one in range(3)], expect=ANY)

    async def flicker() -> None:
        for number in count():
            if over:
                return
            key = ("c", number % KEYS)
            await flickering.save(Order(tenant=key[0], id=key[1]), expect=ANY)
            erase = flickering.purge if number % 2 else flickering.delete
            await erase(*key)

    writers = [asyncio.create_task(rewrite()), asyncio.create_task(flicker())]
    try:
        throughout = {("a", number) for number in range(KEYS)}
        # The rewriting goes a little beyond these keys.
        sometimes = throughout | {("a", KEYS), ("a", KEYS + 1)} | {("c", number) for number in range(KEYS)}
        for _ in range(CALLS):
            found = [(order.tenant, order.id) for order in await listed(orders.find())]
            for keys in (found, await listed(orders.keys()), [head.key async for head in orders.heads()]):
                assert len(keys) == len(set(keys))
                assert throughout <= set(keys) <= sometimes
            assert len(throughout) <= await orders.count() <= len(sometimes)
            assert await orders.count(tenant="b") == 0
            assert set(await listed(orders.keys(tenant="a"))) - throughout <= {("a", KEYS), ("a", KEYS + 1)}
    finally:
        over = True
        await asyncio.gather(*writers)


async def r5_a_list_may_be_limited_and_narrowed(harness: Harness) -> None:
    """`limit` and `where`, alone and together."""
    orders = await new_orders(harness)
    await orders.save_many([Order(tenant="acme", id=number, note="x" * number) for number in range(150)])
    everything = {("acme", number) for number in range(150)}
    for limit in (1, 7, 149, 150, 151):
        found = [(order.tenant, order.id) for order in await listed(orders.find(limit=limit))]
        for keys in (found, await listed(orders.keys(limit=limit))):
            assert len(keys) == len(set(keys)) == min(limit, 150)
            assert set(keys) <= everything
    long = await listed(orders.find(where=lambda order: len(order.note) >= 100))
    assert {order.id for order in long} == set(range(100, 150))
    assert len(await listed(orders.find(where=lambda order: len(order.note) >= 100, limit=3))) == 3
    assert set(await listed(orders.keys(where=lambda key: key[1] % 50 == 0))) == {("acme", n) for n in (0, 50, 100)}
    for wrong in (0, -1, True, "1", 1.0):
        wrong_limit: Any = wrong
        attempts: list[Attempt] = [
            partial(anext, orders.find(limit=wrong_limit)),
            partial(anext, orders.keys(limit=wrong_limit)),
            partial(orders.page, limit=wrong_limit),
        ]
        for attempt in attempts:
            with raises(ValueError):
                await attempt()


async def r5_heads_tell_all_but_the_value(harness: Harness) -> None:
    """Key, revision, when it was written and the size of the value, as the entry has them."""
    orders = await new_orders(harness, history=3)
    for number in range(3):
        await orders.save_many([Order(tenant="acme", id=one, note="x" * number * one) for one in range(5)], expect=ANY)
    await orders.delete("acme", 3)
    heads = {head.key: head async for head in orders.heads()}
    assert set(heads) == {("acme", number) for number in (0, 1, 2, 4)}
    sizes = {stored.revision: len(stored.data) for stored in await harness.messages(orders.bucket.name)}
    for key, head in heads.items():
        entry = await orders.entry(*key)
        assert (head.revision, head.raw_key, head.bucket) == (entry.revision, entry.raw_key, entry.bucket)
        assert abs((head.written - entry.written).total_seconds()) < 0.001
        assert head.size_bytes == sizes[entry.revision]
    assert [head.key async for head in orders.heads(id=4)] == [("acme", 4)]


async def r5_pages_have_every_entry_once(harness: Harness) -> None:
    """In the order of the revisions, whatever the page size, over markers and older revisions."""
    for history in (1, 4):
        orders = await new_orders(harness, history=history)
        assert await orders.page(limit=3) == Page((), None)
        await orders.save_many([Order(tenant=tenant, id=number) for number in range(20) for tenant in ("a", "b")])
        await orders.save_many([Order(tenant="a", id=number) for number in range(5, 9)], expect=ANY)
        await orders.delete("a", 3)
        await orders.purge("a", 4)
        wanted = [await orders.entry("a", number) for number in (*range(3), *range(9, 20), *range(5, 9))]
        for limit in (1, 2, 7, 18, 19, 100):
            pages = await all_pages(orders, limit, tenant="a")
            assert [entry for page in pages for entry in page.entries] == wanted
            assert all(len(page.entries) == limit for page in pages[:-1])
            assert pages[-1].entries
        assert (await orders.page(limit=1, tenant="a")).values == [wanted[0].value]


async def all_pages(orders: Repository[Order], limit: int, **key_fields: Any) -> list[Page[Order]]:
    """Return all pages of a listing."""
    pages = [await orders.page(limit=limit, **key_fields)]
    while pages[-1].after is not None:
        pages.append(await orders.page(limit=limit, after=pages[-1].after, **key_fields))
    return pages


async def r5_what_is_written_between_pages_may_come_later(harness: Harness) -> None:
    """What is not written comes once all the same; what is written comes with what it is by then."""
    for history in (1, 4):
        orders = await new_orders(harness, history=history)
        await orders.save_many([Order(tenant="a", id=number) for number in range(12)])
        first = await orders.page(limit=5)
        await orders.save_many([Order(tenant="a", id=number, note="new") for number in (1, 7)], expect=ANY)
        await orders.delete("a", 8)
        await orders.save(Order(tenant="a", id=12))
        second = await orders.page(limit=100, after=first.after)
        assert [entry.value.id for entry in first.entries] == [0, 1, 2, 3, 4]
        assert [entry.value.id for entry in second.entries] == [5, 6, 9, 10, 11, 1, 7, 12]
        assert {entry.value.id for entry in second.entries if entry.value.note} == {1, 7}
        assert second.after is None


async def r5_what_a_page_reads_can_be_saved(harness: Harness) -> None:
    """Its objects carry the revisions they were read at."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="a", id=1))
    page = await orders.page(limit=1)
    (order,) = page.values
    (entry,) = page.entries
    assert isinstance(entry, Entry)
    order.note = "changed"
    assert await orders.save(order) > entry.revision


async def r7_invalid_bytes_hide_nobody_else_on_pages(harness: Harness) -> None:
    """A page raises, or leaves out what is invalid and is filled with others; keys of no model are passed over."""
    notes = await new_notes(harness)
    bucket = notes.bucket.name
    await notes.save_many([Note(id=f"n{number}") for number in range(3)])
    poison = await harness.write(bucket, "poison", b"{}")
    await harness.write(bucket, "_kvorm", b"{}")
    await harness.write(bucket, "other", b'{"id": "other"}', {CODEC: "unknown"})
    await notes.save(Note(id="last"))
    with raises(DecodeError) as raised:
        await notes.page(limit=10)
    assert raised.error.revision == poison
    assert [note.id for note in (await notes.page(limit=4, on_invalid="skip")).values] == ["n0", "n1", "n2", "last"]
    told: list[DecodeError] = []
    assert len((await notes.page(limit=10, on_invalid=told.append)).entries) == 4
    assert [error.key for error in told] == ["poison", "other"]
    # Keys and heads do not look at values.
    assert await notes.count() == 6
    assert set(await listed(notes.keys())) == {("n0",), ("n1",), ("n2",), ("last",), ("poison",), ("other",)}


async def r5_lists_of_a_model_that_shares_its_bucket(harness: Harness) -> None:
    """Each model has its own."""
    notes = await new_notes(harness)
    other = notes_in(await harness.open(), notes.bucket)
    store = await harness.open()
    prefixed = store.repository(Note, mapping=Mapping(notes.bucket, key=("id",), prefix="other"))
    await other.save_many([Note(id="a"), Note(id="b")])
    await prefixed.save(Note(id="c"))
    assert await other.count() == 2
    assert [head.key async for head in prefixed.heads()] == [("c",)]
    assert [entry.key for entry in (await prefixed.page(limit=5)).entries] == [("c",)]
    assert [entry.key for entry in (await other.page(limit=5)).entries] == [("a",), ("b",)]


async def r5_a_bucket_made_anew_ends_its_lists(harness: Harness) -> None:
    """What is found in another bucket is never taken for what was listed in this one."""
    notes = await new_notes(harness)
    await notes.save_many([Note(id=f"n{number}") for number in range(500)])
    found = [note async for note in notes.find(limit=1)]
    assert len(found) == 1
    list_ = notes.find()
    seen = [(await anext(list_)).id]
    await harness.delete(notes.bucket.name)
    await harness.create(notes.bucket)
    await harness.write(notes.bucket.name, "n499", b'{"id": "n499", "text": "of another life"}')
    with raises(BucketNotFoundError):
        async for note in list_:
            assert note.text == ""
            seen.append(note.id)
    assert len(seen) < 500
    assert [note.text async for note in notes.find()] == ["of another life"]


async def c3_lists_leave_nothing(harness: Harness) -> None:
    """Read to the end, left early or cancelled: no consumer and no task."""
    notes = await new_notes(harness)
    await notes.save_many([Note(id=f"n{number}") for number in range(200)])
    await listed(notes.keys())
    # What the harness itself asks with stays.
    await harness.consumers(notes.bucket.name)
    tasks = asyncio.all_tasks()
    for _ in range(20):
        await notes.count()
        async for _ in notes.keys():
            break
        async for _ in notes.find():
            break
        await listed(notes.heads())
        await notes.page(limit=3)
        counting = asyncio.create_task(notes.count())
        await asyncio.sleep(0)
        counting.cancel()
        with suppress(asyncio.CancelledError, KvormError):
            await counting

    async def is_quiet() -> bool:
        return not await harness.consumers(notes.bucket.name) and not asyncio.all_tasks() - tasks

    await eventually(is_quiet)
