"""A nats-py client with a way in and a way out of our own, beside the public ones.

nats-py looks at each header character by character, queues each message and wakes a task for it. That is most of what
a request costs, so a connection that kvorm makes itself does without. ADR 0005 has the figures. This module alone
knows private names of nats-py; where those are not as known, `new_client` returns a plain client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import AWAITING_CONTROL_LINE, MAX_CONTROL_LINE_SIZE, Parser

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"
_VERSION: Final = "NATS/1.0"
_END: Final = "\r\n"
_END_BYTES: Final = b"\r\n"
_NO_STATUS: Final = b"NATS/1.0\r\n"
_PROCESS: Final = ["self", "sid", "subject", "reply", "data", "headers"]
_USED: Final = (
    "_flush_queue",
    "_flusher_task",
    "_pending",
    "_pending_data_size",
    "_ping_interval_task",
    "_pings_outstanding",
    "_process_connect_init",
    "_ps",
    "_reading_task",
    "_transport",
)
_FULL_READ_BYTES: Final = 32 * 1024
"""What nats-py reads at once; so much only if more is there than it has read yet."""

_KNOWN_HEADERS: Final = 64
"""Which sets of headers are remembered, as there are few."""

_WRITTEN_AT_ONCE: Final = 32
"""How many messages wait for each other: the server works on the first ones while the next are made."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message as it arrived; its headers are parsed when somebody asks for them."""

    subject: str
    reply: str
    raw_headers: bytes | Mapping[str, str] | None
    data: bytes

    @property
    def headers(self) -> Mapping[str, str] | None:
        """Its headers; the status of the server's own messages stands among them."""
        return parse_headers(self.raw_headers) if isinstance(self.raw_headers, bytes) else self.raw_headers

    @property
    def status(self) -> str | None:
        """Its status, if it is one of the server's own messages."""
        raw = self.raw_headers
        if not raw or (isinstance(raw, bytes) and raw.startswith(_NO_STATUS)):
            return None
        return (self.headers or {}).get(STATUS)


Take: TypeAlias = Callable[[Received], None]
"""Called from the read loop, which ends with whatever it raises: it must be short and must not raise."""


class DirectClient(Client):
    """A client that hands what it receives for one of our subscriptions straight to its taker."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[str, Take] = {}
        self._writes_soon = False
        self._ps = _DirectParser(self, self._takers)

    async def subscribe_direct(self, subject: str, take: Take) -> Subscription:
        """Subscribe; messages go to `take` and never to the subscription's queue."""
        # nats-py leaves the type of one parameter open, which pyright counts against the whole method.
        subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        # It has no messages yet: its subject is known to nobody before this returns.
        self._takers[_id(subscription)] = take
        return subscription

    async def end(self, subscription: Subscription) -> None:
        """Unsubscribe, and hand nothing over from now on."""
        self._takers.pop(_id(subscription), None)
        await subscription.unsubscribe()

    async def _process_connect_init(self) -> None:
        """Introduce ourselves to a server; end what a connection has left behind that was lost just as it was made.

        nats-py lets its tasks go on and makes others: pings of a client that is closed.
        """
        # nats-py leaves open what its tasks return.
        left: list[asyncio.Task[None] | None] = [
            self._reading_task,  # pyright: ignore[reportUnknownMemberType]
            self._ping_interval_task,  # pyright: ignore[reportUnknownMemberType]
            self._flusher_task,  # pyright: ignore[reportUnknownMemberType]
        ]
        for task in left:
            if task is not None:
                task.cancel()
        await super()._process_connect_init()

    def publish_direct(self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
        """Send a message, after all that was handed over before."""
        target = (f"{subject} {reply}" if reply else subject).encode()
        size = len(payload)
        if headers:
            block = header_block(headers)
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (target, len(block), len(block) + size, block, payload)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (target, size, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        # What is to be sent waits in this list; a task of nats-py writes it out as well.
        self._pending.append(command)
        self._pending_data_size += len(command)
        if len(self._pending) >= _WRITTEN_AT_ONCE:
            self._write_out()
        elif not self._writes_soon:
            self._writes_soon = True
            asyncio.get_running_loop().call_soon(self._write_out)

    def hear_more_is_coming(self) -> None:
        """Take note that the answer to a ping may wait behind what else the server sends."""
        self._pings_outstanding = 0

    def _write_out(self) -> None:
        self._writes_soon = False
        if not self._pending or not self.is_connected:
            return
        if isinstance(self._transport, TcpTransport):
            # nats-py leaves it without types.
            self._transport.writelines(self._pending)  # type: ignore[no-untyped-call]
            self._pending = []
            self._pending_data_size = 0
        elif self._flush_queue is not None and self._flush_queue.empty():
            # A web socket sends where it is drained, which is that task's to do.
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Take what the parser left to nats-py, for it came amid other things."""
        take = self._takers.get(str(sid))
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        take(Received(subject.decode(), reply.decode(), headers or None, data))


class _DirectParser(Parser):
    """Hands over the messages at the front of what was read that have a taker; nats-py does the rest."""

    def __init__(self, client: DirectClient, takers: Mapping[str, Take]) -> None:
        super().__init__(client)  # pyright: ignore[reportUnknownMemberType]
        self._client = client
        self._takers = takers

    async def parse(self, data: bytes = b"") -> None:
        """Go through what was read."""
        if len(data) >= _FULL_READ_BYTES:
            self._client.hear_more_is_coming()
        self.buf.extend(data)
        if self.state != AWAITING_CONTROL_LINE or self._hand_over():
            await super().parse()

    def _hand_over(self) -> bool:
        """Return whether what is left now is for nats-py; otherwise it waits for more to be read."""
        # Slices of bytes are one copy each, those of the bytearray two.
        buffer, stats = bytes(self.buf), self._client.stats
        find, takers, length, end_size = buffer.find, self._takers, len(buffer), len(_END_BYTES)
        position = messages = size = 0
        try:
            while True:
                end = find(_END_BYTES, position)
                if end < 0:
                    return length - position >= MAX_CONTROL_LINE_SIZE
                # MSG subject sid [reply] size; HMSG subject sid [reply] header-size size
                # The server puts single spaces between them; a space of another alphabet is part of a subject.
                words = buffer[position:end].decode().split(" ")
                number = len(words)
                if number < 4:
                    return True
                take = takers.get(words[2])
                if take is None:
                    return True
                body = start = end + end_size
                past = start + int(words[-1])
                if length < past + end_size:
                    return False
                if words[0] == "MSG":
                    reply, raw_headers = words[3] if number == 5 else "", None
                elif words[0] == "HMSG":
                    body += int(words[-2])
                    reply, raw_headers = words[3] if number == 6 else "", buffer[start:body]
                else:
                    return True
                position = past + end_size
                messages += 1
                size += past - body
                take(Received(words[1], reply, raw_headers, buffer[body:past]))
        except ValueError:
            return True  # malformed: nats-py says so
        finally:
            stats["in_msgs"] += messages
            stats["in_bytes"] += size
            del self.buf[:position]


def new_client() -> Client:
    """Return a client to connect with: a `DirectClient` where nats-py has what that one builds on."""
    return DirectClient() if _is_as_known() else Client()


def _is_as_known() -> bool:
    process, parse = getattr(Client, "_process_msg", None), getattr(Parser, "parse", None)
    if process is None or parse is None:
        return False
    client = Client()
    return list(inspect.signature(process).parameters) == _PROCESS and all(hasattr(client, name) for name in _USED)


def header_block(headers: Mapping[str, str]) -> bytes:
    """Return headers as they travel. Source: ADR-4."""
    return (_lines(tuple(headers)) % tuple(headers.values())).encode()


@lru_cache(_KNOWN_HEADERS)
def _lines(names: tuple[str, ...]) -> str:
    """Return a block with a place for each value."""
    lines = "".join([f"{name.replace('%', '%%')}: %s{_END}" for name in names])
    return f"{_VERSION}{_END}{lines}{_END}"


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a block; a status in its first line becomes one, as nats-py has it. Source: ADR-4."""
    first, *lines = block.decode(errors="replace").split(_END)
    headers: dict[str, str] = {}
    if len(first) > len(_VERSION):
        status, _, description = first[len(_VERSION) :].strip().partition(" ")
        headers[STATUS] = status
        if description:
            headers[DESCRIPTION] = description
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            headers[name] = value.strip()
    return headers


def _id(subscription: Subscription) -> str:
    """Return its number as the server spells it."""
    number: int = subscription._id  # pyright: ignore[reportPrivateUsage]
    return str(number)
