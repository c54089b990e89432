"""What a bucket of a million keys costs: filling it, listing it, and single reads and writes beside a small one.

`python -m benchmarks.scale`; `--keys` says another number. There are a hundred keys for each tenant. Memory is resident
memory: of this process above its start, the highest while the operation ran, and all of the server's. The last table
has the time in the large bucket over that in one of 1,000 keys, each the best of interleaved repeats: 1.00x is as fast.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import kvorm
from benchmarks.timing import Way, best_times, one_by_one
from kvorm import Bucket, Key, Mapping, Model, Repository
from kvorm.testing.servers import NatsServer

KEYS = 1_000_000
FEW = 1_000
OF_A_TENANT = 100
PAGE = 100
SINGLE, REPEATS = 300, 12
MEGABYTE = 1024 * 1024


class Order(Model):
    tenant: Key[str]
    number: Key[int]
    note: str = ""


class Memory:
    """The resident memory of this process and of a server, looked at again and again."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._start = _resident("self")

    async def __aenter__(self) -> Memory:
        self._most = self._most_of_server = 0
        self._look()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._look()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def told(self) -> str:
        return f"{self._most / MEGABYTE:>8,.0f} MB {self._most_of_server / MEGABYTE:>8,.0f} MB"

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, _resident("self") - self._start)
        self._most_of_server = max(self._most_of_server, _resident(str(self._server.pid)))


def _resident(process: str) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def orders_in(store: kvorm.Store, bucket: str) -> Repository[Order]:
    return store.repository(Order, mapping=Mapping(Bucket(bucket), key=("tenant", "number")))


def new_orders(keys: int) -> Iterator[Order]:
    """Yield orders whose tenants take turns."""
    tenants = max(1, keys // OF_A_TENANT)
    return (Order(tenant=f"t{at % tenants}", number=at // tenants, note="as it is") for at in range(keys))


async def number_of(items: AsyncIterator[object]) -> int:
    number = 0
    async for _ in items:
        number += 1
    return number


async def a_page(orders: Repository[Order], after: int | None) -> int:
    return len((await orders.page(limit=PAGE, after=after)).entries)


async def lists(orders: Repository[Order], keys: int, memory: Memory) -> None:
    tenant = f"t{keys // OF_A_TENANT // 2}"
    whole: dict[str, Callable[[], Awaitable[int]]] = {
        "load": lambda: orders.load(new_orders(keys)),
        "count": orders.count,
        "keys": lambda: number_of(orders.keys()),
        "find": lambda: number_of(orders.find()),
        "count of one tenant": lambda: orders.count(tenant=tenant),
        "find one tenant": lambda: number_of(orders.find(tenant=tenant)),
        "first page": lambda: a_page(orders, None),
        "page in the middle": lambda: a_page(orders, keys // 2),
    }
    print(f"{keys:<22,}{'items':>10}{'time':>12}{'per item':>12}{'client':>12}{'server':>12}", flush=True)
    for name, operation in whole.items():
        async with memory:
            start = time.perf_counter()
            items = await operation()
            seconds = time.perf_counter() - start
        each = seconds / items * 1e6
        print(f"{name:<22}{items:>10,}{seconds:>10.3f} s{each:>9.1f} µs {memory.told()}", flush=True)


async def singles(large: Repository[Order], small: Repository[Order]) -> None:
    print(f"{'beside 1,000 keys':<22}{'ratio':>10}")
    found = {"large": large, "small": small}
    objects = {name: [order async for order in orders.find(limit=SINGLE)] for name, orders in found.items()}

    def get(name: str) -> Way:
        return Way(lambda: one_by_one(lambda at: found[name].get(*_key(objects[name][at])), SINGLE))

    def save(name: str) -> Way:
        return Way(lambda: one_by_one(lambda at: found[name].save(objects[name][at]), SINGLE))

    for operation, way in {"get": get, "save": save}.items():
        best = await best_times({name: way(name) for name in found}, REPEATS)
        print(f"{operation:<22}{best['large'] / best['small']:>9.2f}x", flush=True)


def _key(order: Order) -> tuple[str, int]:
    return order.tenant, order.number


async def main(keys: int) -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        async with kvorm.connect(server.url) as store:
            large, small = orders_in(store, "large"), orders_in(store, "small")
            await small.load(new_orders(FEW))
            await lists(large, keys, Memory(server))
            await singles(large, small)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--keys", type=int, default=KEYS)
    asyncio.run(main(parser.parse_args().keys))
