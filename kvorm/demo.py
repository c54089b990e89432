"""A day in the life of an order, on a real server: the story that `kvorm demo` tells.

Each step is a function of its own that does one thing and returns what came of it; showing it is `cli.py`'s business.
"""

# nats-py types its own API in part only.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import kvorm
from kvorm import Bucket, ConflictError, Entry, Key, Marker, Model, NatsStore, Repository, Store
from kvorm.backends.local import wait_stopped


class Order(Model, bucket=Bucket("orders", history=10)):
    """An order of one tenant."""

    tenant: Key[str]
    number: Key[int]
    total: Decimal
    status: str = "new"


Orders: TypeAlias = Repository[Order]


async def save(shop: Orders) -> int:
    """Save an order: the key must be free, the revision comes back."""
    order = Order(tenant="acme", number=7, total=Decimal("9.90"))
    return await shop.save(order)


async def conflict(shop: Orders, warehouse: Orders) -> int:
    """Two writers read it, both change it: the second save is refused."""
    paid = await shop.get("acme", 7)
    packed = await warehouse.get("acme", 7)

    paid.status = "paid"
    await shop.save(paid)

    packed.status = "packed"
    return await warehouse.save(packed)


async def resolve(warehouse: Orders) -> Order:
    """Resolve it: read again and decide anew. update() repeats that until it holds."""

    def pack(order: Order) -> None:
        order.status += " and packed"

    return await warehouse.update("acme", 7, apply=pack)


async def old_revision(shop: Orders) -> Order:
    """Look at the order as it was first."""
    return await shop.get("acme", 7, revision=1)


async def history(shop: Orders) -> list[Entry[Order] | Marker]:
    """Look at its whole history."""
    return await shop.history("acme", 7)


async def plain_nats(store: Store, shop: Orders) -> Order:
    """Let another NATS client write: nats-py puts plain JSON, kvorm reads an Order."""
    assert isinstance(store, NatsStore)
    kv = await store.client.jetstream().key_value("orders")
    await kv.put("acme.8", b'{"tenant":"acme","number":8,"total":"3.50"}')

    return await shop.get("acme", 8)


async def watch(shop: Orders, warehouse: Orders) -> object:
    """Watch the orders of one tenant: the shop sees what the warehouse does."""
    async with shop.watch(tenant="acme", updates_only=True) as events:
        await anext(events)  # CaughtUp: what comes from here on is new
        await warehouse.delete("acme", 8)
        return await anext(events)


async def restart(url: str) -> list[Order]:
    """Both stores closed, the server stopped. A new one finds all still there."""
    async with kvorm.connect(url) as store:
        shop = store.repository(Order)
        return [order async for order in shop.find(tenant="acme")]


class Step(NamedTuple):
    """One step of the story, done: what it ran and what came of it, a conflict included."""

    action: Callable[..., Awaitable[object]]
    outcome: object


async def a_day(folder: Path) -> AsyncGenerator[Step, None]:
    """Live through the day on a server with its files in `folder`."""
    url = f"local:{folder}"
    async with kvorm.connect(url) as one, kvorm.connect(url) as other:
        shop, warehouse = one.repository(Order), other.repository(Order)
        yield await _done(save, shop)
        yield await _done(conflict, shop, warehouse)
        yield await _done(resolve, warehouse)
        yield await _done(old_revision, shop)
        yield await _done(history, shop)
        yield await _done(plain_nats, one, shop)
        yield await _done(watch, shop, warehouse)
    await wait_stopped(folder)
    yield await _done(restart, url)


async def _done(action: Callable[..., Awaitable[object]], *args: Any) -> Step:
    try:
        return Step(action, await action(*args))
    except ConflictError as error:
        return Step(action, error)
