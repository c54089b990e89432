"""The simulated servers as one thing: the network, the nodes, JetStream, and what can go wrong with them."""

from __future__ import annotations

from random import Random
from typing import Final

from kvorm.testing.proxy import Direction
from kvorm.testing.simulation.jetstream import Conditions, JetStream
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.simulation.network import SimulatedNetwork
from kvorm.testing.simulation.node import Node, Router

_FIRST_PORT: Final = 4222
_STALE_SECONDS: Final = 6.0
"""After how long a server gives up a client that it does not hear of any more."""

_DIRECTIONS: Final = (
    [Direction.TO_SERVER],
    [Direction.TO_CLIENT],
    [Direction.TO_SERVER, Direction.TO_CLIENT],
)


class World:
    """One server, or a cluster of three, and the network to it."""

    def __init__(self, loop: VirtualLoop, random: Random, *, nodes: int) -> None:
        self.loop = loop
        self.random = random
        self.conditions = Conditions()
        self.network = SimulatedNetwork(loop, random)
        self.router = Router()
        self.jetstream = JetStream(loop, random, self.router, self.conditions)
        self.nodes = [
            Node(f"node{number}", _FIRST_PORT + number, self.router, self.jetstream, self.network)
            for number in range(nodes)
        ]
        for node in self.nodes:
            node.clustered = nodes > 1
            node.start()
        self.jetstream.leader = self.nodes[0].name
        loop.network = self.network

    @property
    def urls(self) -> list[str]:
        """Where to connect to."""
        return [f"nats://127.0.0.1:{node.port}" for node in self.nodes]

    # Faults; each ends by itself

    def cut(self) -> None:
        """Break some connections."""
        for connection in list(self.network.connections):
            if self.random.random() < 0.5:
                self.conditions.count("connection cut")
                self.network.cut(connection)

    def strand(self) -> None:
        """Leave a connection half open."""
        connections = [one for one in self.network.connections if not one.to_server.swallows]
        if connections:
            self.conditions.count("connection stranded")
            self.network.strand(self.random.choice(connections), self.random.choice(_DIRECTIONS), _STALE_SECONDS)

    def slow_down(self) -> None:
        """Let the network and JetStream be slow for a while."""
        self.conditions.count("slowness")
        slowness = self.random.choice([10.0, 100.0, 500.0])
        self.conditions.slowness = self.random.choice([0.0, 0.01, 0.5, 1.5])
        for connection in self.network.connections:
            connection.to_server.slowness = connection.to_client.slowness = slowness
        self.loop.call_later(self.random.uniform(0.1, 2), self._speed_up)

    def _speed_up(self) -> None:
        self.conditions.slowness = 0.0
        for connection in self.network.connections:
            connection.to_server.slowness = connection.to_client.slowness = 1.0

    def lose_messages(self) -> None:
        """Let single messages get lost, or come twice, for a while."""
        self.conditions.count("lossy moments")
        self.conditions.loses = self.random.choice([0.02, 0.1, 0.3])
        self.conditions.repeats = self.random.choice([0.0, 0.05, 0.2])
        self.loop.call_later(self.random.uniform(0.1, 1.5), self._lose_nothing)

    def _lose_nothing(self) -> None:
        self.conditions.loses = self.conditions.repeats = 0.0

    def restart(self) -> None:
        """Kill a server; it comes back after a while."""
        node = self.random.choice(self.nodes)
        if node.is_up and (len(self.nodes) == 1 or all(one.is_up for one in self.nodes)):
            self.conditions.count("server restarted")
            node.stop()
            alone = len(self.nodes) == 1
            self.jetstream.drop_consumers(lambda _: alone or self.random.random() < 1 / len(self.nodes))
            if alone:
                for stream in self.jetstream.streams.values():
                    stream.restart()
            elif node.name == self.jetstream.leader:
                self.lose_leader()
            self.loop.call_later(self.random.choice([0.05, 0.5, 2.0]), node.start)

    def lose_leader(self) -> None:
        """Let the streams have no leader for a moment."""
        if len(self.nodes) == 1 or any(stream.leaderless for stream in self.jetstream.streams.values()):
            return
        self.conditions.count("leader lost")
        for stream in self.jetstream.streams.values():
            stream.lose_leader()
        self.loop.call_later(self.random.choice([0.02, 0.2, 1.0, 3.0]), self._elect)

    def _elect(self) -> None:
        self.jetstream.leader = self.random.choice([node.name for node in self.nodes if node.is_up])
        for stream in self.jetstream.streams.values():
            stream.leaderless = False
            stream.changed()
            self.jetstream.advise("LEADER_ELECTED", stream.name)

    def lag(self) -> None:
        """Let a replica of each stream stand still for a while."""
        for stream in self.jetstream.streams.values():
            if stream.followers:
                self.conditions.count("replica stood still")
                replica = self.random.choice(stream.followers)
                replica.frozen_at = stream.reached(replica)
                self.loop.call_later(self.random.uniform(0.1, 2), setattr, replica, "frozen_at", None)

    def drop_consumer(self) -> None:
        """Let the server forget a consumer."""
        for _ in range(self.jetstream.drop_consumers(lambda _: self.random.random() < 0.5)):
            self.conditions.count("consumer forgotten")

    def refuse_batches(self) -> None:
        """Let no stream take batches, as on a server before 2.14 or in a bucket of somebody else."""
        for stream in self.jetstream.streams.values():
            stream.reconfigure({**stream.config, "allow_batched": False})
            self.jetstream.advise("UPDATED", stream.name)

    def make_anew(self, seconds: float) -> None:
        """Delete every stream and make it again after a while, as an administrator would."""
        for name in list(self.jetstream.streams):
            self.conditions.count("bucket made anew")
            config = self.jetstream.end(name).config
            self.loop.call_later(seconds, self.jetstream.begin, name, config)

    def heal(self) -> None:
        """Let all be well from now on; what is down comes back."""
        self._speed_up()
        self._lose_nothing()
