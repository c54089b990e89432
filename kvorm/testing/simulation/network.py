"""A simulated TCP network: bytes take their time, stay in order, get lost with their connection, or vanish silently."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, Protocol

from kvorm.testing.proxy import Direction
from kvorm.testing.simulation.loop import VirtualLoop

_SHORTEST: Final = 0.0001
_LONGEST: Final = 0.002
_CONNECT_SECONDS: Final = 0.001
_NEVER: Final = 3600.0


class Peer(Protocol):
    """The server's end of a connection."""

    def receive(self, data: bytes) -> None:
        """Take what has arrived."""
        ...

    def lost(self, *, closed: bool) -> None:
        """The connection is gone; `closed` by the client, as it wanted."""
        ...


class Wire:
    """One direction of a connection: what is sent arrives later, in order."""

    def __init__(self, loop: VirtualLoop, random: Random, arrive: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._random = random
        self._arrive = arrive
        self._in_flight: deque[tuple[float, list[bytes]]] = deque()
        self._sent_at = -1.0
        self.slowness = 1.0
        """By how much it is slower than a healthy one."""
        self.swallows = False
        self.broken = False

    def send(self, data: bytes) -> None:
        """Let bytes travel; what is sent in one moment travels together."""
        if self.swallows or self.broken:
            return
        now = self._loop.time()
        if self._sent_at == now and self._in_flight:
            self._in_flight[-1][1].append(data)
            return
        self._sent_at = now
        due = now + self._random.uniform(_SHORTEST, _LONGEST) * self.slowness
        if self._in_flight:
            due = max(due, self._in_flight[-1][0])
        self._in_flight.append((due, [data]))
        self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        if self._in_flight:
            _, pieces = self._in_flight.popleft()
            if not self._in_flight:
                self._sent_at = -1.0
            if not self.broken:
                self._arrive(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def cut(self, *, arrives: bool) -> None:
        """Break it; what is under way arrives still, or never."""
        if arrives and not self.broken and not self.swallows:
            for _, pieces in self._in_flight:
                self._arrive(b"".join(pieces))
        self.broken = True
        self._in_flight.clear()


class Connection(asyncio.Transport):
    """A connection, as its client holds it."""

    def __init__(self, network: SimulatedNetwork, port: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._network = network
        self._protocol: asyncio.BaseProtocol = protocol
        self._paused = False
        self._held: list[bytes] = []
        self._closing = False
        self._was_stranded = False
        self.port = port
        self.peer: Peer | None = None
        self.to_server = Wire(network.loop, network.random, self._at_server)
        self.to_client = Wire(network.loop, network.random, self._at_client)

    def _at_server(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.receive(data)

    def _at_client(self, data: bytes) -> None:
        if self._closing:
            return
        if self._paused:
            self._held.append(data)
        elif isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)

    # What a client does with it

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self.to_server.send(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send bytes."""
        self.to_server.send(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Whether it is closed or lost."""
        return self._closing

    def close(self) -> None:
        """Close it, after what was sent has arrived."""
        self._end(None, arrives=True)

    def abort(self) -> None:
        """Close it at once."""
        self._end(None, arrives=False)

    def pause_reading(self) -> None:
        """Hold back what arrives."""
        self._paused = True

    def resume_reading(self) -> None:
        """Hand over what arrives again."""
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self._at_client(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Take another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """Return 0: the network takes all."""
        return 0

    # What happens to it

    def break_off(self, *, sent_arrives: bool, answered_arrives: bool) -> None:
        """Lose it: both ends notice; what is under way either way arrives still, or never."""
        if not self._closing:
            self.to_client.cut(arrives=answered_arrives)
            self._end(ConnectionResetError("the simulated network broke the connection"), arrives=sent_arrives)

    def forget(self, seconds: float) -> None:
        """Let the server notice on its own that nobody is there any more, after a while."""
        self._was_stranded = True
        self._network.loop.call_later(seconds, self._lose_peer)

    def _end(self, error: Exception | None, *, arrives: bool) -> None:
        if self._closing:
            return
        self._closing = True
        silent = self.to_server.swallows
        self.to_server.cut(arrives=arrives)
        self.to_client.cut(arrives=False)
        if not silent:
            self._lose_peer(closed=error is None and not self._was_stranded)
        self._network.loop.call_soon(self._protocol.connection_lost, error)
        self._network.connections.pop(self, None)

    def _lose_peer(self, *, closed: bool = False) -> None:
        peer, self.peer = self.peer, None
        self.to_client.broken = self.to_server.broken = True
        if peer is not None:
            peer.lost(closed=closed)


Accept = Callable[[Connection], Peer]


class SimulatedNetwork:
    """Ports that listen, and the connections there are."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        # A dict, not a set: its order is the same in every run.
        self.connections: dict[Connection, None] = {}
        self.unreachable = False
        self._listeners: dict[int, Accept] = {}

    def listen(self, port: int, accept: Accept) -> None:
        """Accept connections."""
        self._listeners[port] = accept

    def stop_listening(self, port: int) -> None:
        """Refuse connections."""
        self._listeners.pop(port, None)

    async def connect(self, port: int, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect a client."""
        await asyncio.sleep(_NEVER if self.unreachable else _CONNECT_SECONDS)
        accept = self._listeners.get(port)
        if accept is None:
            raise ConnectionRefusedError(f"nobody listens on port {port}")
        connection = Connection(self, port, protocol)
        self.connections[connection] = None
        protocol.connection_made(connection)
        connection.peer = accept(connection)
        return connection

    def cut(self, connection: Connection) -> None:
        """Break a connection."""
        chance = self.random
        connection.break_off(sent_arrives=chance.random() < 0.5, answered_arrives=chance.random() < 0.3)

    def strand(self, connection: Connection, directions: Iterable[Direction], seconds: float) -> None:
        """Leave a connection half open: its bytes vanish from now on, and the server notices after a while."""
        for direction in directions:
            wire = connection.to_server if direction is Direction.TO_SERVER else connection.to_client
            wire.swallows = True
        connection.forget(seconds)
