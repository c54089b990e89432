"""The tables of the long form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass
class Row:
    """One line of a table, and which promises it breaks."""

    cells: list[object]
    broken: list[str]


Table: TypeAlias = Callable[[Path], AsyncIterator[Row]]
"""Makes its rows in a directory of its own; the first one is the head."""


def nonzero(**figures: float) -> list[str]:
    """Say which of these figures are not zero."""
    return [f"{number:g} {what.replace('_', ' ')}" for what, number in figures.items() if number]


async def printed(table: Table, directory: Path) -> list[str]:
    """Print a table as it comes; return what is broken."""
    broken: list[str] = []
    head = True
    async for row in table(directory):
        cells = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.cells]
        print(f"| {' | '.join(cells)} |", flush=True)
        if head:
            print("|---" * len(cells) + "|", flush=True)
            head = False
        broken += (f"{cells[0]}: {each}" for each in row.broken)
    print()
    return broken
