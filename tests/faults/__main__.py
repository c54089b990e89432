"""The long form of the fault tests: `python -m tests.faults` prints its figures, and fails where a promise is broken.

It takes some hours, most of them `lists`; a part behind it (`server`, `cluster`, `outage`, `watches`, `lists`, `calls`)
runs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.faults import cluster, list_tables, one_server, outage, watch_tables
from tests.faults.table import Row, Table, printed
from tests.faults.workload import Bank, Outcome, Stored

HOT = 6
MANY = 1_000
"""Accounts of which each is changed every other second: what is overwritten before a client is back is rare."""

SECONDS = 260
SHORTER = 45
FAULTS_FOR_ONE_UNKNOWN = 1_000

STRIKES = {"step down": 20, "pause": 6, "stop": 6, "kill": 5}
CLUSTER_ACCOUNTS = 500
"""So many that a history of 64 keeps most writes of a run."""
READS = 10_000

DOWN_SECONDS = 60
BACK_SECONDS = 2
SLACK_SECONDS = 0.5


async def server_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["Load", "Faults", "kill -9", "Told stored", "Transfers", "Lost", "Twice", "Unknown"], [])
    loads = [
        ("network", Bank(HOT), SECONDS, 0.0, 0),
        ("network and kill -9", Bank(MANY), SECONDS, 0.1, 1 / FAULTS_FOR_ONE_UNKNOWN),
        *(
            ("network and kill -9", bank, SHORTER, 0.3, 1.0)
            for bank in (Bank(200), Bank(HOT), Bank(HOT, history=10), Bank(HOT, history=64))
        ),
    ]
    for number, (faults, bank, seconds, kills, unknown) in enumerate(loads):
        run = await one_server.network_faults(directory / str(number), bank, seconds, kills=kills)
        outcome = run.outcome
        broken = _broken(outcome, run.stored, unknown=unknown * outcome.faults)
        yield Row([f"{faults}; {bank.accounts:,} accounts, history {bank.history}", *_figures(run)], broken)
    run = await one_server.naive_retry(directory / "naive", Bank(HOT), SHORTER)
    yield Row(
        [f"nats-py with naive retries: network; {HOT} accounts", *_figures(run)],
        [] if run.twice else ["the naive retries applied nothing twice: the check sees nothing"],
    )


def _figures(run: one_server.Run) -> Iterator[object]:
    outcome = run.outcome
    yield from (outcome.faults, outcome.kills, outcome.done.total(), outcome.transfers)
    yield from (run.lost, run.twice, outcome.unknown.total())


def _broken(outcome: Outcome, stored: Stored, *, unknown: float) -> list[str]:
    """Say what is not as promised; `unknown` is how many outcomes may be open."""
    figures = {
        "lost": outcome.lost(stored),
        "twice": outcome.twice(stored),
        "unknown": max(0, outcome.unknown.total() - unknown),
        "off balance": max(0, abs(stored.balance - outcome.balance) - outcome.unknown.total()),
        **outcome.errors,
    }
    return [f"{number:g} {what}" for what, number in figures.items() if number]


async def cluster_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(
        ["Leader", "Times", "Told stored", "Lost", "Twice", "Unknown", "Chained", "Broken", "Reads of each", "Old"], []
    )
    for fault, strikes in STRIKES.items():
        run = await cluster.leader_goes(
            directory / fault.replace(" ", "-"), fault, accounts=CLUSTER_ACCOUNTS, strikes=strikes, reads=READS
        )
        outcome, lost, twice = run.outcome, run.outcome.lost(run.stored), run.outcome.twice(run.stored)
        broken = _broken(outcome, run.stored, unknown=0) + run.broken + run.stale
        figures = outcome.done.total(), lost, twice, outcome.unknown.total(), run.chained
        yield Row([fault, strikes, *figures, len(run.broken), run.least_reads, len(run.stale)], broken)


async def outage_rows(directory: Path) -> AsyncIterator[Row]:
    yield Row(["Server down", "Calls", "Ended as", "Slowest call", "All works after", "Stored late"], [])
    run = await outage.server_down(directory, DOWN_SECONDS)
    broken = run.wrong + [f"late: {key}" for key in run.late]
    if run.slowest > outage.BUDGET + SLACK_SECONDS:
        broken.append(f"a call of {run.slowest:.2f} s")
    if run.back_after > BACK_SECONDS:
        broken.append(f"back after {run.back_after:.2f} s")
    errors = ", ".join(f"{name} {times}" for name, times in run.errors.items())
    seconds = f"{run.slowest:.2f} s of {outage.BUDGET:g} s", f"{run.back_after:.2f} s"
    yield Row([f"{DOWN_SECONDS} s", run.calls, errors, *seconds, len(run.late)], broken)


PARTS: dict[str, list[Table]] = {
    "server": [server_rows],
    "cluster": [cluster_rows],
    "outage": [outage_rows],
    "watches": watch_tables.ALL,
    "lists": list_tables.LISTS,
    "calls": list_tables.CALLED,
}


async def main(parts: list[str]) -> int:
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in parts:
            for number, table in enumerate(PARTS[name]):
                broken += await printed(table, Path(directory) / name / str(number))
    print("\n".join(broken) or "No promise broken.")
    return 1 if broken else 0


if __name__ == "__main__":
    # Lost connections are what this is about.
    logging.disable()
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="run this part alone")
    part = parser.parse_args().part
    sys.exit(asyncio.run(main([part] if part else list(PARTS))))
