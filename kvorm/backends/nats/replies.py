"""What the server answers, parsed: acknowledgements, stored messages, deliveries."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from kvorm.backends import message
from kvorm.backends.base import RawEntry, at
from kvorm.backends.nats.direct import DESCRIPTION, STATUS, Received, parse_headers
from kvorm.backends.nats.requests import NO_RESPONDERS, NoRespondersError, UnansweredError
from kvorm.errors import StoreError

NO_MESSAGE: Final = 10037
STREAM_NOT_FOUND: Final = 10059
TEMPORARY: Final = (10008, 10023)
"""JetStream without a leader for the moment, or short of resources: nothing was done."""

_END_OF_BATCH = "204"
_NOT_FOUND = "404"
_UNAVAILABLE = 503
_SHORT_DOTS = 8
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_PLAIN_ANSWER: Final = re.compile(
    rb"NATS/1\.0\r\n%bNats-Stream: [^\r\n]*\r\nNats-Subject: ([^\r\n]*)\r\n"
    rb"Nats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r\n]*)\r\n"
    rb"(?:Nats-Num-Pending: \d+\r\nNats-Last-Sequence: \d+\r\n)?\r\n" % message.PLAIN_ENTRY
)
_PLAIN_DELIVERY: Final = re.compile(rb"NATS/1\.0\r\n%b\r\n" % message.PLAIN_ENTRY)


class Refusal(msgspec.Struct):
    """Why JetStream said no."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Acknowledgement(msgspec.Struct):
    """The answer to a write."""

    seq: int = 0
    duplicate: bool = False
    error: Refusal | None = None


class StoredMessage(NamedTuple):
    """A message as the stream holds it."""

    subject: str
    sequence: int
    written: datetime
    headers: Mapping[str, str]
    data: bytes


class Delivered(NamedTuple):
    """What the reply subject of a delivered message tells."""

    sequence: int
    number: int
    """Its place among those that the consumer delivered."""
    written_at: int
    """When it was stored, in nanoseconds since 1970."""
    pending: int
    """How many the consumer has still to deliver."""


_acknowledgements = msgspec.json.Decoder(Acknowledgement)


def acknowledgement(answer: Received) -> Acknowledgement:
    """Parse the answer to a write.

    Raises:
        UnansweredError: it is none: something else answers on the bucket's subjects.
    """
    try:
        acknowledged = _acknowledgements.decode(answer.data)
    except msgspec.DecodeError as error:
        raise UnansweredError(_foreign(answer)) from error
    if acknowledged.error is None and not acknowledged.seq:
        raise UnansweredError(_foreign(answer))
    return acknowledged


def is_temporary(refusal: Refusal) -> bool:
    """Whether a write was refused for the moment only."""
    # A leader that has just stepped down says "raft: not leader", without a code of its own; it proposed nothing.
    return refusal.err_code in TEMPORARY or (not refusal.err_code and refusal.code == _UNAVAILABLE)


def stored_at(answer: Received | Exception) -> int | None:
    """Return the sequence that an answer to a write tells, or None where it is no plain acknowledgement."""
    if isinstance(answer, Exception):
        return None
    try:
        # A refusal has the sequence 0.
        return _acknowledgements.decode(answer.data).seq or None
    except msgspec.DecodeError:
        return None


def plain_answer(answer: Received, prefix: str) -> RawEntry | None:
    """Parse the answer to a direct get if it is an entry with the usual headers; `direct` reads every other one.

    `prefix` is what the subjects of the bucket begin with.
    """
    raw_headers = answer.raw_headers
    match = _PLAIN_ANSWER.fullmatch(raw_headers) if isinstance(raw_headers, bytes) else None
    if match is None:
        return None
    operation_id, subject, sequence, written = match.groups()
    return RawEntry(
        subject.decode()[len(prefix) :],
        answer.data,
        int(sequence),
        datetime.fromisoformat(written.decode()),
        _NO_HEADERS,
        operation_id.decode() if operation_id is not None else None,
    )


def plain_delivery(message: Received, start: int) -> RawEntry | None:
    """Parse a delivered message if it is an entry with the usual headers, or none.

    The raw key begins at `start` of its subject.
    """
    raw_headers = message.raw_headers
    operation_id: bytes | None = None
    if raw_headers is not None:
        match = _PLAIN_DELIVERY.fullmatch(raw_headers) if isinstance(raw_headers, bytes) else None
        if match is None:
            return None
        operation_id = match[1]
    reply = message.reply
    _, sequence, _, written, _ = reply.rsplit(".", 4) if reply.count(".") == _SHORT_DOTS else _long(reply)
    return RawEntry(
        message.subject[start:],
        message.data,
        int(sequence),
        at(int(written)),
        _NO_HEADERS,
        operation_id.decode() if operation_id is not None else None,
    )


def direct(answer: Received) -> StoredMessage | None:
    """Parse the answer to a direct get; None where nothing is there or nothing more comes. Source: ADR-31.

    Raises:
        NoRespondersError: nobody serves the stream.
        StoreError: the request was refused.
    """
    headers = answer.headers or {}
    status = headers.get(STATUS)
    if status is None:
        return StoredMessage(
            headers["Nats-Subject"],
            int(headers["Nats-Sequence"]),
            datetime.fromisoformat(headers["Nats-Time-Stamp"]),
            headers,
            answer.data,
        )
    if status == NO_RESPONDERS:
        raise NoRespondersError(answer.subject)
    if status not in (_END_OF_BATCH, _NOT_FOUND):
        raise StoreError(f"the server refused a read: {status} {headers.get(DESCRIPTION, '')}")
    return None


def up_to(end: Received) -> int:
    """Return how far the replica was that ended a batch; 0 where it does not say. Source: ADR-31."""
    return int((end.headers or {}).get("Nats-UpTo-Sequence", 0))


def from_leader(found: Mapping[str, Any]) -> StoredMessage:
    """Parse the message in an answer of STREAM.MSG.GET."""
    return StoredMessage(
        found["subject"],
        found["seq"],
        datetime.fromisoformat(found["time"]),
        parse_headers(b64decode(found["hdrs"])) if "hdrs" in found else {},
        b64decode(found.get("data", "")),
    )


def delivered(message: Received) -> Delivered:
    """Parse the reply subject of a delivered message."""
    reply = message.reply
    _, sequence, number, written, pending = reply.rsplit(".", 4) if reply.count(".") == _SHORT_DOTS else _long(reply)
    return Delivered(int(sequence), int(number), int(written), int(pending))


def stored(message: Received) -> StoredMessage:
    """Parse a delivered message: what the stream holds."""
    of = delivered(message)
    return StoredMessage(message.subject, of.sequence, at(of.written_at), message.headers or {}, message.data)


def _long(reply: str) -> list[str]:
    """Return of the long form of a reply subject what `rsplit` gives of the short one. Source: ADR-15."""
    return reply.split(".")[6:11]


def _foreign(answer: Received) -> str:
    return f"something beside JetStream answers writes: {answer.data[:100]!r}"
