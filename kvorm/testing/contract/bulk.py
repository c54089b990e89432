"""W9: many objects saved or deleted by one call."""

from __future__ import annotations

import asyncio
from typing import Any

from kvorm.entry import ANY
from kvorm.errors import (
    BulkError,
    EncodeError,
    InvalidKeyError,
    KeyExistsError,
    KeyNotFoundError,
    RevisionMismatchError,
    ValueTooLargeError,
)
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, raises
from kvorm.testing.contract.models import Order, elsewhere, new_orders


async def w9_each_item_is_checked_and_stamped(harness: Harness) -> None:
    """Revisions come in the order of the items, objects carry them, and the next call is checked against them."""
    orders = await new_orders(harness)
    items = [Order(tenant="acme", id=number) for number in range(150)]
    revisions = await orders.save_many(items)
    assert [revision_of(item) for item in items] == revisions
    assert len(set(revisions)) == len(items)
    assert {one.raw_key: one.revision for one in await harness.messages(orders.bucket.name)} == {
        f"acme.{item.id}": revision for item, revision in zip(items, revisions, strict=True)
    }
    again = await orders.save_many(items)
    assert min(again) > max(revisions)
    assert await orders.save_many([]) == []


async def w9_an_item_fails_alone(harness: Harness) -> None:
    """The error names every item that failed, with its cause, and every one that is stored, with its revision."""
    orders = await new_orders(harness, max_value_bytes=1000)
    stale, exists = Order(tenant="acme", id=1), Order(tenant="acme", id=2)
    await orders.save(stale)
    others = await elsewhere(harness, orders)
    theirs = await others.get("acme", 1)
    await others.save(theirs)
    await others.save(Order(tenant="acme", id=2, note="theirs"))
    items: list[Any] = [
        Order(tenant="acme", id=10),
        stale,
        exists,
        Order(tenant="acme", id=3, note="x" * 1000),
        Order.model_construct(tenant="acme", id=4, total="many"),
        Order(tenant="x" * 2000, id=5),
        Order(tenant="acme", id=11),
    ]
    with raises(BulkError) as raised:
        await orders.save_many(items)
    error = raised.error
    assert {index: type(one) for index, one in error.failed.items()} == {
        1: RevisionMismatchError,
        2: KeyExistsError,
        3: ValueTooLargeError,
        4: EncodeError,
        5: InvalidKeyError,
    }
    assert error.saved == {0: revision_of(items[0]), 6: revision_of(items[6])}
    for index in error.saved:
        assert (await orders.entry("acme", items[index].id)).revision == error.saved[index]
    assert [revision_of(items[index]) for index in (2, 3, 4, 5)] == [None] * 4
    assert revision_of(stale) != revision_of(theirs)
    assert (await orders.get("acme", 2)).note == "theirs"
    assert set(error.exceptions) == set(error.failed.values())


async def w9_twins_send_nothing(harness: Harness) -> None:
    """Two items with the same key: both are named, nothing at all is sent."""
    orders = await new_orders(harness)
    twin = Order(tenant="acme", id=2)
    items = [Order(tenant="acme", id=1), twin, Order(tenant="acme", id=3), Order(tenant="acme", id=2), twin]
    with raises(BulkError) as raised:
        await orders.save_many(items)
    assert set(raised.error.failed) == {1, 3, 4}
    assert raised.error.saved == {}
    with raises(BulkError):
        await orders.save_many(items, expect=ANY)
    assert await orders.count() == 0
    assert await harness.messages(orders.bucket.name) == []
    assert [revision_of(item) for item in items] == [None] * len(items)


async def w9_a_cancelled_call_tells_the_truth(harness: Harness) -> None:
    """Each object carries the revision it is stored at; what is open does not conflict with itself afterwards."""
    orders = await new_orders(harness)
    items = [Order(tenant="acme", id=number) for number in range(600)]
    saving = asyncio.create_task(orders.save_many(items))
    while not any(revision_of(item) for item in items):  # noqa: ASYNC110 (whoever saves must get its turn)
        await asyncio.sleep(0)
    saving.cancel()
    await asyncio.wait([saving])
    assert saving.cancelled()
    stamped = {item.id: revision_of(item) for item in items if revision_of(item) is not None}
    stored = {int(one.raw_key.split(".")[1]): one.revision for one in await harness.messages(orders.bucket.name)}
    assert stamped
    assert stamped.items() <= stored.items()
    revisions = await orders.save_many(items)
    assert [revision_of(item) for item in items] == revisions
    assert await orders.count() == len(items)


async def w9_objects_and_keys_are_deleted_together(harness: Harness) -> None:
    """Objects are checked, keys are not; `.saved` has the markers' revisions."""
    orders = await new_orders(harness)
    items = [Order(tenant="acme", id=number) for number in range(100)]
    await orders.save_many(items)
    markers = await orders.delete_many([*items[:50], *(("acme", number) for number in range(50, 100))])
    assert {one.revision for one in await harness.messages(orders.bucket.name)} == set(markers)
    assert [revision_of(item) for item in items[:50]] == markers[:50]
    assert await orders.count() == 0
    assert await orders.delete_many([]) == []


async def w9_a_delete_fails_alone(harness: Harness) -> None:
    """A conflict, a missing key, one that cannot be formed, and what is neither an object nor a key."""
    orders = await new_orders(harness)
    stale, fine = Order(tenant="acme", id=1), Order(tenant="acme", id=2)
    await orders.save_many([stale, fine, Order(tenant="acme", id=3)])
    others = await elsewhere(harness, orders)
    await others.save(await others.get("acme", 1))
    items: list[Any] = [stale, fine, ("acme", 3), ("acme", 4), ("acme", "no number"), "acme"]
    with raises(BulkError) as raised:
        await orders.delete_many(items)
    assert {index: type(one) for index, one in raised.error.failed.items()} == {
        0: RevisionMismatchError,
        3: KeyNotFoundError,
        4: InvalidKeyError,
        5: InvalidKeyError,
    }
    markers = {one.raw_key: one.revision for one in await harness.messages(orders.bucket.name) if not one.data}
    assert {"acme.2": raised.error.saved[1], "acme.3": raised.error.saved[2]} == markers
    assert await orders.count() == 1


async def w9_twins_delete_nothing(harness: Harness) -> None:
    """Also where one is an object and the other its key."""
    orders = await new_orders(harness)
    order = Order(tenant="acme", id=1)
    await orders.save_many([order, Order(tenant="acme", id=2)])
    with raises(BulkError) as raised:
        await orders.delete_many([order, ("acme", 2), ("acme", 1)])
    assert set(raised.error.failed) == {0, 2}
    assert await orders.count() == 2
