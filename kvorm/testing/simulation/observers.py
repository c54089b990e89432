"""Watches and a view beside the clients of a history, and what they tell."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

from kvorm import (
    BucketNotFoundError,
    CaughtUp,
    Entry,
    KvormError,
    Repository,
    Reset,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.testing.simulation.record import Event, Record, Seen, Told, Watching
from kvorm.testing.simulation.workload import Item


class Observer:
    """One watch after another of one repository: each ends at some time, and the next goes on where it stopped."""

    def __init__(self, name: str, repository: Repository[Item], record: Record, random: Random) -> None:
        self._name = name
        self._items = repository
        self._record = record
        self._random = random
        self._now = asyncio.get_running_loop().time
        self._position = 0
        self._stays = False
        self._end = asyncio.timeout(None)

    def stay(self) -> None:
        """Let the watch that runs run on."""
        self._stays = True
        with suppress(RuntimeError):  # it is just ending
            self._end.reschedule(None)

    async def run(self) -> None:
        """Watch until cancelled."""
        since: int | None = None
        number = 0
        while True:
            number += 1
            history = since is None and self._random.random() < 0.3
            updates_only = since is None and not history and self._random.random() < 0.3
            filter_: dict[str, Any] = self._random.choice([{}, {}, {"group": "a"}])
            watching = Watching(
                f"{self._name}.{number}",
                self._now(),
                since or 0,
                history,
                updates_only,
                "a.>" if filter_ else ">",
            )
            self._record.watches.append(watching)
            lasts = self._random.uniform(0.3, 2.0)
            is_left = self._random.random() >= 0.5
            try:
                async with asyncio.timeout(lasts if is_left and not self._stays else None) as self._end:
                    await self._watch(watching, since, filter_)
            except TimeoutError:
                watching.stopped = True
                if not any(event.what is Told.CAUGHT_UP for event in watching.events):
                    self._record.watches.remove(watching)  # it was not there for long enough to be judged
                    self._position = since or 0
                since = self._position or None
            except (StoreTimeoutError, StoreUnavailableError) as error:
                # The bucket could not be opened in time; a watch that runs bears every outage.
                watching.ended = str(error)
                if not watching.events:
                    self._record.watches.remove(watching)
            except KvormError as error:
                watching.ended, watching.ended_at = f"{type(error).__name__}: {error}", self._now()
                if isinstance(error, BucketNotFoundError) and not watching.events:
                    watching.not_there = True
                await asyncio.sleep(0.5)
                since = None

    async def _watch(self, watching: Watching, since: int | None, filter_: dict[str, Any]) -> None:
        events = self._items.watch(since=since, history=watching.history, updates_only=watching.updates_only, **filter_)
        async for event in events:
            match event:
                case CaughtUp(revision=revision):
                    watching.events.append(Event(self._now(), Told.CAUGHT_UP, revision))
                    self._position = revision
                case Reset():
                    watching.events.append(Event(self._now(), Told.RESET))
                    self._position = 0
                case _:
                    tag = event.value.tag if isinstance(event, Entry) else None
                    watching.events.append(Event(self._now(), Seen(event.raw_key, event.revision, tag)))
                    self._position = event.revision
