"""A user's FastStream service as type checkers see it. It must pass mypy --strict and pyright strict."""

# pyright: strict

from typing import assert_type

from faststream import FastStream
from faststream.asgi import AsgiFastStream
from faststream.nats import NatsBroker, NatsRouter

from kvorm import Entry, Key, Marker, MemoryStore, Model, Repository, Store, View
from kvorm.faststream import KV, Change, Injected, Repo, ViewOf, changes


class Order(Model, bucket="orders"):
    id: Key[int]
    status: str = "new"


class OrderRepo(Repository[Order]):
    async def pay(self, id: int) -> Order:
        return await self.get(id)


broker = NatsBroker()
router = NatsRouter()
app = FastStream(broker)
kv = KV(broker, models=[Order, OrderRepo], namespace="staging-").install(app)
assert_type(kv, KV)
assert_type(KV(broker, models=[Order]).install(AsgiFastStream(broker)), KV)


@broker.subscriber("orders.create")
async def create(order: Order, orders: Repo[Order], own: Injected[OrderRepo], view: ViewOf[Order]) -> None:
    assert_type(orders, Repository[Order])
    assert_type(own, OrderRepo)
    assert_type(view, View[Order])
    assert_type(await orders.save(order), int)
    assert_type(await own.pay(1), Order)
    assert_type(view.get(1), Order | None)


@changes(router, Order)
@kv.changes(Order, durable="billing", id=7)
async def on_change(change: Change[Order]) -> None:
    match change:
        case Entry(value=order, revision=revision):
            assert_type(order, Order)
            assert_type(revision, int)
        case marker:
            assert_type(marker, Marker)


async def elsewhere() -> None:
    assert_type(kv.repository(Order), Repository[Order])
    assert_type(kv.repository(OrderRepo), OrderRepo)
    assert_type(await kv.view(Order), View[Order])
    assert_type(kv.store, Store)
    with kv.using(MemoryStore()) as store:
        assert_type(store, MemoryStore)
