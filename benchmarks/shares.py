"""Where the processor time of an operation goes: in Python and in the server, and in which part of Python's.

`python -m benchmarks.shares`. The times are the best of a few runs; the shares come from one more under cProfile, by
its counts of processor time: what calls much is shown larger than it is.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel

import kvorm
from benchmarks.codec import SMALL
from benchmarks.lists import all_of, keys_of
from benchmarks.peers import key
from benchmarks.timing import Run, at_once, one_by_one
from kvorm import Mapping, Repository
from kvorm.testing.servers import NatsServer

ITEMS = 20_000
CALLS = 3_000
REPEATS = 3
TICKS = 100

PARTS = ("event loop", "messages", "keys, objects", "codec", "other")
Function = tuple[str, int, str]
Times = dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]]


def part(function: Function) -> str | None:
    """Return the part that a function belongs to, or None for a built-in one or one of another library."""
    file, _, name = function
    if "pydantic" in name or "msgspec" in name or file.endswith(("/codec.py", "/exact.py", "/plan.py")):
        return "codec"
    if "/kvorm/backends/" in file or "/nats/" in file:
        return "messages"
    if "/kvorm/" in file:
        return "keys, objects"
    if "asyncio" in file or "/selectors.py" in file or "select." in name or "_socket" in name or "_asyncio" in name:
        return "event loop"
    return None


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Return the share of each part; what a built-in function takes counts for those that call it."""
    # Typeshed does not know the one attribute that holds it all.
    times: Times = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    taken: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in times.items():
        if (of := part(function)) is not None or not callers:
            taken[of or "other"] += own
        else:
            for caller, (_, _, for_it, _) in callers.items():
                taken[part(caller) or "other"] += for_it
    return {name: taken[name] / sum(taken.values()) for name in PARTS}


def server_seconds(pid: int) -> float:
    """Return the processor time of a process so far, by Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def row(run: Run, items: int, pid: int) -> tuple[float, float, dict[str, float]]:
    """Return microseconds per item of Python and of the server, and the shares of Python's."""
    best = (float("inf"), float("inf"))
    for _ in range(REPEATS):
        server, python = server_seconds(pid), time.process_time()
        await run()
        best = min(best, (time.process_time() - python, server_seconds(pid) - server))
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    await run()
    profile.disable()
    return best[0] / items * 1e6, best[1] / items * 1e6, shares(profile)


def runs(objects: Repository[BaseModel], values: Sequence[BaseModel]) -> dict[str, tuple[Run, int]]:
    keys = [(key(number),) for number in range(ITEMS)]
    return {
        "get, one by one": (partial(one_by_one, lambda number: objects.get(*keys[number]), CALLS), CALLS),
        "get, 100 at once": (partial(at_once, lambda number: objects.get(*keys[number]), ITEMS), ITEMS),
        "get_many": (partial(objects.get_many, keys), ITEMS),
        "find": (partial(all_of, objects), ITEMS),
        "keys": (partial(keys_of, objects), ITEMS),
        "save_many": (partial(objects.save_many, values), ITEMS),
        "load": (partial(objects.load, values), ITEMS),
    }


async def main() -> None:
    values = [SMALL.model_copy(update={"tenant": key(number)}) for number in range(ITEMS)]
    print(f"{'processor time':<18}{'Python, µs':>12}{'server, µs':>12}" + "".join(f"{name:>15}" for name in PARTS))
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        async with kvorm.connect(server.url) as store:
            objects: Repository[BaseModel] = store.repository(type(SMALL), mapping=Mapping("shares", key=("tenant",)))
            await objects.save_many(values)
            for name, (run, items) in runs(objects, values).items():
                python, theirs, parts = await row(run, items, server.pid)
                cells = "".join(f"{parts[each]:>14.0%} " for each in PARTS)
                print(f"{name:<18}{python:>12.1f}{theirs:>12.1f}{cells}")


if __name__ == "__main__":
    asyncio.run(main())
