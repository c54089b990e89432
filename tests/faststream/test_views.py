"""ViewOf: a live view that the app keeps."""

from __future__ import annotations

import asyncio

import pytest
from faststream import FastStream, TestApp
from faststream.nats import TestNatsBroker

from kvorm import Bucket, Key, MemoryStore, Model, StoreClosedError, View
from kvorm.faststream import KV, Repo, ViewOf
from tests.faststream.conftest import Place, until


class Order(Model, bucket=Bucket("orders", history=10)):
    id: Key[int]
    status: str = "new"


async def test_a_view_is_caught_up_and_one_for_the_app(place: Place) -> None:
    broker = place.broker()
    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    views: list[View[Order]] = []

    @broker.subscriber("look")
    async def look(id: int, orders: ViewOf[Order]) -> str:
        views.append(orders)
        order = orders.get(id)
        return order.status if order is not None else "nothing"

    async def status_of(id: int) -> object:
        return await (await broker.request(id, "look", timeout=20)).decode()

    async with place.running(broker, app):
        await kv.repository(Order).save(Order(id=1, status="paid"))
        answers = await asyncio.gather(status_of(1), status_of(1), status_of(2))
        assert answers == ["paid", "paid", "nothing"]
        revision = await kv.repository(Order).save(Order(id=2))
        await (await kv.view(Order)).wait_for(revision)
        assert await status_of(2) == "new"
        assert all(view is views[0] for view in views)


async def test_in_hooks_beside_a_repository(place: Place) -> None:
    broker = place.broker()
    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    found: list[int] = []

    @app.after_startup
    async def look(orders: Repo[Order], view: ViewOf[Order]) -> None:
        await view.wait_for(await orders.save(Order(id=1)))
        found.append(len(view))

    async with place.running(broker, app):
        assert found == [1]


async def test_it_ends_with_the_app_and_begins_anew(live: Place) -> None:
    broker = live.broker()
    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    before = asyncio.all_tasks()
    for count in (1, 2):
        async with live.running(broker, app):
            await kv.repository(Order).save(Order(id=count))
            view = await kv.view(Order)
            assert len(view) == count
        with pytest.raises(StoreClosedError):
            view.get(1)
    await until(lambda: asyncio.all_tasks() == before)


async def test_it_ends_with_the_store_that_was_put_in_place(memory: Place) -> None:
    broker = memory.broker()
    kv = KV(broker, models=[Order])
    before = asyncio.all_tasks()
    store = MemoryStore()
    with kv.using(store):
        await store.repository(Order).save(Order(id=1))
        view = await kv.view(Order)
        assert len(view) == 1
    await until(lambda: asyncio.all_tasks() == before)
    with pytest.raises(StoreClosedError):
        view.get(1)
    # The store itself is the caller's.
    assert await store.repository(Order).count() == 1


async def test_in_memory_it_ends_with_the_app_or_the_block(memory: Place) -> None:
    broker = memory.broker()
    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    before = asyncio.all_tasks()
    async with TestNatsBroker(broker):
        async with TestApp(app):
            with_app = await kv.view(Order)
        with pytest.raises(StoreClosedError):
            len(with_app)
        alone = await kv.view(Order)
        assert len(alone) == 0
    async with TestNatsBroker(broker):
        assert await kv.view(Order) is not alone
        await until(lambda: not alone.caught_up)
        await kv.stop()
    await until(lambda: asyncio.all_tasks() == before)
