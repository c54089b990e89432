"""What `reads="latest"` costs beside `reads="nearest"` on a cluster of three, and both beside nats-py and Pydantic.

`python -m benchmarks.reads`. Every number is the time of the peer over the time of kvorm, each the best of interleaved
repeats: 1.50x is half as fast again. The peer reads with direct gets, from any replica; the revisions of a history
it has to be told. All are connected to a node that does not lead the bucket, as two of three clients are.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import nats
from nats.js.kv import KeyValue

import kvorm
from benchmarks.codec import SMALL, Small
from benchmarks.timing import AT_ONCE, Way, Work, at_once, best_times, one_by_one
from kvorm import Bucket, Mapping, Repository, Store
from kvorm.testing.servers import NatsCluster, NatsServer

REPEATS = 12
CALLS = 300
KEPT = 5
MAPPING = Mapping(Bucket("orders", history=KEPT, replicas=3), key=("tenant",))


async def ratios(run: Callable[[Work, int], Awaitable[None]], works: dict[str, Work]) -> dict[str, float]:
    """Return the time of the first over that of each other, taken in turns."""
    best = await best_times({name: Way(partial(run, by_key(work), CALLS)) for name, work in works.items()}, REPEATS)
    peer, *others = best
    return {name: best[peer] / best[name] for name in others}


def by_key(work: Work) -> Work:
    return lambda number: work(number % AT_ONCE)


def gets(orders: Repository[Small]) -> Work:
    return lambda number: orders.get(f"t{number}")


def histories(orders: Repository[Small]) -> Work:
    return lambda number: orders.history(f"t{number}")


def peer_get(kv: KeyValue) -> Work:
    async def get(number: int) -> object:
        entry = await kv.get(f"t{number}")
        return Small.model_validate_json(entry.value or b"")

    return get


def peer_history(kv: KeyValue, revisions: list[list[int]]) -> Work:
    async def history(number: int) -> object:
        kept = [await kv.get(f"t{number}", revision=each[number]) for each in revisions]
        return [Small.model_validate_json(entry.value or b"") for entry in kept]

    return history


async def fill(store: Store) -> list[list[int]]:
    """Write everything as often as it is kept; return the revisions of each time."""
    orders = store.repository(Small, mapping=MAPPING)
    values = [SMALL.model_copy(update={"tenant": f"t{number}"}) for number in range(AT_ONCE)]
    return [await orders.save_many(values) for _ in range(KEPT)]


async def follower(cluster: NatsCluster) -> NatsServer:
    client = await nats.connect(cluster.urls)
    info = await client.jetstream().stream_info("KV_orders")
    await client.close()
    assert info.cluster is not None
    return next(node for node in cluster.nodes if node.name != info.cluster.leader)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsCluster(Path(directory)) as cluster:
        async with kvorm.connect(cluster.urls) as store:
            revisions = await fill(store)
        url = (await follower(cluster)).url
        client = await nats.connect(url)
        kv = await client.jetstream().key_value("orders")
        async with kvorm.connect(url) as latest, kvorm.connect(url, reads="nearest") as nearest:
            repositories = {
                "latest": latest.repository(Small, mapping=MAPPING),
                "nearest": nearest.repository(Small, mapping=MAPPING),
            }
            reading = {name: gets(orders) for name, orders in repositories.items()}
            walking = {name: histories(orders) for name, orders in repositories.items()}
            rows = {
                "get, one by one": await ratios(one_by_one, {"peer": peer_get(kv), **reading}),
                "get, 100 at once": await ratios(at_once, {"peer": peer_get(kv), **reading}),
                f"history of {KEPT}, one by one": await ratios(
                    one_by_one, {"peer": peer_history(kv, revisions), **walking}
                ),
            }
        await client.close()
    print(f"{'speed beside nats-py and Pydantic':<40}{'latest':>8}{'nearest':>8}{'latest / nearest':>18}")
    for name, row in rows.items():
        print(f"{name:<40}{row['latest']:>7.2f}x{row['nearest']:>7.2f}x{row['latest'] / row['nearest']:>17.2f}x")


if __name__ == "__main__":
    asyncio.run(main())
