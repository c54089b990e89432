"""C1 to C3: nothing starts by itself, nothing stays behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

from kvorm.entry import ANY
from kvorm.errors import KvormError, StoreClosedError
from kvorm.testing.contract.harness import Attempt, Harness, eventually, raises
from kvorm.testing.contract.models import Order, new_bucket, new_orders, orders_in
from kvorm.testing.contract.watching import caught_up

_IMPORT = """
import sys
import threading

forbidden = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.exec", "os.system", "pty.")
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(forbidden) else None)

import kvorm

class Order(kvorm.Model, bucket=kvorm.Bucket("orders", history=10)):
    id: kvorm.Key[str]

class Orders(kvorm.Repository[Order]):
    pass

kvorm.connect("nats://127.0.0.1:1")

import kvorm.testing.contract

assert not seen, seen
assert threading.active_count() == 1, threading.enumerate()
assert not {"pytest", "_pytest", "hypothesis"} & set(sys.modules)
import asyncio
assert asyncio._get_running_loop() is None
"""


async def c1_an_import_starts_nothing(harness: Harness) -> None:
    """No thread, socket, process or event loop; neither pytest nor Hypothesis; not for the checks either."""
    del harness
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", _IMPORT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


async def c2_a_closed_store_does_nothing_more(harness: Harness) -> None:
    """Every operation raises StoreClosedError; closing again is nothing; other stores and the data stay."""
    bucket = new_bucket(harness)
    store, other = await harness.open(), await harness.open()
    orders, others = orders_in(store, bucket), orders_in(other, bucket)
    order = Order(tenant="acme", id=1)
    await orders.save(order)
    await store.close()
    await store.close()
    attempts: list[Attempt] = [
        lambda: orders.get("acme", 1),
        lambda: orders.get_or_none("acme", 1),
        lambda: orders.exists("acme", 1),
        lambda: orders.history("acme", 1),
        lambda: orders.save(order),
        lambda: orders.update("acme", 1, apply=lambda one: one),
        lambda: orders.delete(order),
        lambda: orders.purge("acme", 1),
        orders.count,
        lambda: orders.get_many([("acme", 1)]),
        lambda: anext(orders.find()),
        lambda: anext(orders.watch()),
        lambda: store.ensure(orders),
    ]
    for attempt in attempts:
        with raises(StoreClosedError):
            await attempt()
    assert await others.get("acme", 1) == order


async def c2_closing_leaves_no_task(harness: Harness) -> None:
    """What a store started ends with it, watches that nobody reads included."""
    bucket = new_bucket(harness)
    await orders_in(await harness.open(), bucket).save(Order(tenant="acme", id=1))
    before = asyncio.all_tasks()
    for _ in range(3):
        store = await harness.open()
        orders = orders_in(store, bucket)
        await orders.count()
        watch = orders.watch()
        await caught_up(watch)
        await store.close()
        with raises(StoreClosedError):
            await anext(watch)
    for _ in range(100):
        if asyncio.all_tasks() <= before:
            break
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= before, asyncio.all_tasks() - before


async def c3_calls_leave_nothing(harness: Harness) -> None:
    """Each operation, done, refused or cancelled: no consumer and no task, however often."""
    orders = await new_orders(harness, history=5)
    first = await orders.save(Order(tenant="acme", id=1))
    await orders.save(Order(tenant="acme", id=2))
    attempts: list[Attempt] = [
        lambda: orders.save(Order(tenant="acme", id=1)),
        lambda: orders.save(Order(tenant="acme", id=1), expect=ANY),
        lambda: orders.save_many([Order(tenant="acme", id=3), Order(tenant="acme", id=1)]),
        lambda: orders.load([Order(tenant="acme", id=4)]),
        lambda: orders.update("acme", 1, apply=lambda _: None),
        lambda: orders.get_or_create(Order(tenant="acme", id=1)),
        lambda: orders.restore("acme", 2, revision=first),
        lambda: orders.delete("acme", 3),
        lambda: orders.purge("acme", 4),
        lambda: orders.delete_many([("acme", 3), ("acme", 9)]),
        lambda: orders.get("acme", 1),
        lambda: orders.entry("acme", 9),
        lambda: orders.get_many([("acme", 1), ("acme", 9)]),
        lambda: orders.history("acme", 1),
    ]

    async def call(attempt: Attempt) -> None:
        with suppress(KvormError):
            await attempt()

    async def cancel(attempt: Attempt, turns: int) -> None:
        calling = asyncio.create_task(call(attempt))
        for _ in range(turns):
            await asyncio.sleep(0)
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling

    for attempt in attempts:
        await call(attempt)
    # What the harness itself asks with stays.
    await harness.consumers(orders.bucket.name)
    tasks = asyncio.all_tasks()
    for turns in range(10):
        for attempt in attempts:
            await call(attempt)
            await cancel(attempt, turns)

    async def is_quiet() -> bool:
        return not await harness.consumers(orders.bucket.name) and not asyncio.all_tasks() - tasks

    await eventually(is_quiet)
