"""A simulated nats-server: it speaks the protocol of clients, and routes messages between them and JetStream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

from kvorm.keys import matches
from kvorm.testing.simulation.network import Connection, SimulatedNetwork

MAX_PAYLOAD: Final = 1024 * 1024
VERSION: Final = "2.15.1"
_WILDCARD: Final = re.compile(r"[*>]")
_END: Final = b"\r\n"


class Published(NamedTuple):
    """A message as it was sent; `block` are its headers as they travel.

    `inbox` is where it goes, where that is not its subject: a consumer shows the subject a message was stored under.
    """

    subject: str
    reply: str
    block: bytes
    data: bytes
    inbox: str = ""


class Service(Protocol):
    """What listens beside the clients."""

    def take(self, message: Published) -> bool:
        """Take a message; False where nobody listens on its subject."""
        ...


class Router:
    """Brings each message to all who subscribed, on whichever node."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def sessions(self) -> Iterator[Session]:
        """Yield all clients of all nodes."""
        for node in self.nodes:
            yield from node.sessions

    def deliver(self, message: Published) -> bool:
        """Hand a message to the clients that subscribed; tell whether any did."""
        taken = False
        for session in self.sessions():
            taken = session.deliver(message) or taken
        return taken

    def has_interest(self, subject: str) -> bool:
        """Whether any client subscribed."""
        return any(session.wants(subject) for session in self.sessions())


class Node:
    """One server: who is connected to it, and what it says of itself."""

    def __init__(self, name: str, port: int, router: Router, service: Service, network: SimulatedNetwork) -> None:
        self.name = name
        self.port = port
        self.router = router
        self.service = service
        self.sessions: dict[Session, None] = {}
        self.life = 0
        self.clustered = False
        self.left_behind = 0
        """Subscriptions that clients still had when they closed."""
        self._network = network
        router.nodes.append(self)

    @property
    def server_id(self) -> str:
        """Which life of this server it is."""
        return f"{self.name}-{self.life}"

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._up

    _up = False

    def start(self) -> None:
        """Run, under a new id."""
        self.life += 1
        self._up = True
        self._network.listen(self.port, self._accept)

    def stop(self) -> None:
        """Run no more; its clients lose their connections."""
        self._up = False
        self._network.stop_listening(self.port)
        for connection in [one for one in self._network.connections if one.port == self.port]:
            self._network.cut(connection)
        self.sessions.clear()

    def info(self) -> dict[str, Any]:
        """Return what it tells a client first."""
        info: dict[str, Any] = {
            "server_id": self.server_id,
            "server_name": self.name,
            "version": VERSION,
            "proto": 1,
            "host": "127.0.0.1",
            "port": self.port,
            "headers": True,
            "max_payload": MAX_PAYLOAD,
            "jetstream": True,
            "client_id": 1,
            "client_ip": "127.0.0.1",
        }
        return {**info, "cluster": "simulated"} if self.clustered else info

    def _accept(self, connection: Connection) -> Session:
        session = Session(self, connection)
        self.sessions[session] = None
        session.send(b"INFO " + json.dumps(self.info()).encode() + _END)
        return session


class Session:
    """The server's end of one client's connection."""

    def __init__(self, node: Node, connection: Connection) -> None:
        self._node = node
        self._connection = connection
        self._buffer = bytearray()
        # By the number that the client gave each; few enough to look at all of them.
        self._exact: dict[str, dict[str, None]] = {}
        # Those with a wildcard, each behind what stands before that.
        self._wild: dict[str, tuple[str, str]] = {}
        self._subjects: dict[str, str] = {}

    @property
    def subscriptions(self) -> list[str]:
        """What the client subscribed to."""
        return list(self._subjects.values())

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._connection.to_client.send(data)

    def lost(self, *, closed: bool) -> None:
        """The connection is gone; `closed` by the client, as it wanted."""
        self._node.sessions.pop(self, None)
        if closed:
            self._node.left_behind += len(self._subjects)
        self._subjects.clear()

    def wants(self, subject: str) -> bool:
        """Whether the client subscribed to a subject."""
        return bool(self._subscribed(subject))

    def _subscribed(self, subject: str) -> list[str]:
        """Return the numbers of the subscriptions to a subject."""
        numbers = list(self._exact.get(subject, ()))
        for sid, (start, wildcard) in self._wild.items():
            if subject.startswith(start) and matches(wildcard, subject):
                numbers.append(sid)
        return numbers

    def deliver(self, message: Published) -> bool:
        """Hand a message to the client if it wants it, once for each of its subscriptions."""
        subject, wanted = message.subject, message.inbox or message.subject
        numbers = self._subscribed(wanted)
        for sid in numbers:
            reply = f" {message.reply}" if message.reply else ""
            size = len(message.block) + len(message.data)
            if message.block:
                head = f"HMSG {subject} {sid}{reply} {len(message.block)} {size}\r\n"
            else:
                head = f"MSG {subject} {sid}{reply} {size}\r\n"
            self.send(b"".join((head.encode(), message.block, message.data, _END)))
        return bool(numbers)

    def receive(self, data: bytes) -> None:
        """Go through what the client sent."""
        buffer = self._buffer
        buffer += data
        position = 0
        while (end := buffer.find(_END, position)) >= 0:
            words = buffer[position:end].decode().split(" ")
            start = end + len(_END)
            if words[0] in ("PUB", "HPUB"):
                past = start + int(words[-1])
                if len(buffer) < past + len(_END):
                    break
                body = start + int(words[-2]) if words[0] == "HPUB" else start
                reply = words[2] if len(words) == (5 if words[0] == "HPUB" else 4) else ""
                message = Published(words[1], reply, bytes(buffer[start:body]), bytes(buffer[body:past]))
                position = past + len(_END)
                self._publish(message)
            else:
                position = start
                self._obey(words)
        del buffer[:position]

    def _publish(self, message: Published) -> None:
        node = self._node
        taken = node.service.take(message)
        taken = node.router.deliver(message) or taken
        if not taken and message.reply:
            block = f"NATS/1.0 503\r\nNats-Subject: {message.subject}\r\n\r\n".encode()
            self.deliver(Published(message.reply, "", block, b""))

    def _obey(self, words: list[str]) -> None:
        match words:
            case ["PING"]:
                self.send(b"PONG\r\n")
            case ["SUB", subject, *_, sid]:
                self._subjects[sid] = subject
                if wildcard := _WILDCARD.search(subject):
                    self._wild[sid] = (subject[: wildcard.start()], subject)
                else:
                    self._exact.setdefault(subject, {})[sid] = None
            case ["UNSUB", sid, *_]:
                subject = self._subjects.pop(sid, "")
                self._wild.pop(sid, None)
                self._exact.get(subject, {}).pop(sid, None)
            case _:
                pass  # CONNECT, PONG
