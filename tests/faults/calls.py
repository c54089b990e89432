"""Each operation again and again: what is left of it on the server and in the client (C3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import kvorm
from kvorm import ANY, Bucket, Key, Model, Repository
from tests.faults.watching import raw, until

BUCKET = Bucket("calls", history=3)
STANDING = 20
AT_ONCE = 10

_SECONDS = 5.0
"""How long something may stay that is about to go."""


class Note(Model):
    id: Key[int]
    text: str = ""


Operation: TypeAlias = Callable[[Repository[Note], int], Awaitable[object]]
"""One call; its number is its own."""


@dataclass(frozen=True)
class Left:
    """What there is more than before."""

    calls: int
    consumers: int
    tasks: int
    subscriptions: int

    @property
    def nothing(self) -> bool:
        return self.consumers == self.tasks == self.subscriptions == 0


async def _all_of(items: AsyncIterator[object]) -> int:
    number = 0
    async for _ in items:
        number += 1
    assert number >= STANDING
    return number


async def _one_of(items: Any) -> None:
    async with aclosing(items):
        await anext(items)


async def _cancelled(work: Callable[[], Awaitable[object]], number: int) -> None:
    task = asyncio.ensure_future(work())
    for _ in range(number % 12):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def _saved_and_marked(notes: Repository[Note], number: int, *, purge: bool) -> None:
    note = Note(id=number)
    await notes.save(note, expect=ANY)
    await (notes.purge if purge else notes.delete)(note)


async def _deleted_together(notes: Repository[Note], number: int) -> None:
    some = [Note(id=number), Note(id=-number)]
    await notes.save_many(some, expect=ANY)
    await notes.delete_many(some)


async def _restored(notes: Repository[Note], number: int) -> None:
    revision = await notes.save(Note(id=number), expect=ANY)
    await notes.restore(number, revision=revision)
    await notes.purge(number)


async def _made_once(notes: Repository[Note], number: int) -> None:
    await notes.get_or_create(Note(id=number))
    await notes.purge(number)


async def _viewed(notes: Repository[Note], number: int) -> None:
    async with notes.view(id=number % STANDING) as view:
        assert len(view) == 1


def _at(number: int) -> int:
    return number % STANDING


OPERATIONS: Mapping[str, Operation] = {
    "get": lambda notes, n: notes.get(_at(n)),
    "get_or_none": lambda notes, n: notes.get_or_none(n),
    "entry": lambda notes, n: notes.entry(_at(n)),
    "exists": lambda notes, n: notes.exists(_at(n)),
    "history": lambda notes, n: notes.history(_at(n)),
    "save": lambda notes, n: notes.save(Note(id=_at(n)), expect=ANY),
    "save, cancelled": lambda notes, n: _cancelled(lambda: notes.save(Note(id=_at(n)), expect=ANY), n),
    "update": lambda notes, n: notes.update(_at(n), apply=lambda note: note),
    "find": lambda notes, n: _all_of(notes.find()),
    "find, left early": lambda notes, n: _one_of(notes.find()),
    "keys": lambda notes, n: _all_of(notes.keys()),
    "keys, left early": lambda notes, n: _one_of(notes.keys()),
    "keys, cancelled": lambda notes, n: _cancelled(lambda: _all_of(notes.keys()), n),
    "count": lambda notes, n: notes.count(),
    "heads": lambda notes, n: _all_of(notes.heads()),
    "page": lambda notes, n: notes.page(limit=5, after=n),
    "get_many": lambda notes, n: notes.get_many([(each,) for each in range(STANDING)]),
    "save_many": lambda notes, n: notes.save_many([Note(id=each) for each in range(STANDING)], expect=ANY),
    "load": lambda notes, n: notes.load(Note(id=each) for each in range(STANDING)),
    "watch, left early": lambda notes, n: _one_of(notes.watch()),
    "view": _viewed,
    # Last: each leaves markers, which all lists have to go through.
    "get_or_create": _made_once,
    "delete": lambda notes, n: _saved_and_marked(notes, n, purge=False),
    "purge": lambda notes, n: _saved_and_marked(notes, n, purge=True),
    "restore": _restored,
    "delete_many": _deleted_together,
}


async def left_of_calls(urls: str | list[str], number: int, bucket: Bucket = BUCKET) -> AsyncIterator[tuple[str, Left]]:
    """Yield what is left of each operation after so many calls."""
    numbers = count(1_000)
    async with kvorm.connect(urls) as store, raw(urls) as client:
        assert isinstance(store, kvorm.NatsStore)
        subscriptions: dict[int, Any] = getattr(store.client, "_subs")  # noqa: B009 - it shows them under no public name
        notes = store.repository(Note, mapping=kvorm.Mapping(bucket, key=("id",)))
        await notes.load(Note(id=each) for each in range(STANDING))
        await notes.get_many([(each,) for each in range(STANDING)])
        # The first request of a plain client starts a task of its own.
        assert await client.consumers(bucket.name) == []
        for name, operation in OPERATIONS.items():
            before = len(asyncio.all_tasks()), len(subscriptions)
            for _ in range(0, number, AT_ONCE):
                await asyncio.gather(*(operation(notes, next(numbers)) for _ in range(AT_ONCE)))

            def more(before: tuple[int, int] = before) -> tuple[int, int]:
                return len(asyncio.all_tasks()) - before[0], len(subscriptions) - before[1]

            try:
                await client.until_no_consumers(bucket.name, _SECONDS)
                await until(lambda: max(more()) <= 0, _SECONDS)
            except TimeoutError:
                pass  # told below
            tasks, subscribed = more()
            yield name, Left(number, len(await client.consumers(bucket.name)), max(0, tasks), max(0, subscribed))
