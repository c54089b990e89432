"""What a view saves beside asking the server, and what it holds in memory.

`python -m benchmarks.views`. A ratio is the time of the peer (nats-py's `get(key)` of a plain bucket, and Pydantic)
over the time of `view.get`, each the best of interleaved repeats; views hand out copies, but of immutable models.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import nats
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict

import kvorm
from benchmarks.codec import NESTED, SMALL, Small
from kvorm import Mapping, MemoryStore, Repository, View
from kvorm.testing.servers import NatsServer

REPEATS = 15
PEER_CALLS = 200
VIEW_CALLS = 20_000
KEYS = 100
HELD = 10_000


class Fixed(Small):
    """The small model, immutable."""

    model_config = ConfigDict(frozen=True)


FIXED = Fixed.model_validate(SMALL.model_dump())
SAMPLES: list[tuple[str, BaseModel, str]] = [
    ("flat", SMALL, "tenant"),
    ("immutable", FIXED, "tenant"),
    ("nested", NESTED, "name"),
]


async def peer(kv: KeyValue, model: type[BaseModel]) -> float:
    start = time.perf_counter()
    for number in range(PEER_CALLS):
        entry = await kv.get(f"key-{number % KEYS}")
        model.model_validate_json(entry.value or b"")
    return (time.perf_counter() - start) / PEER_CALLS


def ours(view: View[Any]) -> float:
    keys = [f"key-{number}" for number in range(KEYS)]
    start = time.perf_counter()
    for _ in range(VIEW_CALLS // KEYS):
        for key in keys:
            view.get(key)
    return (time.perf_counter() - start) / VIEW_CALLS


async def ratio(objects: Repository[Any], kv: KeyValue) -> tuple[float, float, float]:
    """Return how often faster a view is, and the microseconds of both."""
    best_peer = best_ours = float("inf")
    async with objects.view() as view:
        assert len(view) == KEYS
        for _ in range(REPEATS):
            best_peer = min(best_peer, await peer(kv, objects.model))
            best_ours = min(best_ours, ours(view))
    return best_peer / best_ours, best_peer * 1e6, best_ours * 1e6


async def bytes_per_entry(sample: BaseModel, field: str) -> tuple[float, float]:
    """Return what a view holds per entry, and what the decoded models alone take."""
    async with MemoryStore() as store:
        mapping: Mapping = Mapping("held", key=(field,))
        objects: Repository[Any] = store.repository(type(sample), mapping=mapping)
        await objects.save_many([sample.model_copy(update={field: f"key-{n}"}) for n in range(HELD)])
        texts = [sample.model_copy(update={field: f"key-{n}"}).model_dump_json() for n in range(HELD)]
        gc.collect()
        tracemalloc.start()
        models = [type(sample).model_validate_json(text) for text in texts]
        alone = tracemalloc.get_traced_memory()[0] / HELD
        del models
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        async with objects.view() as view:
            gc.collect()
            held = (tracemalloc.get_traced_memory()[0] - before) / len(view)
        tracemalloc.stop()
    return held, alone


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        client = await nats.connect(server.url)
        print(f"{'view.get':<12}{'faster':>10}{'peer':>12}{'view':>10}{'per entry':>12}{'models alone':>14}")
        async with kvorm.connect(server.url) as store:
            for name, sample, field in SAMPLES:
                objects: Repository[Any] = store.repository(
                    type(sample), mapping=Mapping(bucket=type(sample).__name__, key=(field,))
                )
                await objects.save_many([sample.model_copy(update={field: f"key-{n}"}) for n in range(KEYS)])
                kv = await client.jetstream().key_value(type(sample).__name__)
                faster, peers, views = await ratio(objects, kv)
                held, alone = await bytes_per_entry(sample, field)
                print(f"{name:<12}{faster:>9.0f}x{peers:>9.0f} us{views:>7.2f} us{held:>10.0f} B{alone:>12.0f} B")
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
