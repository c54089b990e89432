"""Wrong use: each line that ends in `# error` is reported by mypy and by pyright, and no other line is.

Keywords of a class statement are not here: neither checker looks at them where a class has Pydantic's metaclass, so
that `class X(Model, buket="x")` is refused at run time only.
"""

# pyright: strict

from datetime import timedelta
from uuid import UUID, uuid4

import kvorm
from kvorm import Bucket, Entry, Key, Mapping, Model, Repository, Store


class Order(Model, bucket=Bucket("orders", history=10)):
    tenant: Key[str]
    id: Key[UUID]
    status: str = "new"


class Invoice(Model, bucket="invoices"):
    id: Key[int]


class OrderRepo(Repository[Order]):
    pass


Bucket("orders", history="x")  # error
Bucket()  # error
Bucket("orders", ttl=3)  # error
Bucket("orders", storage="tape")  # error
Mapping(bucket=3)  # error


class Frozen(Model, frozen=True):  # error
    id: Key[int]


async def connecting() -> None:
    kvorm.connect(timeout=3)  # error
    kvorm.connect(reads="fresh")  # error
    kvorm.connect("memory:", namespace=3)  # error
    store = kvorm.connect("memory:")
    store.repository(Order)  # error


async def models(order: Order) -> None:
    Order(tenant=1, id=uuid4())  # error
    Order(tenant="acme")  # error
    order.nope  # error
    order.tenant = 3  # error
    order.save()  # error


async def repositories(store: Store) -> None:
    orders = store.repository(Order)
    orders.nope  # error
    store.repository(int)  # error
    store.repository("orders")  # error
    custom: OrderRepo = store.repository(Order)  # error
    wrong: Repository[Invoice] = store.repository(Order)  # error
    OrderRepo(Order)  # error
    print(custom, wrong)


async def reading(orders: Repository[Order]) -> None:
    (await orders.get("a", uuid4())).nope  # error
    (await orders.get_or_none("a", uuid4())).status  # error
    await orders.get("a", uuid4(), revision="x")  # error
    orders.get("a", uuid4()).status  # error
    async for order in orders.find(tenant="acme"):
        order.nope  # error
    for event in await orders.history("a", uuid4()):
        event.value  # error
    async for change in orders.watch():
        change.revision  # error
    orders.watch(since="x")  # error


async def writing(orders: Repository[Order], order: Order) -> None:
    await orders.save(Invoice(id=1))  # error
    await orders.save(order, expect="x")  # error
    await orders.save(order, expect=None)  # error
    await orders.save("acme", order.id)  # error
    await orders.update("a", order.id)  # error
    await orders.update("a", order.id, apply=lambda o: Invoice(id=1))  # error
    await orders.update("a", order.id, apply=lambda o: o.nope)  # error
    await orders.save_many(order)  # error
    await orders.delete_many(["acme"])  # error
    await orders.load([Invoice(id=1)])  # error
    await orders.restore("a", order.id)  # error
    await orders.delete(order, timeout=timedelta(seconds=1), nope=1)


def entries(entry: Entry[Order]) -> None:
    entry.revision = 3  # error
    entry.value = Order(tenant="a", id=uuid4())  # error
    wrong: Entry[Invoice] = entry  # error
    print(wrong)
