"""Many writes under way at a time: each is sent ahead, and only what meets trouble has a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from kvorm.backends.base import Deadline, Put, Told
from kvorm.backends.nats.writes import Begun

_AT_ONCE: Final = 256
"""How many writes are under way."""

_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""How many bytes of values, whatever their number."""

_REFILLED_AT: Final = 192
"""Down to how many before further ones are sent: to wake up for each would cost as much as the write."""


class Target(Protocol):
    """Where the writes go."""

    def begin(self, put: Put, deadline: Deadline, ended: Callable[[int | Begun], None]) -> bool:
        """Send a write ahead and let `ended` know; False, and nothing sent, where it must wait.

        Raises:
            ValueTooLargeError: nothing was sent.
        """
        ...

    async def finish(self, put: Put, begun: Begun | None, deadline: Deadline) -> int:
        """Store what was begun with trouble, or not at all; return its revision. Raises what `put` raises."""
        ...

    def written(self, raw_key: str, revision: int) -> None:
        """Take note that this store wrote a key at this revision."""
        ...


class Pipeline:
    """The writes of one call."""

    def __init__(self, target: Target, told: Told) -> None:
        self._target = target
        self._told = told
        self._under_way = 0
        self._bytes = 0
        self._most = 0
        self._waiter: asyncio.Future[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()
        self._over = False

    async def run(self, puts: Iterable[Put], deadline: Deadline) -> None:
        """Send them all, and return once all are told; after a cancellation nothing is told any more."""
        try:
            for put in puts:
                if self._under_way >= _AT_ONCE or self._bytes >= _BYTES_AT_ONCE:
                    await self._down_to(_REFILLED_AT)
                    deadline = Deadline(deadline.timeout)
                self._start(put, deadline)
            await self._down_to(0)
        finally:
            self._over = True
            for task in self._finishing:
                task.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)

    def _start(self, put: Put, deadline: Deadline) -> None:
        self._under_way += 1
        self._bytes += len(put.data)
        try:
            begun = self._target.begin(put, deadline, partial(self._ended, put, deadline))
        except Exception as error:
            self._tell(put, error)
            return
        if not begun:
            self._finish_later(put, deadline, None)

    def _ended(self, put: Put, deadline: Deadline, outcome: int | Begun) -> None:
        """Take the answer to what was sent ahead; from the read loop."""
        if isinstance(outcome, int):
            self._target.written(put.raw_key, outcome)
            self._tell(put, outcome)
        elif not self._over:
            self._finish_later(put, deadline, outcome)

    def _finish_later(self, put: Put, deadline: Deadline, begun: Begun | None) -> None:
        task = asyncio.create_task(self._finish(put, deadline, begun))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, put: Put, deadline: Deadline, begun: Begun | None) -> None:
        try:
            revision = await self._target.finish(put, begun, deadline)
        except Exception as error:
            self._tell(put, error)
        else:
            self._tell(put, revision)

    def _tell(self, put: Put, outcome: int | Exception) -> None:
        if self._over:
            return
        self._told(put.number, outcome)
        self._under_way -= 1
        self._bytes -= len(put.data)
        if self._waiter is not None and self._is_down() and not self._waiter.done():
            self._waiter.set_result(None)

    async def _down_to(self, most: int) -> None:
        """Wait until no more than so many are under way."""
        self._most = most
        while not self._is_down():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _is_down(self) -> bool:
        return self._under_way <= self._most and self._bytes < _BYTES_AT_ONCE
