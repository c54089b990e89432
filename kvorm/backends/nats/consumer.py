"""A consumer of our own on the server, and the inbox it fills.

The client's ordered consumer is not used: it stays silent for many seconds after a restart and loses messages of a
slow reader (hazards H9, H15).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, NamedTuple

import nats.errors

from kvorm.backends.base import Deadline
from kvorm.backends.nats.config import nanoseconds
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.replies import delivered
from kvorm.backends.nats.stream import Stream
from kvorm.backends.nats.transport import Listening

_HEARTBEAT: Final = timedelta(seconds=0.5)
_SILENT_TICKS: Final = 15
"""Ticks, not seconds: while this process was stopped, the server was not silent."""

_INACTIVE: Final = timedelta(seconds=5)
_CREATION_SECONDS: Final = 1.0
_STORED: Final = "$JS.ACK."
_STALLED: Final = "Nats-Consumer-Stalled"
_TURN: Final = 256
"""Messages read before others have their turn."""


class GapError(Exception):
    """The consumer fell silent or skipped something: a fresh one has to go on."""


class Idle(NamedTuple):
    """Nothing at the moment; all up to a position has been delivered, as far as is known."""

    position: int


class Consumer:
    """An ephemeral push consumer without acknowledgements.

    The server sends 32 MB at most beyond what the reader has taken: its flow control is answered when the reader gets
    there.
    """

    def __init__(self, stream: Stream, *, heard: float) -> None:
        """Describe one; `heard` is when the server was last heard of."""
        self._stream = stream
        self._link = stream.link
        self._name = f"kvorm-{secrets.token_hex(8)}"
        self._inbox = ""
        self._listening: Listening | None = None
        self._creating: asyncio.Future[dict[str, Any]] | None = None
        self._on_server = False
        self._life = 0
        self._delivered = 0
        self._silent_ticks = 0
        self._unread: deque[Received] = deque()
        # How many of them are no stored messages.
        self._signs = 0
        self._arrived = asyncio.Event()
        self._lost = False
        self._now = asyncio.get_running_loop().time
        self.heard = heard
        """When the server was last heard of, by the clock of the event loop, to a tick."""

    async def open(self, delivery: Mapping[str, Any], deadline: Deadline) -> int:
        """Make it on the server; return how many messages it has to deliver.

        Raises:
            StoreUnavailableError, StoreTimeoutError, JetStreamError: it may be there; `close` it.
            StoreClosedError: the connection is closed.
        """
        await self._link.ready(deadline)
        self._life = self._link.life
        self._inbox = self._link.client.new_inbox()
        self._listening = await self._link.transport.subscribe(self._inbox, self._receive)
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_subject": self._inbox,
            "ack_policy": "none",
            "idle_heartbeat": nanoseconds(_HEARTBEAT),
            "flow_control": True,
            "inactive_threshold": nanoseconds(_INACTIVE),
            "mem_storage": True,
            "num_replicas": 1,
            "filter_subjects": list(self._stream.subjects),
            **delivery,
        }
        body = {"stream_name": self._stream.name, "config": config, "action": "create"}
        create = self._link.call(f"CONSUMER.CREATE.{self._stream.name}.{self._name}", body, deadline=deadline)
        self._creating = asyncio.ensure_future(create)
        self._on_server = True
        await asyncio.wait({self._creating})
        info = self._creating.result()
        self._silent_ticks, self.heard = 0, self._now()
        pending: int = info["num_pending"]
        return pending

    async def next(self) -> Received | Idle | None:
        """Return the next message, what a heartbeat says, or None after a `nudge`.

        Raises:
            GapError: one was lost, or the server is.
        """
        while True:
            message = await self._take()
            if message is None:
                return None
            if not _is_sign(message):
                self._count(1, message)
                return message
            self._signs -= 1
            headers = message.headers or {}
            # A request of flow control, or a heartbeat which says that the answer to one has been lost.
            asked = message.reply or headers.get(_STALLED)
            if asked:
                await self._go_on(asked)
            if not message.reply:
                return self._idle(headers)

    def at_hand(self) -> list[Received]:
        """Return the next messages that have come, up to where others wait for a turn.

        Raises:
            GapError: one was lost; what came before it comes again from another consumer.
        """
        unread = self._unread
        number = min(-self._delivered % _TURN, len(unread))
        if self._signs:
            number = next((place for place in range(number) if _is_sign(unread[place])), number)
        found = [unread.popleft() for _ in range(number)]
        if found:
            # They come in order, each once, so none is missing before the last one if that has its number.
            self._count(len(found), found[-1])
        return found

    def _count(self, number: int, last: Received) -> None:
        """Count messages that were delivered."""
        self._delivered += number
        if delivered(last).number != self._delivered:
            raise GapError

    def _idle(self, headers: Mapping[str, str]) -> Idle:
        if int(headers.get("Nats-Last-Consumer", 0)) != self._delivered:
            raise GapError
        return Idle(int(headers.get("Nats-Last-Stream", 0)))

    async def _take(self) -> Received | None:
        if not self._unread and not self._lost:
            self._arrived.clear()
            await self._arrived.wait()
        elif not self._delivered % _TURN:
            await asyncio.sleep(0)
        if self._unread:
            return self._unread.popleft()
        if self._lost:
            raise GapError
        return None

    async def _go_on(self, subject: str) -> None:
        """Let the server send more."""
        if self._link.client.is_connected:
            with suppress(nats.errors.Error):
                await self._link.client.publish(subject)

    def tick(self) -> None:
        """Notice that the connection was lost, or that the server is silent."""
        if not self._silent_ticks:
            self.heard = self._now()
        self._silent_ticks += 1
        if self._silent_ticks > _SILENT_TICKS or not self._link.client.is_connected or self._life != self._link.life:
            self.lose()

    def lose(self) -> None:
        """Give it up: its reader gets what has come, then GapError."""
        self._lost = True
        self.nudge()

    def nudge(self) -> None:
        """Wake the reader."""
        self._arrived.set()

    def uses(self, subject: str) -> bool:
        """Whether it cannot work without a subject, given in lower case."""
        flow_control = f"$JS.FC.{self._stream.name}.{self._name}.".lower()
        return subject == self._inbox.lower() or subject.startswith(flow_control)

    async def close(self) -> None:
        """Take it off the server. Idempotent; once more after an outage, or the server does it by itself after 5 s."""
        client = self._link.client
        listening, self._listening = self._listening, None
        with suppress(nats.errors.Error):
            if listening is not None:
                await listening.end()
        await self._await_creation()
        with suppress(nats.errors.Error):
            if self._on_server and client.is_connected:
                self._on_server = False
                await client.publish(f"{self._link.api}.CONSUMER.DELETE.{self._stream.name}.{self._name}")

    async def _await_creation(self) -> None:
        """Let a creation end: the nodes of a cluster may see a deletion before it that was sent after it."""
        creating, self._creating = self._creating, None
        if creating is None:
            return
        if self._link.client.is_connected:
            await asyncio.wait({creating}, timeout=_CREATION_SECONDS)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)

    def _receive(self, message: Received) -> None:
        self._silent_ticks = 0
        unread = self._unread
        if not message.reply.startswith(_STORED):
            # Of heartbeats that nobody reads the last one is enough. They alone want no reply.
            if not message.reply and unread and not unread[-1].reply:
                unread.pop()
                self._signs -= 1
            self._signs += 1
        unread.append(message)
        if not self._arrived.is_set():
            self._arrived.set()


def _is_sign(message: Received) -> bool:
    """Whether it is a heartbeat or a request of flow control, and no stored message, which may have any headers."""
    return not message.reply.startswith(_STORED)
