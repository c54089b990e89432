"""Times taken in turns, so that a slow moment of the machine falls on all alike, and the table of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

AT_ONCE = 100

Run = Callable[[], Awaitable[object]]
Work = Callable[[int], Awaitable[object]]
"""One piece of work, by number."""


async def one_by_one(work: Work, count: int) -> None:
    for number in range(count):
        await work(number)


async def at_once(work: Work, count: int) -> None:
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(work(number) for number in range(start, min(start + AT_ONCE, count))))


@dataclass(frozen=True)
class Way:
    """One way to do an operation; `before` is not timed."""

    run: Run
    before: Run | None = None


async def best_times(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Return the best seconds of each."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            if way.before is not None:
                await way.before()
            start = time.perf_counter()
            await way.run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class Case:
    """One operation, done in several ways; kvorm's is the first."""

    name: str
    items: int
    ways: dict[str, Way]
    repeats: int = 8

    async def row(self) -> Row:
        best = await best_times(self.ways, self.repeats)
        return Row(self.name, {name: seconds / self.items * 1e6 for name, seconds in best.items()})


@dataclass(frozen=True)
class Row:
    """Microseconds per item of each way to do an operation; kvorm's is the first."""

    name: str
    costs: dict[str, float]

    @property
    def ours(self) -> float:
        return next(iter(self.costs.values()))

    def ratios(self) -> dict[str, float]:
        """Return how many times the time of ours each other takes: 2.00 is twice as fast as that one."""
        return {name: cost / self.ours for name, cost in list(self.costs.items())[1:]}


def table(columns: Mapping[str, Sequence[Row]]) -> str:
    """Return what an item costs with kvorm for each model, and how much faster that is than the others."""
    peers = list(next(iter(columns.values()))[0].ratios())
    heading = "".join(f"{model + ', µs':>12}" + "".join(f"{peer:>10}" for peer in peers) for model in columns)
    lines = [f"{'speed beside peers':<22}{heading}"]
    for rows in zip(*columns.values(), strict=True):
        cells = [f"{row.ours:>12.1f}" + "".join(f"{each:>9.2f}x" for each in row.ratios().values()) for row in rows]
        lines.append(f"{rows[0].name:<22}{''.join(cells)}")
    return "\n".join(lines)
