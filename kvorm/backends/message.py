"""A stored message: which headers it carries and whether it is an entry or a marker.

The one place that reads these headers, for every store. Sources: ADR-8 (KV-Operation), ADR-43 and ADR-48
(Nats-Marker-Reason).
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from kvorm.backends.base import MarkReason, RawChange, RawEntry, RawMarker
from kvorm.bucket import Bucket
from kvorm.entry import ABSENT, ANY, Expect, MarkerReason
from kvorm.errors import ValueTooLargeError

OPERATION_ID: Final = "Nats-Msg-Id"
EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
OPERATION: Final = "KV-Operation"
ROLLUP: Final = "Nats-Rollup"
MARKER_REASON: Final = "Nats-Marker-Reason"
TTL: Final = "Nats-TTL"
SCHEMA: Final = "Kvorm-Schema"
CODEC: Final = "Kvorm-Codec"

HEADER_ROOM: Final = 256
"""Bytes that the headers of a write may take beside the value; `max_msg_size` of a created bucket includes them."""

MOST_SENT: Final = 256
"""Under how many ids one write can be sent."""

_OPERATIONS: Mapping[str, MarkerReason] = {"DEL": "deleted", "PURGE": "purged"}
_REASONS: Mapping[str, MarkerReason] = {"MaxAge": "expired", "Purge": "purged", "Remove": "deleted"}
_MARK_HEADERS: Mapping[MarkReason, Mapping[str, str]] = {
    "deleted": {OPERATION: "DEL"},
    "purged": {OPERATION: "PURGE", ROLLUP: "sub"},
}
_KEPT = (SCHEMA, CODEC)

FOR_EVER: Final = timedelta.max
"""The lifetime of an entry whose writer said `Nats-TTL: never`."""

PLAIN_ENTRY: Final = rb"(?:%b: \d+\r\n)?(?:%b: ([^.\s]*)\S*\r\n)?" % (
    EXPECTED_REVISION.encode(),
    OPERATION_ID.encode(),
)
"""Headers as they travel that make a message an entry of which `read` tells nothing but the operation id: a group.

A regular expression. Nearly all that kvorm and other clients write has no others.
"""

_ID_BYTES: Final = 15
_IDS_AT_ONCE: Final = 256
_drawn_ids: Final[list[str]] = []
if hasattr(os, "register_at_fork"):
    # Two processes never draw the same one.
    os.register_at_fork(after_in_child=_drawn_ids.clear)

_PART = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|µs|ns)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def read(raw_key: str, data: bytes, revision: int, written: datetime, headers: Mapping[str, str]) -> RawChange:
    """Return what a stored message says."""
    if not headers:
        return RawEntry(raw_key, data, revision, written, {})
    reason = _reason(headers)
    operation_id = headers[OPERATION_ID].partition(".")[0] if OPERATION_ID in headers else None
    if reason is not None:
        return RawMarker(raw_key, reason, revision, written, operation_id)
    kept = {name: headers[name] for name in _KEPT if name in headers}
    return RawEntry(raw_key, data, revision, written, kept, operation_id, ttl(headers))


def ttl(headers: Mapping[str, str]) -> timedelta | None:
    """Return the lifetime that a message was given by its writer: whole seconds, or FOR_EVER. Source: ADR-43."""
    text = headers.get(TTL)
    if text is None or text == "never":
        return None if text is None else FOR_EVER
    if text.isdecimal():
        return timedelta(seconds=int(text))
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        return None
    return timedelta(seconds=int(sum(float(number) * _SECONDS[unit] for number, unit in parts)))


def lifetime(ttl: timedelta | None, bucket_ttl: timedelta | None) -> timedelta | None:
    """Return how long an entry lives: the shorter of its own lifetime and the bucket's, unless its own is FOR_EVER.

    So it was seen on server 2.15.
    """
    if ttl is None or ttl == FOR_EVER:
        return None if ttl == FOR_EVER else bucket_ttl
    return ttl if bucket_ttl is None else min(ttl, bucket_ttl)


def _reason(headers: Mapping[str, str]) -> MarkerReason | None:
    operation = headers.get(OPERATION)
    if operation is not None:
        return _OPERATIONS.get(operation)
    return _REASONS.get(headers[MARKER_REASON]) if MARKER_REASON in headers else None


def new_operation_id() -> str:
    """Return the identity of one write: 120 random bits in 20 characters."""
    try:
        return _drawn_ids.pop()
    except IndexError:
        # To ask the system for each takes longer than all else that is done for an id.
        random = os.urandom(_ID_BYTES * _IDS_AT_ONCE)
        starts = range(0, len(random), _ID_BYTES)
        first, *others = [b2a_base64(random[start : start + _ID_BYTES], newline=False).decode() for start in starts]
        _drawn_ids.extend(others)
        return first


def sent_id(operation_id: str, number: int) -> str:
    """Return the id under which a write is sent: 23 characters whatever the number, so that its size stays."""
    return f"{operation_id}.{number:02x}"


_FIRST_SENT: Final = sent_id("", 0)


def expected_revision(expect: Expect) -> int | None:
    """Return what a write tells the server first: a revision, 0 for a key without any message, None for anything."""
    if expect is ANY:
        return None
    return 0 if expect is ABSENT else expect


def write_headers(
    headers: Mapping[str, str], *, expected_revision: int | None, operation_id: str | None
) -> dict[str, str]:
    """Return the headers of a write; this closed set is all that kvorm ever sends (hazard H31)."""
    complete = dict(headers)
    if expected_revision is not None:
        complete[EXPECTED_REVISION] = str(expected_revision)
    if operation_id is not None:
        complete[OPERATION_ID] = operation_id + _FIRST_SENT
    return complete


def mark_headers(reason: MarkReason) -> Mapping[str, str]:
    """Return the headers that make an empty message a marker."""
    return _MARK_HEADERS[reason]


def headers_size(headers: Mapping[str, str]) -> int:
    """Return the bytes these headers take in a message; the server counts them into every size limit."""
    if not headers:
        return 0
    return len("NATS/1.0\r\n\r\n") + sum(len(name) + len(value) + len(": \r\n") for name, value in headers.items())


def check_size(
    bucket: Bucket, raw_key: str, data: bytes, headers: Mapping[str, str], *, max_message_bytes: int
) -> None:
    """Refuse a value that the bucket's declaration or the server would not take.

    `max_message_bytes` is what a message may have in all, headers counted.

    Raises:
        ValueTooLargeError: with the size of the value alone and the most that it may be.
    """
    if len(data) <= max_message_bytes - HEADER_ROOM and bucket.max_value_bytes is None:
        return
    limit = max_message_bytes - headers_size(headers)
    if bucket.max_value_bytes is not None:
        limit = min(limit, bucket.max_value_bytes)
    if len(data) > limit:
        raise ValueTooLargeError(bucket=bucket.name, key=raw_key, size=len(data), limit=limit)
