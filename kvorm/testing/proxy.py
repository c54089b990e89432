"""A hostile network: a TCP proxy in front of a server that cuts, swallows and delays."""

from __future__ import annotations

import asyncio
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Direction(Enum):
    """Which way bytes travel."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class FlakyProxy:
    """A proxy on a loopback port of its own; use it in `async with`.

    Bytes of a swallowed direction are read and thrown away, as on a half-open network: both ends stay connected. So a
    connection that lost bytes is of no more use; `cut` it.
    """

    def __init__(self, server_url: str) -> None:
        target = urlsplit(server_url)
        self._target = target.hostname or "127.0.0.1", target.port or 4222
        self._listener: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowed: set[Direction] = set()
        self._dead: set[asyncio.StreamWriter] = set()
        self.delay = 0.0
        """Seconds that each piece of data waits, in both directions."""

    @property
    def url(self) -> str:
        """Where clients connect to."""
        assert self._listener is not None, "start the proxy first: async with FlakyProxy(url)"
        port: int = self._listener.sockets[0].getsockname()[1]
        return f"nats://127.0.0.1:{port}"

    def swallow(self, *directions: Direction) -> None:
        """Throw away what travels these ways from now on; without any, pass everything again."""
        self._swallowed = set(directions)

    def strand(self) -> None:
        """Leave the connections there are without a byte for ever, and pass what comes over new ones."""
        self._dead |= self._writers
        self._swallowed = set()

    def cut(self) -> None:
        """Break every connection there is; new ones are accepted."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        for source, sink, direction in (
            (reader, server_writer, Direction.TO_SERVER),
            (server_reader, writer, Direction.TO_CLIENT),
        ):
            self._writers.add(sink)
            pump = asyncio.create_task(self._pump(source, sink, direction))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction) -> None:
        try:
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if direction not in self._swallowed and sink not in self._dead:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass  # the other end is gone, which is what this proxy is for
        finally:
            self._writers.discard(sink)
            self._dead.discard(sink)
            sink.transport.abort()
