"""W4 to W6 for `update` and `get_or_create`: what is stored depends on what is there."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

from kvorm.entry import ANY
from kvorm.errors import (
    InvalidKeyError,
    KeyNotFoundError,
    RevisionMismatchError,
)
from kvorm.model import Mapping
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, raises
from kvorm.testing.contract.models import (
    Order,
    elsewhere,
    new_orders,
)


async def w7_updates_add_up(harness: Harness) -> None:
    """Workers of several clients that update one key lose no increment."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    workers, increments = 4, 15

    def one_more(order: Order) -> None:
        order.total += 1

    async def work() -> None:
        mine = await elsewhere(harness, orders)
        for _ in range(increments):
            await mine.update("acme", 1, apply=one_more)

    await asyncio.gather(*(work() for _ in range(workers)))
    assert (await orders.get("acme", 1)).total == workers * increments


async def w5_update_gives_up_with_its_budget(harness: Harness) -> None:
    """`update` that always loses ends with the last RevisionMismatchError; what is there is what others wrote."""
    orders = await new_orders(harness)
    order = Order(tenant="acme", id=1)
    await orders.save(order)
    hasty = await harness.open(timeout=timedelta(seconds=0.4))
    losing = hasty.repository(Order, mapping=Mapping(orders.bucket, key=("tenant", "id")))
    tries = 0

    async def lose(mine: Order) -> None:
        nonlocal tries
        tries += 1
        mine.note = "mine"
        await orders.save(order)

    with raises(RevisionMismatchError):
        await losing.update("acme", 1, apply=lose)
    assert tries > 1
    assert (await orders.get("acme", 1)).note == ""


async def w5_update_retries_from_what_is_there(harness: Harness) -> None:
    """Each try gets the latest object; sync, async and in-place functions do; the saved object is returned."""
    orders = await new_orders(harness)
    others = await elsewhere(harness, orders)
    await orders.save(Order(tenant="acme", id=1))
    seen: list[str] = []

    async def lose_once(mine: Order) -> Order:
        seen.append(mine.note)
        if len(seen) == 1:
            await others.save(Order(tenant="acme", id=1, note="theirs"), expect=ANY)
        return mine.model_copy(update={"total": Decimal(len(seen))})

    saved = await orders.update("acme", 1, apply=lose_once)
    assert seen == ["", "theirs"]
    assert (saved.note, saved.total) == ("theirs", Decimal(2))
    assert await orders.get("acme", 1) == saved
    assert revision_of(saved) == (await orders.entry("acme", 1)).revision

    def in_place(mine: Order) -> None:
        mine.note = "in place"

    async def in_place_later(mine: Order) -> None:
        mine.note += ", later"

    assert (await orders.update("acme", 1, apply=in_place)).note == "in place"
    assert (await orders.update("acme", 1, apply=in_place_later)).note == "in place, later"
    parsed = await orders.update("acme", 1, apply=lambda mine: Order(tenant="acme", id=1, note=mine.note + "!"))
    assert parsed.note == "in place, later!"
    # The object is stamped: it can be saved again.
    await orders.save(parsed)


async def w6_update_stores_nothing_it_was_not_told(harness: Harness) -> None:
    """A changed key, an error of `apply`, a missing key: nothing is stored."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    stored = await harness.messages(orders.bucket.name)

    def rename(mine: Order) -> None:
        mine.id = 2

    def fail(mine: Order) -> Order:
        raise LookupError(mine.tenant)

    with raises(InvalidKeyError):
        await orders.update("acme", 1, apply=rename)
    with raises(InvalidKeyError):
        await orders.update("acme", 1, apply=lambda mine: mine.model_copy(update={"tenant": "other"}))
    with raises(LookupError):
        await orders.update("acme", 1, apply=fail)
    with raises(KeyNotFoundError):
        await orders.update("acme", 2, apply=lambda mine: mine)
    assert await harness.messages(orders.bucket.name) == stored


async def w4_get_or_create_stores_at_most_once(harness: Harness) -> None:
    """What is stored comes back, stamped; else the object itself, stored now, over a marker too; racers agree."""
    orders = await new_orders(harness)
    others = await elsewhere(harness, orders)
    order = Order(tenant="acme", id=1, note="first")
    for clear in (None, orders.delete, orders.purge):
        if clear is not None:
            await clear("acme", 1)
        assert await orders.get_or_create(order) is order
        assert revision_of(order) == (await orders.entry("acme", 1)).revision
        again = await others.get_or_create(Order(tenant="acme", id=1, note="second"))
        assert again == order
        assert revision_of(again) == revision_of(order)
    before = len(await harness.messages(orders.bucket.name))
    results = await asyncio.gather(
        *(
            repository.get_or_create(Order(tenant="acme", id=2, note=f"{number}"))
            for number in range(8)
            for repository in (orders, others)
        )
    )
    assert len({result.note for result in results}) == 1
    assert len({revision_of(result) for result in results}) == 1
    assert len(await harness.messages(orders.bucket.name)) == before + 1
