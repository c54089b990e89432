"""Nothing stays of any operation, and lists do not use up what a server has (C3)."""

import asyncio
from pathlib import Path

import pytest

import kvorm
from kvorm import Bucket, Mapping
from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.calls import BUCKET, OPERATIONS, STANDING, Note, left_of_calls

CALLS = 100
"""`python -m tests.faults calls` makes 10,000 of each."""

LISTS = 1_001
"""A server takes 1,000 consumers of a stream (hazard H19)."""


async def test_nothing_stays_of_any_operation(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        left = {name: each async for name, each in left_of_calls(server.url, CALLS)}
    assert left.keys() == OPERATIONS.keys()
    assert {name: each for name, each in left.items() if not each.nothing} == {}


async def test_nothing_stays_on_a_cluster(nats_cluster: NatsCluster) -> None:
    bucket = Bucket("calls-on-a-cluster", history=BUCKET.history, replicas=3)
    left = {name: each async for name, each in left_of_calls(nats_cluster.urls, CALLS // 10, bucket)}
    assert {name: each for name, each in left.items() if not each.nothing} == {}


@pytest.mark.parametrize("operation", ["count", "keys"])
async def test_lists_do_not_use_up_the_consumers(tmp_path: Path, operation: str) -> None:
    """So many in seconds; a watch is still to be had then."""
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url) as store:
            notes = store.repository(Note, mapping=Mapping(BUCKET, key=("id",)))
            await notes.load(Note(id=number) for number in range(STANDING))
            for _ in range(0, LISTS, 20):
                await asyncio.gather(*(OPERATIONS[operation](notes, number) for number in range(20)))
            async with notes.view() as view:
                assert len(view) == STANDING
