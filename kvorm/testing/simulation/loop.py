"""An event loop whose time is virtual: when nothing is left to do now, it is at once the time of what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

_START: Final = 1000.0
_MOST_STEPS_AT_ONCE: Final = 200_000
_BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)


class HungError(Exception):
    """Everything waits for something, and nothing will come."""


class Network(Protocol):
    """Where connections lead to."""

    async def connect(self, port: int, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect a client.

        Raises:
            OSError: nobody listens there.
        """
        ...


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs tasks and timers as every loop does; a second lasts as long as the work of that second.

    Connections lead into a simulated network, nothing leaves the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network: Network | None = None
        # What a loop waits with; the base class looks for it under this name.
        self._selector = _Jump()

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._selector.now

    def utc(self) -> datetime:
        """Return the virtual time as a date."""
        return _BEGINNING + timedelta(seconds=self._selector.now)

    def monotonic(self) -> float:
        """Return the virtual time, for those who would ask the module `time`."""
        return self._selector.now

    async def create_connection(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | None = None,
        port: int | None = None,
        **_: Any,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to a port of the simulated network."""
        if self.network is None or port is None:
            raise ConnectionRefusedError(f"{host}:{port} is not simulated")
        protocol = protocol_factory()
        return await self.network.connect(port, protocol), protocol

    def _process_events(self, event_list: object) -> None:
        """There are none: nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody needs to be woken."""


class _Jump:
    """Stands where a loop would wait for sockets, and moves the time on instead."""

    def __init__(self) -> None:
        self.now = _START
        self._steps = 0

    def select(self, timeout: float | None) -> list[object]:
        """Let the time pass until the next timer is due.

        Raises:
            HungError: there is none, or the work of this moment has no end.
        """
        if timeout is None:
            raise HungError("nothing is left that could wake anybody")
        if timeout > 0:
            self.now += timeout
            self._steps = 0
        else:
            self._steps += 1
            if self._steps > _MOST_STEPS_AT_ONCE:
                raise HungError("the work of one moment has no end")
        return []
