"""Deleting, purging, restoring."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from kvorm.entry import ANY, Entry, Marker
from kvorm.errors import (
    DecodeError,
    KeyExistsError,
    KeyNotFoundError,
    RevisionMismatchError,
)
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, raises
from kvorm.testing.contract.models import Order, elsewhere, new_orders


async def w4_delete_expects_the_revision_of_the_object(harness: Harness) -> None:
    """An object that was read is deleted only if nobody wrote since; the marker's revision comes back."""
    for verb in ("delete", "purge"):
        orders = await new_orders(harness, history=5)
        mark = orders.delete if verb == "delete" else orders.purge
        order = Order(tenant="acme", id=1)
        await orders.save(order)
        theirs = await (await elsewhere(harness, orders)).get("acme", 1)
        await orders.save(order)
        with raises(RevisionMismatchError):
            await mark(theirs)
        assert await orders.exists("acme", 1)
        marker = await mark(order)
        assert [one.revision for one in await harness.messages(orders.bucket.name)][-1] == marker
        assert not await orders.exists("acme", 1)


async def w4_delete_of_an_object_never_read(harness: Harness) -> None:
    """KeyExistsError if the key lives, KeyNotFoundError if not; nothing is written either way."""
    orders = await new_orders(harness, history=5)
    for mark in (orders.delete, orders.purge):
        await orders.save(Order(tenant="acme", id=1), expect=ANY)
        stored = await harness.messages(orders.bucket.name)
        with raises(KeyExistsError):
            await mark(Order(tenant="acme", id=1))
        with raises(KeyNotFoundError):
            await mark(Order(tenant="acme", id=2))
        assert await harness.messages(orders.bucket.name) == stored
        await orders.delete("acme", 1)
        stored = await harness.messages(orders.bucket.name)
        with raises(KeyNotFoundError) as raised:
            await mark(Order(tenant="acme", id=1))
        assert raised.error.marker is not None
        assert raised.error.marker.reason == "deleted"
        assert await harness.messages(orders.bucket.name) == stored


async def w4_delete_by_key_takes_what_is_there(harness: Harness) -> None:
    """By key, and by the names of its fields, whatever is live goes; where nothing is, nothing is written."""
    orders = await new_orders(harness, history=5)
    for mark in (orders.delete, orders.purge):
        first = await orders.save(Order(tenant="acme", id=1), expect=ANY)
        assert await mark("acme", 1) > first
        second = await orders.save(Order(tenant="acme", id=1))
        assert await mark(tenant="acme", id="1") > second
        with raises(KeyNotFoundError):
            await orders.get("acme", 1)
        stored = await harness.messages(orders.bucket.name)
        with raises(KeyNotFoundError):
            await orders.delete("acme", 1)
        with raises(KeyNotFoundError):
            await mark("acme", 2)
        assert await harness.messages(orders.bucket.name) == stored


async def w5_delete_by_key_never_conflicts(harness: Harness) -> None:
    """While others write, a delete by key tries again until it gets between them; never a ConflictError."""
    orders = await new_orders(harness, history=2)
    others = await elsewhere(harness, orders)
    for number in range(20):
        await others.save(Order(tenant="acme", id=1), expect=ANY)
        mark = orders.purge if number % 2 else orders.delete
        writes = [others.save(Order(tenant="acme", id=1), expect=ANY) for _ in range(3)]
        marker, *revisions = await asyncio.gather(mark("acme", 1), *writes)
        assert len({marker, *revisions}) == 4
        assert await orders.exists("acme", 1) == (max(revisions) > marker)


async def w6_a_deleted_object_can_be_saved_again(harness: Harness) -> None:
    """It carries the marker's revision: its save creates it anew, unless somebody wrote meanwhile."""
    orders = await new_orders(harness, history=5)
    for mark in (orders.delete, orders.purge):
        order = Order(tenant="acme", id=1)
        await orders.save(order)
        marker = await mark(order)
        assert revision_of(order) == marker
        assert await orders.save(order) > marker
        await mark(order)
        await (await elsewhere(harness, orders)).save(Order(tenant="acme", id=1, note="theirs"))
        with raises(RevisionMismatchError):
            await orders.save(order)
        assert (await orders.get("acme", 1)).note == "theirs"
        await mark("acme", 1)


async def w4_a_deleted_object_is_not_deleted_again(harness: Harness) -> None:
    """KeyNotFoundError, and no second marker."""
    orders = await new_orders(harness, history=5)
    for mark in (orders.delete, orders.purge):
        order = Order(tenant="acme", id=1)
        await orders.save(order)
        await mark(order)
        stored = await harness.messages(orders.bucket.name)
        with raises(KeyNotFoundError):
            await orders.delete(order)
        assert await harness.messages(orders.bucket.name) == stored


async def r4_delete_keeps_the_history_and_purge_erases_it(harness: Harness) -> None:
    """After a delete older revisions can be read; after a purge the marker is all there is, also of a deleted key."""
    orders = await new_orders(harness, history=5)
    order = Order(tenant="acme", id=1, note="first")
    first = await orders.save(order)
    deleted = await orders.delete("acme", 1)
    assert [event.revision for event in await orders.history("acme", 1)] == [first, deleted]
    assert (await orders.get("acme", 1, revision=first)).note == "first"
    purged = await orders.purge("acme", 1)
    history = await orders.history("acme", 1)
    assert [(event.revision, reason(event)) for event in history] == [(purged, "purged")]
    with raises(KeyNotFoundError):
        await orders.get("acme", 1, revision=first)
    stored = await harness.messages(orders.bucket.name)
    with raises(KeyNotFoundError) as raised:
        await orders.purge("acme", 1)
    assert raised.error.marker is not None
    assert raised.error.marker.reason == "purged"
    assert await harness.messages(orders.bucket.name) == stored


async def w4_restore_stores_an_old_revision_anew(harness: Harness) -> None:
    """The very bytes of that revision become the newest, over a value and over a marker."""
    orders = await new_orders(harness, history=10)
    order = Order(tenant="acme", id=1, note="first")
    first = await orders.save(order)
    order.note = "second"
    second = await orders.save(order)
    restored = await orders.restore("acme", 1, revision=first)
    assert restored > second
    stored = {one.revision: one.data for one in await harness.messages(orders.bucket.name)}
    assert stored[restored] == stored[first]
    assert (await orders.get("acme", 1)).note == "first"
    with raises(RevisionMismatchError):
        await orders.save(order)
    deleted = await orders.delete("acme", 1)
    again = await orders.restore(tenant="acme", id=1, revision=second)
    assert again > deleted
    assert (await orders.get("acme", 1)).note == "second"


async def w4_restore_refuses_what_is_no_revision_of_the_key(harness: Harness) -> None:
    """Another key's revision, a marker, one to come, one that does not decode: nothing is stored."""
    orders = await new_orders(harness, history=10)
    first = await orders.save(Order(tenant="acme", id=1))
    other = await orders.save(Order(tenant="acme", id=2))
    invalid = await harness.write(orders.bucket.name, "acme.1", b"no json")
    marker = await orders.delete("acme", 1)
    stored = await harness.messages(orders.bucket.name)
    for revision in (other, marker, marker + 100):
        with raises(KeyNotFoundError):
            await orders.restore("acme", 1, revision=revision)
    with raises(DecodeError):
        await orders.restore("acme", 1, revision=invalid)
    assert await harness.messages(orders.bucket.name) == stored
    assert await orders.restore("acme", 1, revision=first) > marker


def reason(event: Entry[Any] | Marker) -> Literal["stored", "deleted", "purged", "expired"]:
    """Return what an event of a history or a watch says about its key."""
    return event.reason if isinstance(event, Marker) else "stored"
