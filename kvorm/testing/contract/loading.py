"""Objects loaded in bulk: in order, whatever is there, with the truth about how far it came."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Final

from kvorm.errors import EncodeError, InvalidKeyError, RevisionMismatchError, StoreError, ValueTooLargeError
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, raises
from kvorm.testing.contract.models import Note, Order, elsewhere, new_bucket, new_notes, new_orders, orders_in

_MANY: Final = 1_234
"""More than one portion has."""

_BOUND_BYTES: Final = 12 * 1024 * 1024


def _orders(count: int) -> Iterator[Order]:
    return (Order(tenant="acme", id=number, note=f"{number}") for number in range(count))


async def _arriving(count: int) -> AsyncIterator[Order]:
    for order in _orders(count):
        if not order.id % 100:
            await asyncio.sleep(0)
        yield order


async def api_load_stores_what_an_iterable_yields(harness: Harness) -> None:
    """A list, a generator, an asynchronous one, nothing at all; the last of equal keys wins."""
    orders = await new_orders(harness)
    told: list[int] = []
    assert await orders.load(_orders(_MANY), progress=told.append) == _MANY
    assert told == sorted(set(told))
    assert told[-1] == _MANY
    assert len(told) > 1
    assert await orders.load(_arriving(_MANY)) == _MANY
    assert await orders.load([]) == 0
    changed = [Order(tenant="acme", id=number % 10, note=f"last {number}") for number in range(700)]
    assert await orders.load(changed) == len(changed)
    stored = await harness.messages(orders.bucket.name)
    assert len(stored) == _MANY
    assert stored[-1].revision == 2 * _MANY + len(changed)
    for number in range(10):
        assert (await orders.get("acme", number)).note == f"last {690 + number}"
    assert (await orders.get("acme", 1_000)).note == "1000"


async def api_load_neither_checks_nor_stamps(harness: Harness) -> None:
    """Whatever is there is overwritten, markers too. What a loaded object carries stays: its save is checked still."""
    orders = await new_orders(harness, history=3)
    order = Order(tenant="acme", id=1)
    first = await orders.save(order)
    theirs = Order(tenant="acme", id=2)
    others = await elsewhere(harness, orders)
    await others.save(theirs)
    await others.delete(theirs)
    assert await orders.load([order, Order(tenant="acme", id=2, note="mine")]) == 2
    assert revision_of(order) == first
    with raises(RevisionMismatchError):
        await orders.save(order)
    assert (await orders.get("acme", 2)).note == "mine"
    assert [len(await orders.history("acme", number)) for number in (1, 2)] == [2, 3]


async def w8_w10_load_stops_before_what_cannot_be_stored(harness: Harness) -> None:
    """What came before it is stored, nothing of it or after it is sent; the cause is that of a save."""
    orders = await new_orders(harness, max_value_bytes=1000)
    wrong = {
        EncodeError: Order.model_construct(tenant="acme", id=5, total="many"),
        ValueTooLargeError: Order(tenant="acme", id=5, note="x" * 1000),
        InvalidKeyError: Order(tenant="x" * 2000, id=5),
    }
    for kind, bad in wrong.items():
        await orders.load([Order(tenant="acme", id=9)])
        items = [*_orders(600), bad, Order(tenant="acme", id=9, note="never sent")]
        with raises(StoreError) as raised:
            await orders.load(items)
        assert raised.error.stored == 600
        assert isinstance(raised.error.__cause__, kind)
        assert (await orders.get("acme", 9)).note == "9"
        assert await orders.count() == 600


async def api_load_lets_the_errors_of_its_iterable_through(harness: Harness) -> None:
    """What was yielded before is stored; `progress` may stop it, too."""
    orders = await new_orders(harness)

    def breaking() -> Iterator[Order]:
        yield from _orders(777)
        raise LookupError("the source broke")

    def stop(stored: int) -> None:
        raise LookupError(f"enough: {stored}")

    with raises(LookupError) as raised:
        await orders.load(breaking())
    assert raised.error.__notes__ == ["777 objects were stored before"]
    assert await orders.count() == 777
    with raises(LookupError):
        await orders.load(_orders(_MANY), progress=stop)
    assert 777 <= await orders.count() < _MANY


async def api_load_into_a_full_bucket_stops(harness: Harness) -> None:
    """`.stored` of them are stored, and no other."""
    orders = await new_orders(harness, max_bytes=50_000)
    with raises(StoreError) as raised:
        await orders.load(_orders(_MANY))
    assert type(raised.error) is StoreError
    assert raised.error.stored is not None
    assert 0 < raised.error.stored < _MANY
    numbers = sorted([order.id async for order in orders.find()])
    assert numbers[: raised.error.stored] == list(range(raised.error.stored))
    assert "full" in str(raised.error)


async def api_load_into_a_bucket_of_another_client(harness: Harness) -> None:
    """It may take no batches. The order of equal keys is kept, and `.stored` is still the beginning."""
    bucket = new_bucket(harness)
    await harness.create(bucket)
    orders = orders_in(await harness.open(), bucket)
    items = [Order(tenant="acme", id=number % 7, note=f"{number}") for number in range(300)]
    assert await orders.load(items) == 300
    assert sorted([order.note async for order in orders.find()]) == [f"{number}" for number in range(293, 300)]
    with raises(StoreError) as raised:
        await orders.load([*_orders(600), Order.model_construct(tenant="acme", id=1, total="many")])
    assert raised.error.stored == 600
    assert await orders.count() == 600


async def api_load_holds_a_few_at_a_time(harness: Harness) -> None:
    """Memory does not grow with the number of objects, nor with their sizes."""
    notes = await new_notes(harness)
    for count, size in ((20_000, 1_000), (40, 500_000)):
        tracemalloc.start()
        try:
            loaded = await notes.load(Note(id=f"{number % 10}", text="x" * size) for number in range(count))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert loaded == count
        assert peak < _BOUND_BYTES < count * size


async def api_a_cancelled_load_has_told_the_truth(harness: Harness) -> None:
    """What `progress` told is stored, in order; nothing comes later."""
    orders = await new_orders(harness)
    told: list[int] = [0]
    some = asyncio.Event()

    def progress(stored: int) -> None:
        told.append(stored)
        some.set()

    async def endless() -> AsyncIterator[Order]:
        number = 0
        while True:
            await asyncio.sleep(0)
            yield Order(tenant="acme", id=number)
            number += 1

    loading = asyncio.create_task(orders.load(endless(), progress=progress))
    await some.wait()
    loading.cancel()
    await asyncio.wait([loading])
    assert loading.cancelled()
    numbers = sorted([order.id async for order in orders.find()])
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= told[-1]
