"""A simulated push consumer: it delivers in order what its filters want, and tells when it is idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any, Final, Protocol

from kvorm.backends import message
from kvorm.backends.log import StoredMessage
from kvorm.backends.nats.direct import header_block
from kvorm.keys import matches_any
from kvorm.testing.simulation import answers
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.simulation.node import Published
from kvorm.testing.simulation.stream import Replica, SimulatedStream

_MOST_IN_A_ROW: Final = 6
_LONGEST_BREAK: Final = 0.003


class Surroundings(Protocol):
    """What a consumer needs of its server."""

    @property
    def window(self) -> int:
        """Bytes that may be on their way to one reader who has not asked for more."""
        ...

    def deliver(self, message: Published) -> None:
        """Bring a message to whom it concerns, unless it gets lost."""
        ...

    def has_interest(self, subject: str) -> bool:
        """Whether anybody takes what is delivered."""
        ...


class SimulatedConsumer:
    """An ephemeral push consumer without acknowledgements.

    Attributes:
        stream: what it delivers from.
        pending: how many messages it counts as still to come; like the server's, that count is not exact.
        is_gone: whether it was deleted, or gave up for lack of a reader.
    """

    def __init__(
        self,
        stream: SimulatedStream,
        replica: Replica | None,
        config: dict[str, Any],
        surroundings: Surroundings,
        loop: VirtualLoop,
        random: Random,
    ) -> None:
        self.name: str = config["name"]
        self.config = config
        self.is_gone = False
        self.replica = replica
        self.stream = stream
        self._around = surroundings
        self._loop = loop
        self._random = random
        self._inbox: str = config["deliver_subject"]
        self._filters: list[str] = config.get("filter_subjects") or [">"]
        self._first: deque[int] = deque()
        self._next = self._begin()
        self._numbers = 0
        self._told = 0
        self._in_flight = 0
        self._asked = ""
        self._asked_bytes = 0
        self._asks = 0
        self._pumping = False
        self._delivered_at = loop.time()
        self._wanted_at = loop.time()
        self.pending = len(self._first) + sum(self._wants(one) for one in self._held() if one.sequence >= self._next)
        self._heartbeat_seconds = config["idle_heartbeat"] / 1e9
        self._beat = loop.call_later(self._heartbeat_seconds, self._heartbeat)
        self.wake()

    def _held(self) -> list[StoredMessage]:
        return self.stream.held(self._reached())

    def _reached(self) -> int:
        return self.stream.log.last_sequence if self.replica is None else self.stream.reached(self.replica)

    def _begin(self) -> int:
        """Return the sequence to begin with; the latest ones of each subject come before it if they are wanted."""
        match self.config.get("deliver_policy", "all"):
            case "last_per_subject":
                latest = {one.subject: one.sequence for one in self._held() if self._wants(one)}
                self._first.extend(sorted(latest.values()))
                return self._reached() + 1
            case "by_start_sequence":
                return int(self.config["opt_start_seq"])
            case "new":
                return self._reached() + 1
            case _:
                return 1

    def _wants(self, stored: StoredMessage) -> bool:
        return matches_any(self._filters, stored.subject)

    # Delivering

    def announce(self, stored: StoredMessage | None) -> None:
        """Take note that the stream has changed, by a message or otherwise."""
        if stored is not None and self._wants(stored):
            self.pending += 1
        self.wake()

    def wake(self) -> None:
        """Look soon what there is to deliver."""
        if not self._pumping and not self.is_gone:
            self._pumping = True
            self._loop.call_later(self._random.uniform(0, _LONGEST_BREAK), self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.is_gone or not self._around.has_interest(self._inbox):
            return
        for _ in range(self._random.randint(1, _MOST_IN_A_ROW)):
            if self._in_flight >= self._around.window:
                return
            stored = self._take()
            if stored is None:
                # A replica gets there by itself, and nobody says so.
                if self._reached() < self.stream.log.last_sequence:
                    self.wake()
                return
            self._deliver(stored)
        self.wake()

    def _take(self) -> StoredMessage | None:
        """Return the next message: those that were pushed out or erased meanwhile are passed over."""
        reached = self._reached()
        log = self.stream.log
        while self._first:
            stored = log.at(self._first.popleft())
            if stored is not None:
                return stored
        while self._next <= reached:
            stored = log.at(self._next)
            self._next += 1
            if stored is not None and self._wants(stored):
                return stored
        return None

    def _deliver(self, stored: StoredMessage) -> None:
        self._numbers += 1
        self._told = max(self._told, stored.sequence)
        self.pending = max(0, self.pending - 1)
        nanoseconds = int(stored.written.timestamp() * 1e6) * 1000
        reply = (
            f"$JS.ACK.{self.stream.name}.{self.name}.1.{stored.sequence}.{self._numbers}.{nanoseconds}.{self.pending}"
        )
        headers, data = stored.headers, stored.data
        if self.config.get("headers_only"):
            headers, data = {**headers, "Nats-Msg-Size": str(len(data))}, b""
        self._in_flight += len(data) + message.headers_size(headers)
        self._delivered_at = self._loop.time()
        block = header_block(headers) if headers else b""
        self._around.deliver(Published(stored.subject, reply, block, data, self._inbox))
        if not self._asked and self._in_flight > self._around.window // 2:
            self._ask()

    def _ask(self) -> None:
        """Ask the reader whether it has got so far."""
        self._asks += 1
        self._asked = f"$JS.FC.{self.stream.name}.{self.name}.{self._asks}"
        self._asked_bytes = self._in_flight
        block = answers.status("100 FlowControl Request")
        self._around.deliver(Published(self._inbox, self._asked, block, b""))

    def go_on(self, subject: str) -> None:
        """Take the answer of the reader."""
        if subject == self._asked:
            self._asked = ""
            self._in_flight -= self._asked_bytes
            self.wake()

    def _heartbeat(self) -> None:
        if self.is_gone:
            return
        self._beat = self._loop.call_later(self._heartbeat_seconds, self._heartbeat)
        now = self._loop.time()
        if self._around.has_interest(self._inbox):
            self._wanted_at = now
            self.wake()
        elif now - self._wanted_at > self.config["inactive_threshold"] / 1e9:
            self.end()
            return
        if now - self._delivered_at >= self._heartbeat_seconds:
            last = self._first[0] - 1 if self._first else self._next - 1
            headers = {"Nats-Last-Consumer": str(self._numbers), "Nats-Last-Stream": str(last)}
            if self._asked:
                headers["Nats-Consumer-Stalled"] = self._asked
            self._around.deliver(Published(self._inbox, "", answers.status("100 Idle Heartbeat", headers), b""))

    def end(self) -> None:
        """Deliver nothing more."""
        self.is_gone = True
        self._beat.cancel()

    def info(self, stream: str) -> Mapping[str, Any]:
        """Return what the server says of it."""
        return {
            "stream_name": stream,
            "name": self.name,
            "config": self.config,
            "delivered": {"consumer_seq": self._numbers, "stream_seq": self._told},
            "num_pending": self.pending,
        }
