"""What get and save cost beside hand-written nats-py, and natsrpy, and Pydantic, on one server in one run.

`python -m benchmarks.operations`. A ratio is the time of the peer over the time of kvorm, each the best of interleaved
repeats: 1.50x is half as fast again. The peers read with direct gets and save against a revision, as kvorm does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from benchmarks.peers import Beside, Clients, Peer, compare, key
from benchmarks.timing import AT_ONCE, Case, Way, Work, at_once, one_by_one

CALLS = 2_000
REPEATS = 10


def ours(each: Beside) -> dict[str, Work]:
    values = each.values(CALLS)
    keys = [key(number) for number in range(CALLS)]
    return {
        "get": lambda number: each.objects.get(keys[number]),
        "save": lambda number: each.objects.save(values[number]),
    }


def theirs(peer: Peer, each: Beside) -> dict[str, Work]:
    values = each.values(CALLS)
    revisions = [0] * CALLS

    async def save(number: int) -> None:
        revisions[number] = await peer.update(key(number), values[number], revisions[number])

    return {"get": lambda number: peer.get(key(number)), "save": save}


async def cases(clients: Clients, model: str) -> list[Case]:
    each = await clients.beside(model, f"operations-{model}")
    works = {"kvorm": ours(each)} | {name: theirs(peer, each) for name, peer in each.peers.items()}
    for work in works.values():
        await at_once(work["save"], CALLS)
    manners: dict[str, Callable[[Work, int], Awaitable[None]]] = {
        "one by one": one_by_one,
        f"{AT_ONCE} at once": at_once,
    }
    return [
        Case(
            f"{what}, {manner}",
            CALLS,
            {name: Way(partial(run, work[what], CALLS)) for name, work in works.items()},
            REPEATS,
        )
        for what in ("get", "save")
        for manner, run in manners.items()
    ]


if __name__ == "__main__":
    asyncio.run(compare(cases))
