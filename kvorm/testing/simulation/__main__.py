"""`python -m kvorm.testing.simulation`: many histories, their figures, and the seeds of those that broke a promise."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from kvorm.testing.simulation.history import Report, run

_PORTION = 50


def _portion(seeds: range) -> Report:
    logging.disable()  # lost connections are what this is about
    report = Report()
    for seed in seeds:
        report.add(run(seed))
    return report


def _all(seeds: range, jobs: int) -> Iterable[Report]:
    portions = [seeds[start : start + _PORTION] for start in range(0, len(seeds), _PORTION)]
    if jobs == 1:
        yield from map(_portion, portions)
    else:
        with ProcessPoolExecutor(jobs) as workers:
            yield from workers.map(_portion, portions)


def main() -> int:
    """Run what the command line asks for; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m kvorm.testing.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--first", action="store_true", help="end soon after the first broken promise")
    options = parser.parse_args()
    start = time.perf_counter()
    report = Report()
    for part in _all(range(options.from_seed, options.from_seed + options.histories), options.jobs):
        report.add(part)
        if options.first and report.violations:
            break
    minutes = (time.perf_counter() - start) / 60
    lines = [
        f"{report.histories} histories, {report.histories / minutes:.0f} a minute",
        f"{report.calls} calls: {report.acknowledged} writes acknowledged, {report.refused} refused, "
        f"{report.unknown} unknown",
        f"{report.events} watch events, {report.views} views compared",
        "faults: " + ", ".join(f"{times} × {fault}" for fault, times in sorted(report.faults.items())),
        *(f"seed {seed}: {violation}" for seed, violation in report.violations),
        f"{len(report.violations)} violations",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
