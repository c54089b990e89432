"""The watches' part of the long form: faults, the end of the initial state, limits, and `wait_for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles

from kvorm.testing.servers import NatsServer
from tests.faults.observing import Report, Scene, observe
from tests.faults.table import Row, Table, nonzero
from tests.faults.watch_faults import a_cluster, another_bucket, one_server
from tests.faults.watch_limits import BUCKET, LOADS, SIZE, caught_up, left_watches, slow_reader, waiting

ROUNDS: dict[str, int] = {
    "kill -9": 12,
    "SIGTERM": 10,
    "server paused": 6,
    "client paused": 6,
    "connection cut": 20,
    "half-open": 8,
    "consumers deleted": 20,
    "purged unseen": 6,
    "bucket made anew": 12,
    "leader stepped down": 8,
    "leader paused": 5,
    "leader stopped": 4,
    "leader killed": 4,
}
WATCHES = 1_000
FLOOD = 100_000
LEFT = 10_000
WAITS = 10

TYPICAL_SECONDS, WORST_SECONDS = 2.0, 3.0
MEGABYTES = 64
WAIT_SECONDS = 1.5

SCENES: list[tuple[Callable[[Path], AbstractAsyncContextManager[Scene]], list[str]]] = [
    (one_server, list(ROUNDS)[:8]),
    (another_bucket, list(ROUNDS)[8:9]),
    (a_cluster, list(ROUNDS)[9:]),
]


async def fault_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(
        [
            *("Fault", "Times", "Events", "Missed", "Twice", "Out of order", "Back after: p50", "p99", "max"),
            *("Views compared", "Keys that differed", "nats-py: missed", "twice", "out of order", "back after"),
        ],
        [],
    )
    for scene, faults in SCENES:
        for fault in faults:
            async with scene(directory / fault.replace(" ", "-")) as here:
                yield _fault_row(fault, await observe(here, [fault] * ROUNDS[fault], with_peer=True))


def _fault_row(fault: str, report: Report) -> Row:
    wrong = {
        what: sum(getattr(verdict, what) for verdict in report.verdicts.values())
        for what in ("missed", "twice", "out_of_order")
    }
    percentiles = quantiles(report.recoveries[fault], n=100, method="inclusive")
    back = percentiles[49], percentiles[98], max(report.recoveries[fault])
    broken = nonzero(**wrong, keys_that_differed=report.differing)
    if back[0] > TYPICAL_SECONDS or back[1] > WORST_SECONDS:
        broken.append(f"back after {back[0]:.2f} s, at most {back[1]:.2f} s")
    peer = report.peer
    assert peer is not None
    cells = [fault, ROUNDS[fault], report.events, *wrong.values(), *(f"{one:.2f} s" for one in back)]
    return Row(
        [*cells, report.compared, report.differing, *asdict(peer).values(), f"{max(report.peer_seconds):.2f} s"],
        broken,
    )


async def caught_up_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["CaughtUp beside", "Watches", "Early", "Not once", "Hanging", "After: p50", "p99", "max"], [])
    for name, load in LOADS.items():
        with NatsServer(directory / load.bucket.name) as server:
            found = await caught_up(server, load, WATCHES)
        percentiles = quantiles(found.seconds, n=100)
        times = [f"{one:.2f} s" for one in (percentiles[49], percentiles[98], max(found.seconds))]
        broken = nonzero(early=found.early, not_once=found.not_once, hanging=found.hanging)
        yield Row([name, WATCHES, found.early, found.not_once, found.hanging, *times], broken)


async def slow_reader_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(
        [
            "Updates while the reader pauses",
            "Missed",
            "Twice",
            "Out of order",
            "Gaps",
            "Memory above the start",
            "Slowest beside it",
        ],
        [],
    )
    with NatsServer(directory) as server:
        slow = await slow_reader(server, FLOOD)
    wrong = asdict(slow.verdict)
    broken = nonzero(**wrong, gaps=slow.resumed)
    if slow.megabytes > MEGABYTES:
        broken.append(f"{slow.megabytes:.0f} MB")
    figures = *wrong.values(), slow.resumed, f"{slow.megabytes:.0f} MB", f"{slow.slowest_beside:.2f} s"
    yield Row([f"{FLOOD:,} of {SIZE:,} bytes", *figures], broken)


async def left_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["Watches opened and left", "How", "Consumers left", "Tasks", "Subscriptions"], [])
    with NatsServer(directory) as server:
        left = await left_watches(server.url, BUCKET, LEFT)
    ways = ", ".join(f"{number:,} {way}" for way, number in left.ways.items())
    broken = nonzero(consumers=left.consumers, tasks=left.tasks, subscriptions=left.subscriptions)
    yield Row([LEFT, ways, left.consumers, left.tasks, left.subscriptions], broken)


async def wait_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["`wait_for` a revision of", "Times", "Slowest"], [])
    with NatsServer(directory) as server:
        async with waiting(server) as kinds:
            for name, measure in kinds.items():
                slowest = max([await measure() for _ in range(WAITS)])
                broken = [f"after {slowest:.2f} s"] if slowest > WAIT_SECONDS else []
                yield Row([name, WAITS, f"{slowest:.2f} s"], broken)


ALL: list[Table] = [fault_rows, caught_up_rows, slow_reader_rows, left_rows, wait_rows]
