"""Wrong use of the FastStream integration, as `wrong_use.py`."""

# pyright: strict

from faststream.nats import NatsBroker

from kvorm import Key, Model
from kvorm.faststream import KV, Change, Injected, Repo, ViewOf, changes


class Order(Model, bucket="orders"):
    id: Key[int]


broker = NatsBroker()
kv = KV(broker, models=[Order])
KV(broker, models=[int])  # error
KV(broker)  # error
KV("nats://127.0.0.1:4222", models=[Order])  # error
kv.repository(int)  # error
kv.changes(int)  # error
changes("orders", Order)  # error
changes(broker, Order)


async def a(orders: Repo[int]) -> None: ...  # error
async def b(orders: Injected[Order]) -> None: ...  # error
async def c(orders: ViewOf[int]) -> None: ...  # error
async def d(change: Change[int]) -> None: ...  # error


async def e(change: Change[Order]) -> None:
    print(change.value)  # error


async def f(order: Order, orders: Repo[Order]) -> None:
    await orders.save("order")  # error
