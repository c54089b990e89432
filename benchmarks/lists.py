"""What reading many objects costs beside hand-written nats-py, and natsrpy, and Pydantic, on one server in one run.

`python -m benchmarks.lists`. A ratio is the time of the peer over the time of kvorm, each the best of interleaved
repeats. The peers gather 100 reads at once; to find, they ask for the keys and then for each value, and to count, for
the keys. Each item of a history is one call, with five revisions in its answer, one call after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from pydantic import BaseModel

from benchmarks.peers import Beside, Clients, Peer, compare, key
from benchmarks.timing import Case, Way, at_once, one_by_one
from kvorm import Repository

ITEMS = 5_000
READ = 3_000
KEPT = 5
HISTORIES = 50
REPEATS = 5


async def all_of(objects: Repository[BaseModel]) -> list[BaseModel]:
    return [each async for each in objects.find()]


async def keys_of(objects: Repository[BaseModel]) -> list[tuple[object, ...]]:
    keys = objects.keys()
    return [each async for each in keys]


async def found(peer: Peer) -> None:
    keys = await peer.keys()
    await at_once(lambda number: peer.get(keys[number]), len(keys))


def ours(each: Beside) -> dict[str, Way]:
    objects, keys = each.objects, [(key(number),) for number in range(READ)]
    return {
        "get_many": Way(partial(objects.get_many, keys)),
        "keys": Way(partial(keys_of, objects)),
        "count": Way(objects.count),
        "find": Way(partial(all_of, objects)),
    }


def theirs(peer: Peer) -> dict[str, Way]:
    return {
        "get_many": Way(partial(at_once, partial(by_number, peer.get), READ)),
        "keys": Way(peer.keys),
        "count": Way(peer.keys),
        "find": Way(partial(found, peer)),
    }


async def fill(each: Beside, count: int) -> None:
    values = each.values(count)
    await each.objects.load(values)
    for peer in each.peers.values():
        await at_once(partial(put, peer, values), count)


async def put(peer: Peer, values: list[BaseModel], number: int) -> None:
    await peer.put(key(number), values[number])


async def history(clients: Clients, model: str) -> Case:
    each = await clients.beside(model, f"history-{model}", history=KEPT)
    for _ in range(KEPT):
        await fill(each, HISTORIES)
    reads: dict[str, Callable[[str], Awaitable[object]]] = {"kvorm": each.objects.history}
    reads |= {name: peer.history for name, peer in each.peers.items()}
    ways = {name: Way(partial(one_by_one, partial(by_number, read), HISTORIES)) for name, read in reads.items()}
    return Case(f"history, {KEPT} kept", HISTORIES, ways, REPEATS)


async def by_number(read: Callable[[str], Awaitable[object]], number: int) -> None:
    await read(key(number))


async def cases(clients: Clients, model: str) -> list[Case]:
    each = await clients.beside(model, f"lists-{model}")
    await fill(each, ITEMS)
    ways = {"kvorm": ours(each)} | {name: theirs(peer) for name, peer in each.peers.items()}
    return [
        *(
            Case(name, items, {who: way[name] for who, way in ways.items()}, REPEATS)
            for name, items in (("get_many", READ), ("keys", ITEMS), ("count", ITEMS), ("find", ITEMS))
        ),
        await history(clients, model),
    ]


if __name__ == "__main__":
    asyncio.run(compare(cases))
