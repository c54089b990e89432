"""The running watches of one connection: they learn together what happens to it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from kvorm.backends.nats.link import Link
from kvorm.errors import PermissionDeniedError, StoreClosedError

TICK_SECONDS: Final = 0.1
"""How often a running watch is told to look at its connection."""


class Running(Protocol):
    """A watch that has begun and has not ended."""

    @property
    def stream(self) -> str:
        """The name of the stream it watches."""
        ...

    def tick(self) -> None:
        """Notice that the connection was lost, or that the server is silent."""
        ...

    def doubt(self) -> None:
        """Look at the stream again: it may be gone, or another one."""
        ...

    def needs(self, subject: str) -> bool:
        """Whether it cannot go on without a subject, given in lower case."""
        ...

    async def end(self, reason: Exception) -> None:
        """End with an error for its reader."""
        ...


class Watches:
    """The running watches of one connection. One timer serves all of them, and runs only while there are any."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # A dict, not a set: they act in the order in which they began, in every run.
        self._running: dict[Running, None] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watch: Running) -> None:
        """Look after a watch that begins."""
        self._running[watch] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def discard(self, watch: Running) -> None:
        """Forget one that has ended."""
        self._running.pop(watch, None)
        if not self._running and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def doubt(self, stream: str) -> None:
        """Tell the watches of a stream that it may be gone, or another one."""
        for watch in self._running:
            if watch.stream == stream:
                watch.doubt()

    def denied(self, action: str, subject: str) -> bool:
        """End the watches that need what the server has just refused; tell whether there were any."""
        refused = [watch for watch in self._running if watch.needs(subject)]
        verb = "publish" if action == "publish" else "subscribe"
        for watch in refused:
            told = f"this user may not {verb} to {subject!r}, so it cannot watch; see kvorm.permissions()"
            self._end(watch, PermissionDeniedError(told, subject=subject))
        return bool(refused)

    async def close(self) -> None:
        """End all of them, their readers with StoreClosedError."""
        told = "the store is closed; the watch has ended"
        await asyncio.gather(*(watch.end(StoreClosedError(told)) for watch in self._running))

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        client = self._link.client
        for watch in list(self._running):
            if client.is_closed or client.is_draining:
                self._end(watch, StoreClosedError("the connection to NATS is closed; the watch has ended"))
            else:
                watch.tick()

    def _end(self, watch: Running, reason: Exception) -> None:
        ending = asyncio.get_running_loop().create_task(watch.end(reason))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
