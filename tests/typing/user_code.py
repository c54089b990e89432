"""A user's file: models and repositories as type checkers see them. It must pass mypy --strict and pyright strict."""

# pyright: strict

from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, assert_type
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field

import kvorm
from kvorm import (
    ABSENT,
    ANY,
    Bucket,
    CaughtUp,
    ConflictError,
    DecodeError,
    Entry,
    Key,
    Mapping,
    Marker,
    MemoryStore,
    Model,
    Repository,
    Reset,
    Store,
    View,
    Watch,
)

Tenant = NewType("Tenant", str)


class Status(Enum):
    NEW = "new"
    PAID = "paid"


class Order(Model, bucket=Bucket("orders", history=10, ttl=timedelta(days=30))):
    tenant: Key[str]
    id: Key[UUID]
    total: Decimal
    status: str = "new"


class Settings(Model, bucket="settings", prefix="app.ui"):
    theme: Literal["dark", "light"] = "dark"


bank = Bucket("bank", replicas=3, storage="file", max_value_bytes=1 << 20, description="accounts")


class Account(Model, bucket=bank, prefix="account"):
    model_config = ConfigDict(frozen=True)

    tenant: Key[Tenant]
    opened: Key[date]
    kind: Key[Literal["a", "b"]] = "a"
    iban: Annotated[str, Field(max_length=34)]


class Base(Model):
    tenant: Key[str]


class Ticket(Base, bucket="tickets"):
    number: Key[int]
    status: Key[Status] = Status.NEW


class Invoice(BaseModel):
    tenant: str
    id: int


INVOICES = Mapping(bucket="invoices", key=("tenant", "id"))


class OrderRepo(Repository[Order]):
    async def pay(self, tenant: str, id: UUID) -> Order:
        order = await self.get(tenant, id)
        assert_type(order, Order)
        order.status = "paid"
        await self.save(order)
        return order

    async def open(self, tenant: str) -> AsyncIterator[Order]:
        async for order in self.find(tenant=tenant):
            assert_type(order, Order)
            if order.status == "new":
                yield order


async def connecting() -> None:
    async with kvorm.connect("memory:") as store:
        assert_type(store, Store)
    other = await kvorm.connect(["nats://a:4222", "nats://b:4222"], timeout=timedelta(seconds=3), namespace="staging-")
    assert_type(other, Store)
    await other.ensure(Order, Ticket)
    await other.close()
    async with MemoryStore() as memory:
        await memory.ensure(Order, on_difference="update")


async def repositories(store: Store) -> None:
    orders = store.repository(Order)
    assert_type(orders, Repository[Order])
    assert_type(Repository(Order, store), Repository[Order])
    assert_type(store.repository(Order, bucket="orders-acme"), Repository[Order])
    assert_type(store.repository(Invoice, mapping=INVOICES), Repository[Invoice])
    custom = store.repository(OrderRepo)
    assert_type(custom, OrderRepo)
    assert_type(OrderRepo(Order, store), OrderRepo)
    assert_type(await custom.pay("acme", uuid4()), Order)
    async for order in custom.open("acme"):
        assert_type(order, Order)
    assert_type(await store.repository(Settings).get(), Settings)


async def reading(orders: Repository[Order]) -> None:
    key = uuid4()
    order = await orders.get("acme", key)
    assert_type(order, Order)
    assert_type(order.tenant, str)
    assert_type(order.id, UUID)
    assert_type(order.total, Decimal)
    assert_type(await orders.get(tenant="acme", id=key), Order)
    assert_type(await orders.get("acme", key, revision=3), Order)
    assert_type(await orders.get_or_none("acme", key), Order | None)
    assert_type(await orders.exists("acme", key), bool)
    assert_type(kvorm.revision_of(order), int | None)
    entry = await orders.entry("acme", key)
    assert_type(entry, Entry[Order])
    assert_type(entry.value, Order)
    assert_type(entry.revision, int)
    assert_type(entry.written, datetime)
    assert_type(entry.raw_key, str)
    assert_type(await orders.get_many([("acme", key), ("acme", uuid4())]), list[Order | None])
    assert_type(await orders.count(tenant="acme"), int)
    async for found in orders.find(tenant="acme"):
        assert_type(found, Order)
    async for found_key in orders.keys():
        assert_type(found_key, tuple[Any, ...])
        await orders.get(*found_key)
    for event in await orders.history("acme", key):
        match event:
            case Entry(value=value, revision=revision):
                assert_type(value, Order)
                assert_type(revision, int)
            case Marker(reason=reason):
                assert_type(reason, Literal["deleted", "purged", "expired"])


async def in_place(order: Order) -> None:
    order.status = "sent"


async def anew(order: Order) -> Order:
    return order.model_copy(update={"status": "sent"})


def touch(order: Order) -> None:
    order.status = "sent"


async def writing(orders: Repository[Order], order: Order) -> None:
    assert_type(await orders.save(order), int)
    assert_type(await orders.save(order, expect=ANY), int)
    assert_type(await orders.save(order, expect=ABSENT), int)
    assert_type(await orders.save(order, expect=7), int)
    assert_type(await orders.get_or_create(order), Order)
    sent = await orders.update("acme", order.id, apply=lambda o: o.model_copy(update={"status": "sent"}))
    assert_type(sent, Order)
    assert_type(await orders.update("acme", order.id, apply=anew), Order)
    assert_type(await orders.update("acme", order.id, apply=in_place), Order)
    assert_type(await orders.update("acme", order.id, apply=touch), Order)
    assert_type(await orders.update(tenant="acme", id=order.id, apply=touch), Order)
    assert_type(await orders.save_many([order]), list[int])
    assert_type(await orders.delete_many([order, ("acme", order.id)]), list[int])
    assert_type(await orders.load(iter([order]), progress=print), int)
    assert_type(await orders.load(orders.find()), int)
    assert_type(await orders.delete(order), int)
    assert_type(await orders.delete("acme", order.id), int)
    assert_type(await orders.purge("acme", order.id), int)
    assert_type(await orders.restore("acme", order.id, revision=3), int)


async def watching(orders: Repository[Order]) -> None:
    async for event in orders.watch(tenant="acme"):
        match event:
            case Entry(value=order, revision=revision):
                assert_type(order, Order)
                assert_type(revision, int)
            case Marker(key=key, reason=reason):
                assert_type(key, tuple[Any, ...])
                assert_type(reason, Literal["deleted", "purged", "expired"])
            case CaughtUp(revision=revision):
                assert_type(revision, int)
            case Reset():
                pass
    async for live in orders.watch(tenant="acme").values():
        assert_type(live, Order)
    async with orders.watch(since=7, on_invalid="skip") as watch:
        assert_type(watch, Watch[Order])
        assert_type(watch.caught_up, bool)
        assert_type(watch.revision, int)
        assert_type(watch.silent_for, timedelta)


async def viewing(orders: Repository[Order], broken: list[DecodeError]) -> None:
    async with orders.view(tenant="acme", on_invalid=broken.append) as view:
        assert_type(view, View[Order])
        key = uuid4()
        assert_type(view.get("acme", key), Order | None)
        assert_type(view["acme", key], Order)
        assert_type(("acme", key) in view, bool)
        assert_type(len(view), int)
        for found_key in view:
            assert_type(found_key, tuple[Any, ...])
        assert_type(view.values(), list[Order])
        assert_type(view.items(), list[tuple[tuple[Any, ...], Order]])
        assert_type(view.where(lambda order: order.total > 3), list[Order])
        assert_type(view.by("status")["paid"], list[Order])
        assert_type(view.invalid, dict[tuple[Any, ...], DecodeError])
        assert_type(await view.wait_for(view.revision), None)
        assert_type(view.silent_for, timedelta)


async def failing(orders: Repository[Order], order: Order) -> None:
    try:
        await orders.save(order)
    except ConflictError as conflict:
        match conflict.current:
            case Entry(value=value):
                print(value)
            case Marker(reason=reason):
                print(reason)
            case DecodeError() as error:
                print(error.data)
            case None:
                print("nothing")


def covariant(entry: Entry[Order]) -> Entry[Model]:
    return entry
