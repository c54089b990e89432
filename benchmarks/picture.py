"""The picture of docs/performance.md: operations a second beside peers, and cost against the number of keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator, ScalarFormatter

from benchmarks.sizes import unit
from benchmarks.timing import Row

# Okabe and Ito's colours, which the colour-blind tell apart, also in grey.
COLOURS = {"kvorm": "#0072B2", "nats-py": "#E69F00", "natsrpy": "#999999"}
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = "osD^v"
HEIGHT = 0.27


def bars(axes: Axes, rows: Sequence[Row]) -> None:
    for place, name in enumerate(rows[0].costs):
        rates = [1e6 / row.costs[name] for row in rows]
        at = [number + (place - 1) * HEIGHT for number in range(len(rows))]
        axes.barh(at, rates, HEIGHT, color=COLOURS[name], label=name)
        for y, rate in zip(at, rates, strict=True):
            axes.text(rate * 1.05, y, f"{float(f'{rate:.2g}'):,.0f}", va="center", fontsize=6.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=200, right=1_000_000)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("items a second (log scale): longer is faster")
    axes.set_title("kvorm beside clients written out by hand")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")


def lines(axes: Axes, rows: Sequence[Row]) -> None:
    sizes = sizes_of(rows)
    places = spread([list(row.costs.values())[-1] for row in rows])
    for row, place, colour, marker in zip(rows, places, LINES, MARKERS, strict=True):
        axes.plot(sizes, list(row.costs.values()), color=colour, marker=marker, markersize=5)
        axes.text(sizes[-1] * 1.25, place, f"{row.name}, {unit(row)}", va="center", color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(right=1_500_000)
    axes.set_ylim(1, 1_000)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("keys in the bucket (log scale)")
    axes.set_ylabel("µs (log scale)")
    axes.set_title("cost against number of keys")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)


def sizes_of(rows: Sequence[Row]) -> list[int]:
    return [int(size.replace(",", "")) for size in rows[0].costs]


def spread(costs: Sequence[float]) -> list[float]:
    """Return where the names of lines stand, so that no two overlap."""
    places, least = list(costs), 0.0
    for number in sorted(range(len(costs)), key=costs.__getitem__):
        places[number] = max(costs[number], least)
        least = places[number] * 1.25
    return places


def draw(operations: Sequence[Row], by_size: Sequence[Row], path: Path) -> None:
    """Write the picture; the same figures give the same bytes."""
    with mpl.rc_context(
        {"svg.hashsalt": "kvorm", "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 10}
    ):
        figure = Figure(figsize=(10.5, 6.2), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        bars(left, operations)
        lines(right, by_size)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
