"""Repo and Injected in everything that FastStream calls, on a server and in memory."""

from __future__ import annotations

from typing import Annotated

import anyio.from_thread
import pytest
from faststream import Depends, FastStream
from faststream.exceptions import SetupError
from faststream.nats import NatsRouter
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from kvorm import Bucket, Key, Mapping, Model, Repository, StoreUnavailableError
from kvorm.faststream import KV, Change, Injected, Repo, ViewOf
from tests.faststream.conftest import Place


class Order(Model, bucket=Bucket("orders", history=10)):
    tenant: Key[str]
    id: Key[int]
    status: str = "new"


class Orders(Repository[Order]):
    async def pay(self, tenant: str, id: int) -> Order:
        return await self.update(tenant, id, apply=lambda order: order.model_copy(update={"status": "paid"}))


class Invoice(BaseModel):
    number: int


class Invoices(Repository[Invoice]):
    def __init__(self, model, store, **options):
        super().__init__(model, store, mapping=Mapping(bucket="invoices", key=("number",)), **options)


Aliased = Repo[Order]
Hidden = TypeAliasType("Hidden", Repo[Order])
AliasedModel = TypeAliasType("AliasedModel", Order)
ORDER = Order(tenant="acme", id=7)


async def test_a_redelivered_create_message_stores_one_order(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("orders.create")
    async def create(order: Order, orders: Repo[Order]) -> int:
        assert type(orders) is Repository
        await orders.get_or_create(order)
        return await orders.count()

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        for _ in range(2):
            answer = await broker.request(ORDER, "orders.create", timeout=20)
            assert await answer.decode() == 1
        assert [event.revision for event in await kv.repository(Order).history("acme", 7)] == [1]


async def test_a_handler_on_a_router(place: Place) -> None:
    broker, router = place.broker(), NatsRouter(prefix="shop.")

    @router.subscriber("orders.create")
    async def create(order: Order, orders: Repo[Order]) -> int:
        return await orders.save(order)

    broker.include_router(router)
    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        assert await (await broker.request(ORDER, "shop.orders.create", timeout=20)).decode() == 1


async def test_nested_dependencies(place: Place) -> None:
    broker = place.broker()

    async def counted(orders: Repo[Order]) -> int:
        return await orders.count()

    def doubled(count: Annotated[int, Depends(counted)], orders: Repo[Order]) -> int:
        assert isinstance(orders, Repository)
        return 2 * count

    @broker.subscriber("orders.create")
    async def create(order: Order, orders: Repo[Order], twice: Annotated[int, Depends(doubled)]) -> int:
        await orders.save(order)
        return twice

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        assert await (await broker.request(ORDER, "orders.create", timeout=20)).decode() == 2


async def test_a_sync_handler(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("orders.create")
    def create(order: Order, orders: Repo[Order]) -> int:
        return anyio.from_thread.run(orders.save, order)

    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        assert await (await broker.request(ORDER, "orders.create", timeout=20)).decode() == 1


async def test_hooks(place: Place) -> None:
    broker = place.broker()
    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    counts: list[int] = []

    @app.on_startup
    async def seed(orders: Repo[Order]) -> None:
        await orders.get_or_create(ORDER)

    @app.after_startup
    async def count(orders: Injected[Orders]) -> None:
        counts.append(await orders.count())

    @app.on_shutdown
    async def count_again(orders: Repo[Order]) -> None:
        counts.append(await orders.count())

    async with place.running(broker, app):
        assert counts == [1]
    assert counts == [1, 1]


async def test_models_of_a_function(place: Place) -> None:
    class Local(Model, bucket="locals"):
        id: Key[int]

    class Locals(Repository[Local]):
        pass

    broker = place.broker()

    @broker.subscriber("create")
    async def create(value: Local, plain: Repo[Local], own: Injected[Locals]) -> list[int]:
        assert type(own) is Locals
        return [await plain.save(value), await own.count()]

    app = FastStream(broker)
    KV(broker, models=[Local]).install(app)
    async with place.running(broker, app):
        assert await (await broker.request(Local(id=1), "create", timeout=20)).decode() == [1, 1]


async def test_other_names_for_types(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("create")
    async def create(order: Order, orders: Repo[AliasedModel], same: Aliased) -> int:
        assert same is orders
        return await orders.save(order)

    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        assert await (await broker.request(ORDER, "create", timeout=20)).decode() == 1


async def test_repositories_of_ones_own(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("pay")
    async def pay(number: int, orders: Injected[Orders], invoices: Injected[Invoices]) -> str:
        await invoices.save(Invoice(number=number))
        await orders.save(ORDER.model_copy())
        return (await orders.pay("acme", 7)).status

    app = FastStream(broker)
    kv = KV(broker, models=[Order, Invoices]).install(app)
    async with place.running(broker, app):
        assert await (await broker.request(5, "pay", timeout=20)).decode() == "paid"
        assert [invoice.number async for invoice in kv.repository(Invoices).find()] == [5]
        assert kv.repository(Orders) is kv.repository(Orders)


# What is wrong is said clearly


async def test_without_a_kv(memory: Place) -> None:
    broker = memory.broker()

    @broker.subscriber("create")
    async def create(order: Order, orders: Repo[Order]) -> None:
        raise AssertionError

    async with memory.running(broker):
        with pytest.raises(SetupError, match=r"no KV is installed.*KV\(broker, models=\[Order\]\)\.install\(app\)"):
            await broker.publish(ORDER, "create")


async def test_a_model_that_it_was_not_told_of(place: Place) -> None:
    class Other(Model, bucket="others"):
        id: Key[int]

    broker = place.broker()
    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)

    @app.after_startup
    async def use(others: Repo[Other]) -> None:
        raise AssertionError

    with pytest.raises(SetupError, match=r"KV does not know Other: add it, KV\(broker, models=\[\.\.\., Other\]\)"):
        async with place.running(broker, app):
            raise AssertionError
    await broker.stop()
    async with place.running(broker):
        with pytest.raises(SetupError, match="KV does not know Other"):
            kv.repository(Other)


async def test_a_bare_repository(place: Place) -> None:
    broker, router = place.broker(), NatsRouter()

    @router.subscriber("create")
    async def create(order: Order, orders: Repository[Order]) -> None:
        raise AssertionError

    broker.include_router(router)
    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    with pytest.raises(SetupError, match=r"create\(orders: .*write `orders: Repo\[\.\.\.\]`.*KV provides it"):
        async with place.running(broker, app):
            raise AssertionError


def test_before_the_broker_is_connected(memory: Place) -> None:
    with pytest.raises(StoreUnavailableError, match="KV: the broker is not connected"):
        KV(memory.broker(), models=[Order]).repository(Order)


async def test_a_repository_behind_a_type_alias(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("create")
    async def create(order: Order, orders: Hidden) -> None:
        raise AssertionError

    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    with pytest.raises(SetupError, match=r"write `Hidden = Repo\[\.\.\.\]` instead of `type Hidden"):
        async with place.running(broker, app):
            raise AssertionError


@pytest.mark.parametrize("asked", [int, "Order", 7, Orders])
def test_what_is_no_model(asked: object) -> None:
    for annotation in (Repo, ViewOf, Change):
        with pytest.raises(SetupError, match=r"KV hands out repositories of models; write \w+\[Order\]"):
            annotation[asked]


@pytest.mark.parametrize("asked", [int, Order])
def test_what_is_no_repository_class(asked: object) -> None:
    with pytest.raises(SetupError, match="KV makes repository classes of your own"):
        Injected[asked]
