"""What get and save cost beside hand-written nats-py and Pydantic, on the same server in the same run.

`python -m benchmarks.operations`. Every number is the time of the peer over the time of kvorm, each the best of
interleaved repeats: 1.50x is half as fast again. The peer reads with `direct=True` and saves with `last=`; it neither
validates what it sends nor gives its writes an identity.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
from nats.js.kv import KeyValue
from pydantic import BaseModel

import kvorm
from benchmarks.codec import NESTED, SMALL, Small
from kvorm import Mapping, Repository
from kvorm.testing.servers import NatsServer

REPEATS = 12
CALLS = 300
AT_ONCE = 100

Work = Callable[[int], Awaitable[object]]


async def one_by_one(work: Work) -> None:
    for number in range(CALLS):
        await work(number % AT_ONCE)


async def at_once(work: Work) -> None:
    for _ in range(CALLS // AT_ONCE):
        await asyncio.gather(*(work(number) for number in range(AT_ONCE)))


async def ratio(run: Callable[[Work], Awaitable[None]], ours: Work, peers: Work) -> float:
    best = {"ours": float("inf"), "peers": float("inf")}
    for _ in range(REPEATS):
        for name, work in (("peers", peers), ("ours", ours)):
            start = time.perf_counter()
            await run(work)
            best[name] = min(best[name], time.perf_counter() - start)
    return best["peers"] / best["ours"]


class Bench:
    """One model in a bucket of its own: kvorm's repository beside the plain bucket, on a connection each."""

    def __init__(self, objects: Repository[BaseModel], kv: KeyValue, sample: BaseModel) -> None:
        self._objects = objects
        self._kv = kv
        self._model = type(sample)
        self._keys = [(f"ours-{number}",) for number in range(AT_ONCE)]
        self._ours = [sample.model_copy(update={self._field(): key}) for (key,) in self._keys]
        self._peers = [sample.model_copy(update={self._field(): f"peer-{number}"}) for number in range(AT_ONCE)]
        self._revisions = [0] * AT_ONCE

    def _field(self) -> str:
        return "tenant" if self._model is Small else "name"

    async def fill(self) -> None:
        await self._objects.save_many(self._ours)
        for number in range(AT_ONCE):
            self._revisions[number] = await self._kv.create(
                f"peer-{number}", self._peers[number].model_dump_json().encode()
            )

    async def get(self, number: int) -> object:
        return await self._objects.get(*self._keys[number])

    async def peer_get(self, number: int) -> object:
        entry = await self._kv.get(f"peer-{number}")
        return self._model.model_validate_json(entry.value or b"")

    async def save(self, number: int) -> object:
        return await self._objects.save(self._ours[number])

    async def peer_save(self, number: int) -> object:
        data = self._peers[number].model_dump_json().encode()
        self._revisions[number] = await self._kv.update(f"peer-{number}", data, last=self._revisions[number])
        return self._revisions[number]

    async def ratios(self) -> dict[str, float]:
        await self.fill()
        return {
            "get, one by one": await ratio(one_by_one, self.get, self.peer_get),
            "get, 100 at once": await ratio(at_once, self.get, self.peer_get),
            "save, one by one": await ratio(one_by_one, self.save, self.peer_save),
            "save, 100 at once": await ratio(at_once, self.save, self.peer_save),
        }


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        client = await nats.connect(server.url)
        columns: list[dict[str, float]] = []
        async with kvorm.connect(server.url) as store:
            for sample, field in ((SMALL, "tenant"), (NESTED, "name")):
                mapping = Mapping(bucket=type(sample).__name__, key=(field,))
                objects: Repository[BaseModel] = store.repository(type(sample), mapping=mapping)
                await store.ensure(objects)
                kv = await client.jetstream().key_value(type(sample).__name__)
                columns.append(await Bench(objects, kv, sample).ratios())
        await client.close()
    print(f"{'speed beside nats-py and Pydantic':<40}{'small':>8}{'nested':>8}")
    for name in columns[0]:
        print(f"{name:<40}" + "".join(f"{column[name]:>7.2f}x" for column in columns))


if __name__ == "__main__":
    asyncio.run(main())
