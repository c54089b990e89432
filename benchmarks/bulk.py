"""What writing many objects costs beside hand-written nats-py and Pydantic, and natsrpy, on one server in one run.

`python -m benchmarks.bulk`. Every number is the time of the peer over the time of kvorm, each the best of interleaved
repeats. The peers gather 100 writes at once; for a load, natsrpy and nats-py put without a check. They neither validate
what they send nor give their writes an identity. `deletes` of nats-py are checked against a revision, as ours are.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.js.kv import KeyValue
from natsrpy import Nats
from pydantic import BaseModel

import kvorm
from benchmarks.codec import NESTED, SMALL, Small
from kvorm import Mapping, Repository
from kvorm.testing.servers import NatsServer

REPEATS = 8
ITEMS = 3_000
AT_ONCE = 100

Work = Callable[[], Awaitable[object]]


async def gathered(write: Callable[[int], Awaitable[object]]) -> None:
    for start in range(0, ITEMS, AT_ONCE):
        await asyncio.gather(*(write(number) for number in range(start, start + AT_ONCE)))


async def best_times(works: dict[str, Work]) -> dict[str, float]:
    """Return the best microseconds per item of each."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.perf_counter()
            await work()
            best[name] = min(best[name], (time.perf_counter() - start) / ITEMS * 1e6)
    return best


class Bench:
    """One model in buckets of its own: one for kvorm, one for each peer."""

    def __init__(self, objects: Repository[BaseModel], kv: KeyValue, rust: Any, sample: BaseModel) -> None:
        self._objects = objects
        self._kv = kv
        self._rust = rust
        field = "tenant" if isinstance(sample, Small) else "name"
        self._items = [sample.model_copy(update={field: f"key-{number}"}) for number in range(ITEMS)]
        self._revisions = [0] * ITEMS

    async def save(self) -> None:
        await self._objects.save_many(self._items)

    async def delete(self) -> None:
        await self._objects.delete_many(self._items)

    async def load(self) -> None:
        await self._objects.load(self._items)

    async def peer_save(self) -> None:
        await gathered(self._update)

    async def peer_load(self) -> None:
        await gathered(self._put)

    async def peer_delete(self) -> None:
        await gathered(self._delete)

    async def rust_load(self) -> None:
        await gathered(self._rust_put)

    async def _update(self, number: int) -> None:
        data = self._items[number].model_dump_json().encode()
        self._revisions[number] = await self._kv.update(f"key-{number}", data, last=self._revisions[number] or None)

    async def _put(self, number: int) -> None:
        await self._kv.put(f"key-{number}", self._items[number].model_dump_json().encode())

    async def _delete(self, number: int) -> None:
        await self._kv.delete(f"key-{number}")

    async def _rust_put(self, number: int) -> None:
        await self._rust.put(f"key-{number}", self._items[number].model_dump_json().encode())

    async def rows(self) -> dict[str, tuple[float, float, float | None]]:
        """Return for each operation our microseconds per item, and how many times those the peers take."""
        saves = await best_times({"ours": self.save, "nats-py": self.peer_save})
        loads = await best_times({"ours": self.load, "nats-py": self.peer_load, "natsrpy": self.rust_load})
        return {
            "save_many, checked": (saves["ours"], saves["nats-py"] / saves["ours"], None),
            "load": (loads["ours"], loads["nats-py"] / loads["ours"], loads["natsrpy"] / loads["ours"]),
        }


def show(columns: Sequence[tuple[str, dict[str, tuple[float, float, float | None]]]]) -> None:
    print(f"{'speed beside peers':<24}{'model':<8}{'µs each':>10}{'nats-py':>10}{'natsrpy':>10}")
    for model, rows in columns:
        for name, (ours, plain, rust) in rows.items():
            told = f"{rust:>9.2f}x" if rust is not None else f"{'-':>10}"
            print(f"{name:<24}{model:<8}{ours:>10.1f}{plain:>9.2f}x{told}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        client = await nats.connect(server.url)
        rust = Nats([server.url])
        await rust.startup()
        columns: list[tuple[str, dict[str, tuple[float, float, float | None]]]] = []
        async with kvorm.connect(server.url) as store:
            for sample, field in ((SMALL, "tenant"), (NESTED, "name")):
                name = type(sample).__name__
                repositories: list[Repository[BaseModel]] = [
                    store.repository(type(sample), mapping=Mapping(bucket=f"{name}{who}", key=(field,)))
                    for who in ("", "-nats-py", "-natsrpy")
                ]
                await store.ensure(*repositories)
                kv = await client.jetstream().key_value(f"{name}-nats-py")
                other = await (await rust.jetstream()).kv.get(f"{name}-natsrpy")
                columns.append((name.lower(), await Bench(repositories[0], kv, other, sample).rows()))
        await client.close()
        await rust.shutdown()
    show(columns)


if __name__ == "__main__":
    asyncio.run(main())
