"""What holds over a network that fails: W1, W3, W11, S3 and S6. They need a proxy in front of the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from kvorm.entry import ANY, CaughtUp, Entry
from kvorm.errors import KeyNotFoundError, StoreTimeoutError, StoreUnavailableError
from kvorm.repository import Repository
from kvorm.testing.contract.harness import NetworkHarness, Stored, eventually, raises
from kvorm.testing.contract.models import Order, new_bucket, orders_in
from kvorm.testing.proxy import Direction
from kvorm.watch import Watch

_SHORT = timedelta(seconds=1)


async def flaky_orders(harness: NetworkHarness, *, timeout: timedelta = timedelta(seconds=10)) -> Repository[Order]:
    """Return orders in a fresh bucket, one of them stored, through a store behind the proxy."""
    store = await harness.open_behind_proxy(timeout=timeout)
    orders = orders_in(store, new_bucket(harness, history=10))
    await orders.save(Order(tenant="acme", id=0))
    # A cluster may tell that the bucket was made after the store opened it, which makes the store look anew: done here.
    await orders.exists("acme", 0)
    return orders


async def stored(harness: NetworkHarness, orders: Repository[Order]) -> list[Stored]:
    """Return all but that first one."""
    return (await harness.messages(orders.bucket.name))[1:]


async def w1_a_write_whose_acknowledgement_is_lost_is_stored_once(harness: NetworkHarness) -> None:
    """A new object, a change and a delete: each stored once, at the revision that the call returned."""
    orders = await flaky_orders(harness)
    order = Order(tenant="acme", id=1)
    for write in (orders.save, orders.save, orders.delete):
        before = len(await stored(harness, orders))

        async def has_arrived(before: int = before) -> bool:
            return len(await stored(harness, orders)) > before

        harness.proxy.swallow(Direction.TO_CLIENT)
        writing = asyncio.create_task(write(order))
        await eventually(has_arrived)
        harness.proxy.cut()
        harness.proxy.swallow()
        revision = await writing
        messages = await stored(harness, orders)
        assert len(messages) == before + 1
        assert messages[-1].revision == revision


async def w3_a_write_of_which_nobody_knows_is_said_to_be_open(harness: NetworkHarness) -> None:
    """With ANY nothing tells whether it arrived: StoreTimeoutError, and it is not sent again."""
    orders = await flaky_orders(harness, timeout=_SHORT)
    harness.proxy.swallow(Direction.TO_CLIENT)
    with raises(StoreTimeoutError):
        await orders.save(Order(tenant="acme", id=1), expect=ANY)
    harness.proxy.swallow()
    harness.proxy.cut()
    await reachable(orders)
    assert len(await stored(harness, orders)) == 1


async def w3_a_cancelled_write_does_not_conflict_with_itself(harness: NetworkHarness) -> None:
    """The object knows its own write again, which arrived while nobody waited for it."""
    orders = await flaky_orders(harness)
    order = Order(tenant="acme", id=1)

    async def has_arrived() -> bool:
        return len(await stored(harness, orders)) == 1

    harness.proxy.swallow(Direction.TO_CLIENT)
    saving = asyncio.create_task(orders.save(order))
    await eventually(has_arrived)
    saving.cancel()
    with suppress(asyncio.CancelledError):
        await saving
    harness.proxy.swallow()
    harness.proxy.cut()
    order.note = "again"
    await orders.save(order)
    assert (await orders.get("acme", 1)).note == "again"
    await orders.delete(order)


async def w11_what_was_not_stored_is_not_sent_later(harness: NetworkHarness) -> None:
    """A write that could not be sent raises within its budget, and never arrives."""
    orders = await flaky_orders(harness, timeout=_SHORT)
    harness.proxy.swallow(*Direction)
    harness.proxy.cut()
    await asyncio.sleep(0.1)  # until the client has noticed; what it is told to send from here on it cannot
    order = Order(tenant="acme", id=1)
    with raises(StoreUnavailableError):
        await orders.save(order)
    with raises(StoreUnavailableError):
        await orders.save(Order(tenant="acme", id=2), expect=ANY)
    harness.proxy.swallow()
    harness.proxy.cut()
    await reachable(orders)
    assert not await stored(harness, orders)
    with raises(KeyNotFoundError):
        await orders.get("acme", 1)
    await orders.save(order)


async def s3_a_watch_misses_nothing_when_its_connection_breaks(harness: NetworkHarness) -> None:
    """Cut again and again while another client writes: each revision is delivered, in order and once."""
    orders = await flaky_orders(harness)
    direct = orders_in(await harness.open(), orders.bucket)
    async with orders.watch() as watch:
        assert isinstance(await anext(watch), Entry)
        assert isinstance(await anext(watch), CaughtUp)
        written: list[int] = []
        for number in range(1, 31):
            written.append(await direct.save(Order(tenant="acme", id=number)))
            if number % 10 == 5:
                harness.proxy.cut()
        delivered = await revisions(watch, last=written[-1])
    assert delivered == written


async def s6_a_silent_connection_is_noticed(harness: NetworkHarness) -> None:
    """Half open: no byte comes any more and nobody says so. The watch goes on over another connection."""
    orders = await flaky_orders(harness)
    direct = orders_in(await harness.open(), orders.bucket)
    async with orders.watch(updates_only=True) as watch:
        await anext(watch)
        harness.proxy.strand()
        written = [await direct.save(Order(tenant="acme", id=number)) for number in range(1, 4)]
        assert await revisions(watch, last=written[-1]) == written


async def revisions(watch: Watch[Order], *, last: int) -> list[int]:
    """Return the revisions of the entries that come, up to the last one; fail where it does not come."""
    found: list[int] = []

    async def read() -> None:
        async for event in watch:
            if isinstance(event, Entry):
                found.append(event.revision)
                if event.revision == last:
                    return

    async with asyncio.timeout(15):
        await read()
    return found


async def reachable(orders: Repository[Order]) -> None:
    """Wait until the store has its server again."""

    async def answers() -> bool:
        with suppress(StoreUnavailableError, StoreTimeoutError):
            return await orders.exists("acme", 0)
        return False

    await eventually(answers)
