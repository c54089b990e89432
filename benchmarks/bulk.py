"""What writing many objects costs beside hand-written nats-py, and natsrpy, and Pydantic, on one server in one run.

`python -m benchmarks.bulk`. A ratio is the time of the peer over the time of kvorm, each the best of interleaved
repeats. The peers gather 100 writes at once. Saves and deletes are checked against revisions; loads are not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from pydantic import BaseModel

from benchmarks.peers import Beside, Clients, Peer, compare, key
from benchmarks.timing import Case, Way, at_once
from kvorm import ANY, Repository

ITEMS = 3_000
REPEATS = 5


@dataclass
class Ours:
    objects: Repository[BaseModel]
    values: list[BaseModel]

    async def fill(self) -> None:
        await self.objects.save_many(self.values, expect=ANY)

    def ways(self) -> dict[str, Way]:
        return {
            "save_many": Way(partial(self.objects.save_many, self.values)),
            "delete_many": Way(partial(self.objects.delete_many, self.values), before=self.fill),
            "load": Way(partial(self.objects.load, self.values)),
        }


@dataclass
class Theirs:
    peer: Peer
    values: list[BaseModel]
    revisions: list[int] = field(default_factory=lambda: [0] * ITEMS)

    async def put(self, number: int) -> None:
        self.revisions[number] = await self.peer.put(key(number), self.values[number])

    async def update(self, number: int) -> None:
        self.revisions[number] = await self.peer.update(key(number), self.values[number], self.revisions[number])

    async def delete(self, number: int) -> None:
        await self.peer.delete(key(number), self.revisions[number])

    def ways(self) -> dict[str, Way]:
        fill = partial(at_once, self.put, ITEMS)
        return {
            "save_many": Way(partial(at_once, self.update, ITEMS)),
            "delete_many": Way(partial(at_once, self.delete, ITEMS), before=fill),
            "load": Way(fill),
        }


async def cases(clients: Clients, model: str) -> list[Case]:
    each: Beside = await clients.beside(model, f"bulk-{model}")
    ways = {"kvorm": Ours(each.objects, each.values(ITEMS)).ways()}
    ways |= {name: Theirs(peer, each.values(ITEMS)).ways() for name, peer in each.peers.items()}
    return [
        Case(name, ITEMS, {who: way[what] for who, way in ways.items()}, REPEATS)
        for name, what in (
            ("save_many, checked", "save_many"),
            ("delete_many, checked", "delete_many"),
            ("load", "load"),
        )
    ]


if __name__ == "__main__":
    asyncio.run(compare(cases))
