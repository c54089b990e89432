"""What an operation costs in buckets of 1,000 to 100,000 keys, all on one server in one run.

`python -m benchmarks.sizes`. Microseconds per call, of the lists per key; each the best of interleaved repeats.
`benchmarks.scale` goes on to 1,000,000.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from pydantic import BaseModel

from benchmarks.lists import all_of, keys_of
from benchmarks.peers import SAMPLES, Clients, clients, key
from benchmarks.timing import Row, Way, best_times, one_by_one
from kvorm import Mapping, Repository

SIZES = (1_000, 10_000, 100_000)
CALLS = 300
REPEATS = 3


async def filled(clients: Clients, size: int) -> Repository[BaseModel]:
    sample, field = SAMPLES["small"]
    objects = clients.store.repository(type(sample), mapping=Mapping(f"sizes-{size}", key=(field,)))
    await objects.load(sample.model_copy(update={field: key(number)}) for number in range(size))
    return objects


async def ways(objects: Repository[BaseModel], size: int) -> dict[str, tuple[Way, int]]:
    """Return for each operation how to do it, and to how many keys."""
    names = [key(number * (size // CALLS)) for number in range(CALLS)]
    values = [await objects.get(name) for name in names]
    return {
        "get": (Way(partial(one_by_one, lambda number: objects.get(names[number]), CALLS)), CALLS),
        "save": (Way(partial(one_by_one, lambda number: objects.save(values[number]), CALLS)), CALLS),
        "keys": (Way(partial(keys_of, objects)), size),
        "count": (Way(objects.count), size),
        "find": (Way(partial(all_of, objects)), size),
    }


async def sizes(clients: Clients) -> list[Row]:
    """Return a row for each operation, its costs by the number of keys."""
    each = {size: await ways(await filled(clients, size), size) for size in SIZES}
    rows = []
    for name in each[SIZES[0]]:
        best = await best_times({f"{size:,}": each[size][name][0] for size in SIZES}, REPEATS)
        rows.append(Row(name, {f"{size:,}": best[f"{size:,}"] / each[size][name][1] * 1e6 for size in SIZES}))
    return rows


def sizes_table(rows: Sequence[Row]) -> str:
    """Return the microseconds of each operation by the number of keys."""
    lines = [f"{'cost by number of keys':<22}" + "".join(f"{size + ', µs':>12}" for size in rows[0].costs)]
    for row in rows:
        name = f"{row.name}, {unit(row)}"
        lines.append(f"{name:<22}" + "".join(f"{cost:>12.1f}" for cost in row.costs.values()))
    return "\n".join(lines)


def unit(row: Row) -> str:
    return "a call" if row.name in {"get", "save"} else "a key"


async def main() -> None:
    async with clients() as each:
        print(sizes_table(await sizes(each)))


if __name__ == "__main__":
    asyncio.run(main())
