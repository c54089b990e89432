"""Apps under TestNatsBroker: a fresh store in memory for each block, and other stores on purpose."""

from __future__ import annotations

from typing import Any

import pytest
from faststream import FastStream, TestApp
from faststream.nats import NatsBroker, TestNatsBroker

import kvorm
from kvorm import Key, MemoryStore, Model, NatsStore, Repository, StoreUnavailableError
from kvorm.faststream import KV, Change, Repo, changes
from tests.faststream.conftest import Place, until


class Order(Model, bucket="orders"):
    id: Key[int]
    status: str = "new"


class Service:
    """An app as a user's module holds it: made once, for all tests."""

    def __init__(self, place: Place) -> None:
        self.broker = place.broker()
        self.app = FastStream(self.broker)
        self.kv = KV(self.broker, models=[Order]).install(self.app)
        self.told: list[Change[Order]] = []
        self.started = 0

        @self.broker.subscriber("orders.create")
        async def create(order: Order, orders: Repo[Order]) -> None:
            await orders.save(order)

        @changes(self.broker, Order)
        async def on_change(change: Change[Order]) -> None:
            self.told.append(change)

        @self.app.on_startup
        async def start(orders: Repo[Order]) -> None:
            self.started += await orders.count() + 1

    @property
    def orders(self) -> Repository[Order]:
        return self.kv.repository(Order)


@pytest.fixture
def service(memory: Place) -> Service:
    return Service(memory)


async def test_the_broker_alone(service: Service) -> None:
    async with TestNatsBroker(service.broker) as broker:
        await broker.publish(Order(id=1), "orders.create")
        assert (await service.orders.get(1)).status == "new"
        # Change handlers have run when the save has returned.
        assert [change.revision for change in service.told] == [1]


async def test_with_its_app(service: Service) -> None:
    async with TestNatsBroker(service.broker) as broker, TestApp(service.app):
        assert service.started == 1
        await broker.publish(Order(id=1), "orders.create")
        assert await service.orders.exists(1)


async def test_many_at_once_are_told_too(service: Service) -> None:
    async with TestNatsBroker(service.broker):
        await service.orders.save_many([Order(id=1), Order(id=2)])
        await service.orders.load([Order(id=3), Order(id=3, status="newer")])
        await service.orders.delete_many([(1,)])
    told = [(change.key, change.revision) for change in service.told]
    assert told == [((1,), 1), ((2,), 2), ((3,), 4), ((1,), 5)]


async def test_each_block_begins_empty(service: Service) -> None:
    for _ in range(3):
        async with TestNatsBroker(service.broker) as broker:
            assert await service.orders.count() == 0
            await broker.publish(Order(id=1), "orders.create")
            assert await service.orders.count() == 1
        with pytest.raises(StoreUnavailableError):
            _ = service.orders


async def test_with_real(live: Place) -> None:
    service = Service(live)
    async with TestNatsBroker(service.broker, with_real=True) as broker:
        await broker.publish(Order(id=1), "orders.create")
        await until(lambda: len(service.told) == 1)
        assert isinstance(service.kv.store, NatsStore)
    async with kvorm.connect(live.url) as store:
        assert await store.repository(Order).count() == 1


async def test_a_live_app_is_not_disturbed_by_a_test_of_another(live: Place, service: Service) -> None:
    other = Service(live)
    async with live.running(other.broker, other.app), TestNatsBroker(service.broker):
        await service.orders.save(Order(id=1))
        assert await other.orders.count() == 0


@pytest.mark.parametrize("around", ["the block", "inside of it"])
async def test_another_store(service: Service, around: str) -> None:
    async def use(broker: NatsBroker, store: Any) -> None:
        await store.repository(Order).save(Order(id=1))
        await broker.publish(Order(id=2), "orders.create")
        assert sorted([order.id async for order in store.repository(Order).find()]) == [1, 2]
        assert [change.revision for change in service.told] == [2]

    if around == "the block":
        with service.kv.using(MemoryStore()) as store:
            async with TestNatsBroker(service.broker) as broker:
                await use(broker, store)
    else:
        async with TestNatsBroker(service.broker) as broker:
            await service.orders.save(Order(id=9))
            service.told.clear()
            with service.kv.using(MemoryStore()) as store:
                await use(broker, store)
            assert [order.id async for order in service.orders.find()] == [9]


async def test_a_server_of_the_tests_own(live: Place, service: Service) -> None:
    async with kvorm.connect(live.url) as store:
        with service.kv.using(store):
            async with TestNatsBroker(service.broker) as broker:
                await broker.publish(Order(id=1), "orders.create")
        assert await store.repository(Order).exists(1)
