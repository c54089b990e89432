"""Three nodes whose leader goes, under load: nothing lost, no chain of checked writes broken, no read too old."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

import kvorm
from kvorm import Repository, revision_of
from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.workload import BUCKET, Account, Bank, Outcome, Stored, run, with_kvorm

FAULTS = ("step down", "pause", "stop", "kill")
WRITERS = 2
PAUSES = (1.5, 10.0)
"""Seconds, in turns: too short for another leader, and long enough for one."""


async def by_get(accounts: Repository[Account], key: str) -> int:
    return revision_of(await accounts.get(key)) or 0


async def by_entry(accounts: Repository[Account], key: str) -> int:
    return (await accounts.entry(key)).revision


async def by_history(accounts: Repository[Account], key: str) -> int:
    return (await accounts.history(key))[-1].revision


READS: dict[str, Callable[[Repository[Account], str], Awaitable[int]]] = {
    "get": by_get,
    "entry": by_entry,
    "history": by_history,
}


@dataclass
class Run:
    """What clients were told and what is stored; how many reads of each kind there were, and which were too old."""

    outcome: Outcome = field(default_factory=Outcome)
    stored: Stored = field(default_factory=lambda: Stored(Counter(), 0))
    reads: Counter[str] = field(default_factory=Counter[str])
    stale: list[str] = field(default_factory=list[str])
    chained: int = 0
    broken: list[str] = field(default_factory=list[str])

    @property
    def least_reads(self) -> int:
        """How many reads there were of the kind of which there were fewest."""
        return min(self.reads[kind] for kind in READS)


class Freshness:
    """Compares what readers see with what was acknowledged, to anybody, before they began."""

    def __init__(self, keys: list[str], into: Run) -> None:
        self._revisions = dict.fromkeys(keys, 0)
        self._latest = keys[0]
        self._into = into

    def acknowledged(self, key: str, revision: int) -> None:
        self._latest = key
        self._revisions[key] = max(self._revisions[key], revision)

    async def read(self, accounts: Repository[Account], kind: str) -> None:
        """Read what was acknowledged last: there a copy that is behind is seen."""
        key = self._latest
        least = self._revisions[key]
        seen = await READS[kind](accounts, key)
        self._into.reads[kind] += 1
        if seen < least:
            self._into.stale.append(f"{kind} of {key}: {seen} < {least}")


async def leader_goes(directory: Path, fault: str, *, accounts: int, strikes: int, reads: int) -> Run:
    """Strike the leader so often, while two clients write and two make at least so many reads of each kind.

    The reads are spread over the strikes, and each strike is healed when they are counted.
    """
    bank = Bank(accounts, history=64, replicas=3)
    result = Run()
    with NatsCluster(directory) as cluster:
        await bank.open(cluster.urls)
        async with AsyncExitStack() as stack:
            # A leader that was killed is replaced after seven to nine seconds, on a busy machine later.
            connects = [kvorm.connect(cluster.urls, timeout=timedelta(seconds=60)) for _ in range(WRITERS + 2)]
            stores = [await stack.enter_async_context(connect) for connect in connects]
            client = await nats.connect(
                cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore
            )
            stack.push_async_callback(client.close)
            freshness = Freshness(bank.keys, result)
            moves = [with_kvorm(bank.of(store), freshness.acknowledged) for store in stores[:WRITERS]]
            struck = 0

            async def strike(choice: random.Random, outcome: Outcome) -> None:
                nonlocal struck
                del choice, outcome
                await asyncio.sleep(0.7)
                await _strike(fault, cluster, client, struck)
                struck += 1
                enough = result.least_reads + reads / strikes
                while result.least_reads < enough:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

            async def reader(repository: Repository[Account]) -> None:
                while True:
                    for kind in READS:
                        await freshness.read(repository, kind)

            async with asyncio.TaskGroup() as tasks:
                reading = [tasks.create_task(reader(bank.of(store))) for store in stores[WRITERS:]]
                result.outcome = await run(moves, bank.keys, strike, lambda: struck < strikes)
                for task in reading:
                    task.cancel()
            await _check_chains(client, bank, result)
        result.stored = await bank.stored(cluster.urls)
    return result


async def _ignore(error: Exception) -> None:
    del error


async def _strike(fault: str, cluster: NatsCluster, client: Client, number: int) -> None:
    if fault == "step down":
        await _ask_to_step_down(client)
        return
    node = await _leader(cluster, client)
    if fault == "pause":
        node.pause()
        await asyncio.sleep(PAUSES[number % len(PAUSES)])
        node.resume()
    else:
        await asyncio.to_thread(node.stop if fault == "stop" else node.kill)
        await asyncio.to_thread(node.start)
    await asyncio.to_thread(cluster.wait_healthy)


async def _ask_to_step_down(client: Client) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.KV_{BUCKET}", b"", timeout=3)
                return
            except nats.errors.Error:
                await asyncio.sleep(0.1)


async def _leader(cluster: NatsCluster, client: Client) -> NatsServer:
    async with asyncio.timeout(30):
        while True:
            try:
                info = await client.jetstream().stream_info(f"KV_{BUCKET}")
            except nats.errors.Error:
                info = None
            for node in cluster.nodes:
                if info and info.cluster and info.cluster.leader == node.name:
                    return node
            await asyncio.sleep(0.1)


async def _check_chains(client: Client, bank: Bank, result: Run) -> None:
    """Each kept write expected the one that is kept before it."""
    for key in bank.keys:
        before = 0
        async for message in _kept(client, key):
            expected = int((message.headers or {}).get("Nats-Expected-Last-Subject-Sequence", "-1"))
            result.chained += 1
            if before and expected != before:
                result.broken.append(f"{key}: {message.seq} expected {expected}, and {before} is before it")
            before = message.seq or 0


async def _kept(client: Client, key: str) -> AsyncIterator[RawStreamMsg]:
    after = 0
    while True:
        try:
            message = await client.jetstream().get_msg(
                f"KV_{BUCKET}", seq=after + 1, subject=f"$KV.{BUCKET}.{key}", next=True
            )
        except NotFoundError:
            return
        yield message
        after = message.seq or 0
