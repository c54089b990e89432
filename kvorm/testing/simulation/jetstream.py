"""The simulated JetStream: streams, their consumers, and the API that clients ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

import msgspec

from kvorm.backends.log import StoredMessage
from kvorm.backends.nats.direct import parse_headers
from kvorm.keys import matches
from kvorm.testing.simulation import answers
from kvorm.testing.simulation.answers import Refusal
from kvorm.testing.simulation.consumers import SimulatedConsumer
from kvorm.testing.simulation.directgets import direct_get
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.simulation.node import Published, Router
from kvorm.testing.simulation.stream import SimulatedStream

_API: Final = "$JS.API."
_KV: Final = "$KV."
_FLOW: Final = "$JS.FC."
_NANOSECONDS: Final = 1_000_000_000


@dataclass
class Conditions:
    """How well JetStream works at the moment.

    Attributes:
        loses: how probable it is that a request, an answer or a delivered message gets lost inside the cluster.
        repeats: how probable it is that a question or its only answer comes twice; a write or a delivery never does.
        slowness: seconds that an answer takes at most.
        page: how many subjects STREAM.INFO tells at once.
        window: bytes that a consumer sends without hearing from its reader.
    """

    loses: float = 0.0
    repeats: float = 0.0
    slowness: float = 0.0
    page: int = 100_000
    window: int = 32 * 1024 * 1024
    faults: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, fault: str) -> None:
        """Count a fault that happened."""
        self.faults[fault] = self.faults.get(fault, 0) + 1


class JetStream:
    """All streams of a server or cluster."""

    def __init__(self, loop: VirtualLoop, random: Random, router: Router, conditions: Conditions) -> None:
        self.streams: dict[str, SimulatedStream] = {}
        self.consumers: dict[tuple[str, str], SimulatedConsumer] = {}
        self.ended: list[SimulatedStream] = []
        """Streams that were deleted."""
        self.leader = "simulated"
        self.conditions = conditions
        self._loop = loop
        self._random = random
        self._router = router
        self._created = 0
        self._told: dict[str, int] = {}

    # The service beside the clients

    @property
    def window(self) -> int:
        """Bytes that a consumer sends without hearing from its reader."""
        return self.conditions.window

    def has_interest(self, subject: str) -> bool:
        """Whether any client subscribed."""
        return self._router.has_interest(subject)

    def deliver(self, message: Published) -> None:
        """Bring a message to its reader, unless it gets lost."""
        for _ in range(self._times("delivery", may_repeat=False)):
            self._router.deliver(message)

    def take(self, message: Published) -> bool:
        """Take what is meant for JetStream; False where nobody listens."""
        subject = message.subject
        if subject.startswith(_KV):
            return self._take_write(message)
        if subject.startswith(_API):
            return self._take_question(message, subject[len(_API) :])
        if subject.startswith(_FLOW):
            stream, name = subject.split(".")[2:4]
            consumer = self.consumers.get((stream, name))
            if consumer is not None:
                consumer.go_on(subject)
            return consumer is not None
        return False

    def _take_write(self, message: Published) -> bool:
        stream = self._stream_of(message.subject)
        if stream is None or stream.leaderless:
            return False
        headers = parse_headers(message.block) if message.block else {}
        for _ in range(self._times("write", may_repeat=False)):
            reply = partial(self._reply, message.reply, b"")
            stream.write(message.subject, message.data, headers, message.reply, reply)
        return True

    def _take_question(self, message: Published, verb: str) -> bool:
        if verb.startswith("DIRECT.GET."):
            name, _, subject = verb[len("DIRECT.GET.") :].partition(".")
            stream = self.streams.get(name)
            if stream is None or not stream.config.get("allow_direct"):
                return False
            for _ in range(self._times("question", may_repeat=False)):
                self._soon(lambda: direct_get(stream, subject, message.data, self._parts(message.reply)))
            return True
        for _ in range(self._times("question", may_repeat=not verb.startswith("STREAM.CREATE"))):
            self._soon(lambda: self._ask(message, verb))
        return True

    def _parts(self, subject: str) -> Callable[[bytes, bytes], None]:
        """Return what sends the parts of one answer: none comes twice, and behind one that gets lost none comes."""
        complete = True

        def send(block: bytes, data: bytes) -> None:
            nonlocal complete
            complete = complete and self._times("answer", may_repeat=False) == 1
            if complete:
                self._router.deliver(Published(subject, "", block, data))

        return send

    def _soon(self, work: Callable[[], None]) -> None:
        if self.conditions.slowness:
            self._loop.call_later(self._random.uniform(0, self.conditions.slowness), work)
        else:
            work()

    def _reply(self, subject: str, block: bytes, data: bytes) -> None:
        if subject:
            for _ in range(self._times("answer")):
                self._router.deliver(Published(subject, "", block, data))

    def _times(self, what: str, *, may_repeat: bool = True) -> int:
        """Return how often a message arrives: mostly once."""
        conditions = self.conditions
        if not conditions.loses and not conditions.repeats:
            return 1
        chance = self._random.random()
        if chance < conditions.loses:
            conditions.count(f"{what} lost")
            return 0
        if may_repeat and chance > 1 - conditions.repeats:
            conditions.count(f"{what} repeated")
            return 2
        return 1

    def _stream_of(self, subject: str) -> SimulatedStream | None:
        for stream in self.streams.values():
            if any(matches(one, subject) for one in stream.config["subjects"]):
                return stream
        return None

    # The API

    def _ask(self, message: Published, verb: str) -> None:
        kind, _, rest = verb.rpartition(".")
        if kind.startswith("CONSUMER."):
            # CONSUMER.CREATE.<stream>.<consumer>
            kind, _, name = kind.rpartition(".")
            rest = f"{name}.{rest}"
        body: dict[str, Any] = msgspec.json.decode(message.data) if message.data else {}
        handler = self._handlers().get(kind or rest)
        if handler is None:
            raise AssertionError(f"{verb} is not simulated")
        stream = self.streams.get(rest.partition(".")[0])
        if stream is not None and stream.leaderless:
            # The leader of all says so, or nobody says anything.
            if self._random.random() < 0.5:
                self._reply(message.reply, b"", answers.api(_type(kind), answers.UNAVAILABLE))
            return
        self._reply(message.reply, b"", answers.api(_type(kind or rest), handler(rest, body)))

    def _handlers(self) -> Mapping[str, Callable[[str, dict[str, Any]], Mapping[str, Any] | Refusal]]:
        return {
            "INFO": lambda _, __: {"streams": len(self.streams)},
            "STREAM.INFO": self._stream_info,
            "STREAM.CREATE": self._create_stream,
            "STREAM.UPDATE": self._update_stream,
            "STREAM.DELETE": self._delete_stream,
            "STREAM.MSG.GET": self._message,
            "CONSUMER.CREATE": self._create_consumer,
            "CONSUMER.DELETE": self._delete_consumer,
        }

    def _stream_info(self, name: str, body: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        stream = self.streams.get(name)
        if stream is None:
            return answers.NO_STREAM
        wanted = body.get("subjects_filter")
        if wanted is None:
            return {"total": 0, "offset": 0, "limit": 0, **self._described(stream)}
        counts: dict[str, int] = {}
        for one in stream.log.after(0):
            if matches(wanted, one.subject):
                counts[one.subject] = counts.get(one.subject, 0) + 1
        offset, limit = body.get("offset", 0), self.conditions.page
        page = {subject: counts[subject] for subject in sorted(counts)[offset : offset + limit]}
        described = self._described(stream)
        if page:
            described["state"]["subjects"] = page
        return {"total": len(counts), "offset": offset, "limit": limit if counts else 0, **described}

    def _described(self, stream: SimulatedStream) -> dict[str, Any]:
        held = list(stream.log.after(0))
        last = stream.log.last_sequence
        state: dict[str, Any] = {
            "messages": len(held),
            "bytes": stream.log.size_bytes,
            "first_seq": held[0].sequence if held else last + 1 if last else 0,
            "last_seq": last,
            "consumer_count": sum(one == stream.name for one, _ in self.consumers),
        }
        if held:
            state["num_subjects"] = len({one.subject for one in held})
        cluster = {"leader": self.leader}
        return {"config": stream.config, "created": stream.created, "state": state, "cluster": cluster}

    def _create_stream(self, name: str, config: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        known = self.streams.get(name)
        complete = _completed(config)
        if known is not None and known.config != complete:
            return answers.NAME_IN_USE
        if known is None:
            known = self.begin(name, complete)
        return {**self._described(known), "did_create": True}

    def _update_stream(self, name: str, config: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        stream = self.streams.get(name)
        if stream is None:
            return answers.NO_STREAM
        stream.reconfigure(_completed(config))
        self.advise("UPDATED", name)
        return self._described(stream)

    def _delete_stream(self, name: str, _: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        if name not in self.streams:
            return answers.NO_STREAM
        self.end(name)
        return {"success": True}

    def _message(self, name: str, body: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        stream = self.streams.get(name)
        if stream is None:
            return answers.NO_STREAM
        found: StoredMessage | None
        if "last_by_subj" in body:
            found = stream.log.last(body["last_by_subj"])
        elif "next_by_subj" in body:
            after = stream.log.after(body.get("seq", 0) - 1)
            found = next((one for one in after if matches(body["next_by_subj"], one.subject)), None)
        else:
            found = stream.log.at(body["seq"])
        return answers.NO_MESSAGE if found is None else {"message": answers.message(found)}

    def _create_consumer(self, where: str, body: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        stream_name, _, name = where.partition(".")
        stream = self.streams.get(stream_name)
        if stream is None:
            return answers.NO_STREAM
        consumer = self.consumers.get((stream_name, name))
        if consumer is None or consumer.is_gone:
            replica = self._random.choice([None, *stream.followers]) if stream.followers else None
            consumer = SimulatedConsumer(stream, replica, body["config"], self, self._loop, self._random)
            self.consumers[stream_name, name] = consumer
        return consumer.info(stream_name)

    def _delete_consumer(self, where: str, __: dict[str, Any]) -> Mapping[str, Any] | Refusal:
        stream_name, _, name = where.partition(".")
        if stream_name not in self.streams:
            return answers.NO_STREAM
        consumer = self.consumers.pop((stream_name, name), None)
        if consumer is None or consumer.is_gone:
            return answers.NO_CONSUMER
        consumer.end()
        return {"success": True}

    # What happens without being asked

    def begin(self, name: str, config: dict[str, Any]) -> SimulatedStream:
        """Make a stream, of a complete configuration."""
        self._created += 1
        created = f"{self._loop.utc().replace(tzinfo=None).isoformat(timespec='microseconds')}{self._created:03}Z"
        stream = self.streams[name] = SimulatedStream(name, config, created, self._loop, self._random)
        stream.changed = partial(self._changed, stream)
        self.advise("CREATED", name)
        return stream

    def end(self, name: str) -> SimulatedStream:
        """Delete a stream, and return it as it was."""
        stream = self.streams.pop(name)
        stream.end()
        self.ended.append(stream)
        self.drop_consumers(lambda consumer: consumer.stream is stream)
        self.advise("DELETED", name)
        return stream

    def advise(self, what: str, name: str) -> None:
        """Tell all who want to know what happened to a stream."""
        subject = f"$JS.EVENT.ADVISORY.STREAM.{what}.{name}"
        self._router.deliver(Published(subject, "", b"", json.dumps({"stream": name}).encode()))

    def drop_consumers(self, which: Callable[[SimulatedConsumer], bool]) -> int:
        """End consumers without a word; return how many."""
        gone = [place for place, consumer in self.consumers.items() if which(consumer)]
        for place in gone:
            self.consumers.pop(place).end()
        return len(gone)

    def consumers_left(self) -> list[str]:
        """Return the names of the consumers that are still there."""
        return [consumer.name for consumer in self.consumers.values() if not consumer.is_gone]

    def _changed(self, stream: SimulatedStream) -> None:
        """Tell the consumers of a stream."""
        told = self._told.get(stream.created, 0)
        new = stream.log.archive[told:]
        self._told[stream.created] = len(stream.log.archive)
        for consumer in self.consumers.values():
            if consumer.stream is stream:
                for stored in new:
                    consumer.announce(stored)
        self._look_at_expiry(stream)

    def _look_at_expiry(self, stream: SimulatedStream) -> None:
        """Look again when something expires."""
        expiry = stream.log.next_expiry()
        if expiry is not None and stream.ended_at is None:
            seconds = max(0.0, (expiry - self._loop.utc()).total_seconds())
            self._loop.call_later(seconds + 0.001, self._expire, stream)

    def _expire(self, stream: SimulatedStream) -> None:
        before = self._told[stream.created]
        stream.log.expire()
        if stream.log.last_sequence != before:
            self._changed(stream)
        else:
            self._look_at_expiry(stream)


def _type(kind: str) -> str:
    return "account_info" if kind == "INFO" else kind.lower().replace(".", "_")


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with what the server adds."""
    window = config.get("duplicate_window", 120 * _NANOSECONDS)
    return {"mirror_direct": False, "sealed": False, "allow_msg_ttl": False, **config, "duplicate_window": window}
