"""One server behind a hostile network, and killed: moves that were told done are stored, once."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import nats

import kvorm
from kvorm.testing.proxy import Direction, FlakyProxy
from kvorm.testing.servers import NatsServer
from tests.faults.workload import BUCKET, Bank, Fault, Outcome, Stored, lasting, run, with_kvorm, with_naive_retry

CLIENTS = 6
_SWALLOWED = {"answers": [Direction.TO_CLIENT], "questions": [Direction.TO_SERVER], "both": list(Direction)}


@dataclass(frozen=True)
class Run:
    """What the clients were told, and what is stored."""

    outcome: Outcome
    stored: Stored

    @property
    def lost(self) -> int:
        return self.outcome.lost(self.stored)

    @property
    def twice(self) -> int:
        return self.outcome.twice(self.stored)


async def network_faults(directory: Path, bank: Bank, seconds: float, *, kills: float = 0.0) -> Run:
    """Six clients of kvorm; `kills` is the share of the faults that end the server with SIGKILL, too."""
    with NatsServer(directory) as server:
        await bank.open(server.url)
        async with FlakyProxy(server.url) as proxy, AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(kvorm.connect(proxy.url)) for _ in range(CLIENTS)]
            fault = with_kills(server, proxy, kills)
            outcome = await run([with_kvorm(bank.of(store)) for store in stores], bank.keys, fault, lasting(seconds))
        return Run(outcome, await bank.stored(server.url))


async def naive_retry(directory: Path, bank: Bank, seconds: float) -> Run:
    """The same clients and faults over nats-py, with retries after a timeout."""
    with NatsServer(directory) as server:
        await bank.open(server.url)
        async with FlakyProxy(server.url) as proxy, AsyncExitStack() as stack:
            moves = []
            for _ in range(CLIENTS):
                client = await nats.connect(
                    proxy.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, ping_interval=1, error_cb=_ignore
                )
                stack.push_async_callback(client.close)
                moves.append(with_naive_retry(await client.jetstream(timeout=0.3).key_value(BUCKET)))
            outcome = await run(moves, bank.keys, on_network(proxy), lasting(seconds))
        return Run(outcome, await bank.stored(server.url))


async def _ignore(error: Exception) -> None:
    del error


def on_network(proxy: FlakyProxy) -> Fault:
    """Cut, swallow one direction or both, go half-open, or slow down; then let it heal."""

    async def fault(choice: random.Random, _: Outcome) -> None:
        await asyncio.sleep(choice.uniform(0.05, 0.25))
        match choice.choice(["cut", "answers", "questions", "both", "half-open", "delay"]):
            case "cut":
                proxy.cut()
            case "half-open":
                # Until the clients notice, or the next cut.
                proxy.strand()
            case "delay":
                proxy.delay = 0.03
                await asyncio.sleep(0.2)
                proxy.delay = 0.0
            case swallowed:
                proxy.swallow(*_SWALLOWED[swallowed])
                await asyncio.sleep(0.1)
                proxy.cut()
                proxy.swallow()

    return fault


def with_kills(server: NatsServer, proxy: FlakyProxy, share: float) -> Fault:
    network = on_network(proxy)

    async def fault(choice: random.Random, outcome: Outcome) -> None:
        await network(choice, outcome)
        if choice.random() < share:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            outcome.kills += 1

    return fault
