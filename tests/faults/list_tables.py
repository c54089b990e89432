"""The lists' part of the long form: under fire beside nats-py, and what many calls leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.calls import left_of_calls
from tests.faults.listing import Load, Report, peer_under_fire, under_fire
from tests.faults.table import Row, Table, nonzero

CALLS, WAVE = 500, 100
MANY, MANY_WAVE = 120_000, 2_000
"""Above 100,000 the server tells its subjects in pages; the wave shifts them by more than those pages overlap."""

MANY_LISTERS = 4
"""So many side by side, or the writers have nearly all of the process while one lists."""

CALLS_OF_EACH = 10_000

FEW_KEYS = Load(calls=CALLS, wave=WAVE)
MANY_KEYS = Load(standing=MANY, calls=CALLS, listers=MANY_LISTERS, wave=MANY_WAVE)
LOADS = {
    "one server": FEW_KEYS,
    "one server, history 10": replace(FEW_KEYS, history=10),
    f"one server, {MANY:,} keys": MANY_KEYS,
    f"one server, {MANY:,} keys, history 10": replace(MANY_KEYS, history=10),
    "cluster": replace(FEW_KEYS, replicas=3),
    "cluster, history 10": replace(FEW_KEYS, replicas=3, history=10),
}
PEER = "one server, history 10"
"""Where nats-py is wrong in most of its lists, not now and then: what comes of it does not hang on luck."""


async def fire_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(
        [
            *("Lists under fire", "Calls", "Writes beside them", "Wrong", "Missing", "Never live", "Twice", "Old"),
            *("Live in the end", "Unlike the stream"),
        ],
        [],
    )
    for number, (name, load) in enumerate(LOADS.items()):
        with ExitStack() as stack:
            urls = _started(stack, directory / str(number), load)
            report = await under_fire(urls[:1], urls[-2:], load)
        broken = nonzero(**report.wrong, unlike_the_stream=report.unlike)
        calls = f"{load.calls} of each of {', '.join(report.calls)}"
        yield Row([name, calls, *_figures(report), report.live, report.unlike], broken)
    with NatsServer(directory / "peer") as server:
        report = await peer_under_fire([server.url], LOADS[PEER])
    broken = [] if report.wrong_calls.total() else ["nats-py was right: the judge sees nothing"]
    calls = f"{report.calls.total()} of `keys` of nats-py"
    yield Row([PEER, calls, *_figures(report), "", ""], broken)


def _figures(report: Report) -> list[object]:
    wrong = report.wrong
    return [
        *(report.writes.total(), report.wrong_calls.total()),
        *(wrong["missing"], wrong["never"], wrong["twice"], wrong["old"]),
    ]


def _started(stack: ExitStack, directory: Path, load: Load) -> list[str]:
    if load.replicas:
        return stack.enter_context(NatsCluster(directory)).urls
    return [stack.enter_context(NatsServer(directory)).url]


async def call_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["Operation", "Calls", "Consumers left", "Tasks", "Subscriptions"], [])
    with NatsServer(directory) as server:
        async for name, left in left_of_calls(server.url, CALLS_OF_EACH):
            figures = {"consumers": left.consumers, "tasks": left.tasks, "subscriptions": left.subscriptions}
            yield Row([name, left.calls, *figures.values()], nonzero(**figures))


LISTS: list[Table] = [fire_rows]
CALLED: list[Table] = [call_rows]
