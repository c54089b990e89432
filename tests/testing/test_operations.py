"""Sequences of operations do on two stores the same, and are small when little is asked."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import find, given, settings

from kvorm import Key, KvormError, MemoryStore, Model
from kvorm.testing.faults import Faults
from kvorm.testing.operations import Operation, Save, operations

quickly = settings(max_examples=50, deadline=None)


class Item(Model, bucket="items"):
    tenant: Key[str]
    number: Key[int]
    text: str = ""


async def outcomes(store: Any, sequence: list[Operation[Item]]) -> list[object]:
    items = store.repository(Item)
    told: list[object] = []
    for operation in sequence:
        try:
            told.append(await operation.on(items))
        except KvormError as error:
            told.append((type(error), str(error)[:20]))
    return told


@given(operations(Item))
@quickly
def test_the_same_on_two_stores(sequence: list[Operation[Item]]) -> None:
    async def both() -> None:
        assert await outcomes(MemoryStore(), sequence) == await outcomes(Faults().over(MemoryStore()), sequence)

    asyncio.run(both())


def test_the_smallest_sequences() -> None:
    chosen = settings(quickly, max_examples=300, database=None)
    assert find(operations(Item), lambda _: True, settings=chosen) == []
    (only,) = find(operations(Item), bool, settings=chosen)
    key = only.key if not isinstance(only, Save) else (only.value.tenant, only.value.number)
    assert key == ("", 0)
