"""Each fault does what it says, and leaves the promises of kvorm standing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from kvorm import (
    Bucket,
    Entry,
    Key,
    KeyNotFoundError,
    MemoryStore,
    Model,
    RevisionMismatchError,
    StoreTimeoutError,
    StoreUnavailableError,
    revision_of,
)
from kvorm.testing.contract import CHECKS
from kvorm.testing.contract.harness import Check
from kvorm.testing.contract.on_memory import MemoryHarness
from kvorm.testing.faults import Fault, Faults


class Item(Model, bucket=Bucket("items", history=5)):
    id: Key[str]
    n: int = 0


async def test_a_lost_race_is_a_conflict() -> None:
    faults = Faults()
    items = faults.over(MemoryStore()).repository(Item)
    item = Item(id="a")
    await items.save(item)
    faults.inject(Fault.LOST_RACE)
    item.n = 1
    with pytest.raises(RevisionMismatchError):
        await items.save(item)
    assert (await items.get("a")).n == 0
    faults.inject(Fault.LOST_RACE)
    await items.update("a", apply=lambda each: each.model_copy(update={"n": 2}))
    assert (await items.get("a")).n == 2
    assert [happened.fault for happened in faults.happened] == [Fault.LOST_RACE] * 2


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.TIMEOUT, Fault.LATE_WRITE])
async def test_an_unknown_write_does_not_conflict_with_itself(fault: Fault) -> None:
    faults = Faults()
    items = faults.over(MemoryStore()).repository(Item)
    item = Item(id="a")
    faults.inject(fault)
    with pytest.raises(StoreTimeoutError):
        await items.save(item)
    item.n = 1
    await items.save(item)
    assert (await items.get("a")).n == 1


async def test_a_disconnect_stores_nothing() -> None:
    faults = Faults()
    items = faults.over(MemoryStore()).repository(Item)
    faults.inject(Fault.DISCONNECT, verb="put")
    item = Item(id="a")
    with pytest.raises(StoreUnavailableError):
        await items.save(item)
    assert revision_of(item) is None
    with pytest.raises(KeyNotFoundError):
        await items.get("a")


async def test_a_stale_read_is_never_older_than_what_the_client_knows() -> None:
    base = MemoryStore()
    faults = Faults()
    mine = faults.over(base).repository(Item)
    theirs = MemoryStore(server=base.server).repository(Item)
    item = Item(id="a", n=1)
    await mine.save(item)
    faults.inject(Fault.STALE_READ)
    assert (await mine.get("a")).n == 1
    await theirs.update("a", apply=lambda each: each.model_copy(update={"n": 2}))
    faults.inject(Fault.STALE_READ)
    assert (await mine.get("a")).n == 1
    assert (await mine.get("a")).n == 2
    faults.inject(Fault.STALE_READ)
    assert (await mine.get("a")).n == 2


async def test_a_late_event_comes_late_and_in_order() -> None:
    faults = Faults(late_by=timedelta(milliseconds=50))
    items = faults.over(MemoryStore()).repository(Item)
    await items.save(Item(id="a"))
    loop = asyncio.get_running_loop()
    faults.inject(Fault.LATE_EVENT)
    began = loop.time()
    async with items.watch() as watch:
        async for event in watch:
            assert isinstance(event, Entry)
            break
    assert loop.time() - began >= 0.045


async def test_a_seed_says_what_happens() -> None:
    async def run(seed: int) -> list[tuple[Fault, str]]:
        faults = Faults.seeded(seed, rate=0.3, faults=[Fault.DISCONNECT, Fault.TIMEOUT])
        items = faults.over(MemoryStore()).repository(Item)
        for number in range(30):
            with suppress(StoreTimeoutError, StoreUnavailableError):
                await items.save(Item(id=str(number)))
        return [(happened.fault, happened.call.verb) for happened in faults.happened]

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)


async def test_a_fault_that_cannot_happen_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot happen to 'get'"):
        Faults().inject(Fault.LOST_RACE, verb="get")


class LayeredHarness(MemoryHarness):
    """A memory server whose stores have a layer without faults."""

    async def open(self, **options: Any) -> Any:
        return Faults().over(await super().open(**options))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_holds_over_a_layer(check: Check) -> None:
    async with asyncio.timeout(30), LayeredHarness() as harness:
        await check(harness)
