"""E1, E2, and what an expired key is to everybody else."""

from __future__ import annotations

from datetime import timedelta

from kvorm.entry import ABSENT, ANY, Entry, Marker
from kvorm.errors import KeyNotFoundError, RevisionMismatchError
from kvorm.repository import Repository
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, eventually, listed, raises
from kvorm.testing.contract.marks import reason
from kvorm.testing.contract.models import Order, new_orders
from kvorm.testing.contract.watching import caught_up, latest, take, until_caught_up

TTL = timedelta(seconds=1)
LONG_MARKER_TTL = timedelta(minutes=10)


async def _expired(harness: Harness, orders: Repository[Order], *ids: int) -> None:
    """Let the lifetime of what is stored end, and wait until the server has put markers there."""
    await harness.let_pass(TTL)
    for id in ids:

        async def marked(id: int = id) -> bool:
            return [reason(event) for event in await orders.history("acme", id)] == ["expired"]

        await eventually(marked)


async def e1_a_lifetime_ends_in_a_marker(harness: Harness) -> None:
    """An expired key has a Marker with reason "expired", is not found, not listed, and can be created again."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=LONG_MARKER_TTL)
    order = Order(tenant="acme", id=1)
    first = await orders.save(order)
    async with orders.watch() as watch:
        await caught_up(watch)
        await _expired(harness, orders, 1)
        (event,) = await take(watch, 1)
    assert isinstance(event, Marker)
    assert (event.key, event.reason) == (("acme", 1), "expired")
    with raises(KeyNotFoundError) as raised:
        await orders.get("acme", 1)
    assert raised.error.marker == event
    assert event.revision > first
    assert [(one.revision, reason(one)) for one in await orders.history("acme", 1)] == [(event.revision, "expired")]
    assert await orders.get_or_none("acme", 1) is None
    assert await orders.get_many([("acme", 1)]) == [None]
    assert await orders.count() == 0
    assert await listed(orders.keys()) == []
    assert await listed(orders.find()) == []
    events = latest(await until_caught_up(orders.watch()))
    assert [reason(one) for one in events if isinstance(one, Entry | Marker)] == ["expired"]
    with raises(KeyNotFoundError):
        await orders.delete("acme", 1)
    with raises(KeyNotFoundError):
        await orders.delete(Order(tenant="acme", id=1))
    with raises(RevisionMismatchError) as mismatch:
        await orders.save(order)
    assert mismatch.error.current == event
    assert revision_of(order) == first
    # W4: an expired key counts as absent.
    assert await orders.save(Order(tenant="acme", id=1, note="anew"), expect=ABSENT) > event.revision
    assert (await orders.get("acme", 1)).note == "anew"


async def e1_an_expired_key_can_be_created_in_every_way(harness: Harness) -> None:
    """By a first save, by `get_or_create`, with ANY, and from the marker's revision."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=LONG_MARKER_TTL, history=3)
    for id in range(4):
        await orders.save(Order(tenant="acme", id=id))
    await _expired(harness, orders, *range(4))
    (marker,) = await orders.history("acme", 3)
    writes = [
        orders.save(Order(tenant="acme", id=0)),
        orders.get_or_create(Order(tenant="acme", id=1)),
        orders.save(Order(tenant="acme", id=2), expect=ANY),
        orders.save(Order(tenant="acme", id=3), expect=marker.revision),
    ]
    for write in writes:
        await write
    assert await orders.count() == 4


async def e1_what_is_created_anew_expires_as_well(harness: Harness) -> None:
    """Over the marker of its expiry, which the bucket still keeps: there is one marker again, a newer one."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=LONG_MARKER_TTL, history=3)
    await orders.save(Order(tenant="acme", id=1))
    await _expired(harness, orders, 1)
    revision = await orders.save(Order(tenant="acme", id=1, note="anew"))
    assert len(await orders.history("acme", 1)) == 2
    await _expired(harness, orders, 1)
    (marker,) = await orders.history("acme", 1)
    assert marker.revision > revision
    assert [one.revision for one in await harness.messages(orders.bucket.name)] == [marker.revision]


async def e2_an_older_revision_never_comes_back(harness: Harness) -> None:
    """With a history the whole of it goes, nothing of it is found again under any name."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=LONG_MARKER_TTL, history=5)
    order = Order(tenant="acme", id=1)
    revisions = [await orders.save(order) for _ in range(3)]
    await _expired(harness, orders, 1)
    history = await orders.history("acme", 1)
    assert [reason(event) for event in history] == ["expired"]
    assert history[0].revision > revisions[-1]
    for revision in revisions:
        with raises(KeyNotFoundError):
            await orders.get("acme", 1, revision=revision)
        with raises(KeyNotFoundError):
            await orders.restore("acme", 1, revision=revision)
    assert [one.revision for one in await harness.messages(orders.bucket.name)] == [history[0].revision]


async def e2_a_deleted_key_does_not_come_back(harness: Harness) -> None:
    """When a marker itself expires, the key stays away, and is created like any other."""
    orders = await new_orders(harness, ttl=TTL, marker_ttl=TTL, history=3)
    await orders.save(Order(tenant="acme", id=1))
    await orders.delete("acme", 1)
    await harness.let_pass(TTL)

    async def forgotten() -> bool:
        assert not await orders.exists("acme", 1)
        await harness.let_pass(TTL / 4)
        return not await orders.history("acme", 1)

    await eventually(forgotten)
    assert await harness.messages(orders.bucket.name) == []
    with raises(KeyNotFoundError) as raised:
        await orders.get("acme", 1)
    assert raised.error.marker is None
    await orders.save(Order(tenant="acme", id=1))
