"""The command line, and what it shows in a terminal. Needs the extra `local`."""

from __future__ import annotations

import asyncio
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import typer
from rich.console import Console, Group, RenderableType
from rich.highlighter import ReprHighlighter
from rich.padding import Padding
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from kvorm.backends.local import wait_stopped
from kvorm.demo import Order, a_day
from kvorm.entry import Entry, Marker
from kvorm.errors import ConflictError, KvormError

_INDENT = 3

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def kvorm() -> None:
    """Typed objects in NATS JetStream Key-Value buckets."""


@app.command()
def demo() -> None:
    """Live through a day of an order, on a real NATS server in a temporary folder."""
    console = Console()
    try:
        with TemporaryDirectory(prefix="kvorm-demo-") as folder:
            asyncio.run(_show_and_clear(Path(folder), console))
    except KvormError as error:
        sys.exit(f"kvorm: {error}")
    console.print("\n[dim]The server has stopped and its folder is gone. This was kvorm/demo.py, read it.[/]")


async def _show_and_clear(folder: Path, console: Console) -> None:
    try:
        await _show(folder, console)
    finally:
        # Also after Ctrl-C: a server that still writes would be in the way of removing its folder.
        await wait_stopped(folder)


async def _show(folder: Path, console: Console) -> None:
    number = 0
    async with aclosing(a_day(folder)) as steps:
        async for step in steps:
            number += 1
            if number == 1:  # not before: an error of the start stands alone
                console.print(_title(folder))
            console.print(f"\n[bold]{number}. {inspect.getdoc(step.action)}[/]")
            console.print(Padding.indent(_code(_body(step.action)), _INDENT))
            console.print(Padding.indent(_result(step.outcome), _INDENT))


def _title(folder: Path) -> RenderableType:
    return Group(
        Panel(_code(inspect.getsource(Order)), title="a day in the life of an order", expand=False),
        f'[dim]kvorm.connect("local:{folder}") has started a real NATS server.[/]',
    )


def _body(action: Callable[..., object]) -> str:
    """Return a function's source below its docstring."""
    return textwrap.dedent(inspect.getsource(action).split('"""', 2)[2])


def _code(source: str) -> Text:
    code = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(source.strip())
    code.rstrip()
    code.no_wrap = False
    return code


def _result(outcome: object) -> Table:
    """Return what came of a step, in lines that begin with an arrow."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for cells in _rows(outcome):
        table.add_row("[bold green]=>[/]", *cells)
    return table


def _rows(outcome: object) -> Iterator[tuple[RenderableType, ...]]:
    match outcome:
        case ConflictError():
            yield (Text.assemble((type(outcome).__name__, "bold red"), f": {outcome}"),)
        case int():
            yield (f"revision {outcome}",)
        case Entry(value=Order() as order, revision=revision):
            yield f"revision {revision}", _highlighted(order)
        case Marker():
            yield f"revision {outcome.revision}", f"{outcome.raw_key} {outcome.reason}"
        case list():
            for each in cast("list[object]", outcome):
                yield from _rows(each)
        case _:
            yield (_highlighted(outcome),)


def _highlighted(value: object) -> Text:
    return ReprHighlighter()(repr(value))
