"""What is live in a bucket, without its values: a watch that the server feeds with headers, up to its end.

A direct get moves the value, so this is the one list that takes a consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from kvorm.backends import message
from kvorm.backends.base import RawHead, RawMarker
from kvorm.backends.nats.opened import OpenedStream
from kvorm.backends.nats.replies import Delivered
from kvorm.backends.nats.watch import NatsWatch
from kvorm.entry import CaughtUp, Reset
from kvorm.errors import BucketNotFoundError, StoreTimeoutError, StoreUnavailableError

_SIZE: Final = "Nats-Msg-Size"
"""What the server puts behind the headers where it leaves out the value."""

_SIZE_LINE: Final = f"{_SIZE}: ".encode()
_OPERATION: Final = message.OPERATION.encode()
_REASON: Final = message.MARKER_REASON.encode()


def read_head(raw_key: str, delivered: Delivered) -> RawHead | RawMarker:
    """Return what a message that was delivered without its value says."""
    raw = delivered.message.raw_headers
    # Most have none of the headers that make a marker, and need not be parsed.
    if not isinstance(raw, bytes) or _OPERATION in raw or _REASON in raw:
        _, sequence, written, headers, _ = delivered.stored
        change = message.read(raw_key, b"", sequence, written, headers)
        if isinstance(change, RawMarker):
            return change
        return RawHead(raw_key, sequence, delivered.written_at, int(headers[_SIZE]))
    return RawHead(raw_key, delivered.sequence, delivered.written_at, int(raw[raw.rindex(_SIZE_LINE) + len(_SIZE_LINE) :]))


async def live_heads(
    watch: NatsWatch[RawHead | RawMarker], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[RawHead], None]:
    """Yield the live entries, each once, as they are at some time during this; the next portion has `timeout`.

    Raises:
        BucketNotFoundError: the bucket is gone, or another one.
        StoreUnavailableError, StoreTimeoutError: the time is over, without and with a connection.
    """
    told: set[str] = set()
    async with aclosing(watch):
        while True:
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    events = await watch.next_at_hand()
            except TimeoutError as error:
                raise _late(stream, timeout) from error
            heads: list[RawHead] = []
            ended = False
            for event in events:
                if isinstance(event, RawHead):
                    if event.raw_key not in told:
                        told.add(event.raw_key)
                        heads.append(event)
                elif isinstance(event, CaughtUp):
                    ended = True
                elif isinstance(event, Reset):
                    name = stream.settings.name
                    raise BucketNotFoundError(
                        f"bucket {name!r} was made anew while it was listed; list it again", bucket=name
                    )
            if heads:
                yield heads
            if ended:
                return


def _late(stream: OpenedStream, timeout: timedelta) -> StoreUnavailableError | StoreTimeoutError:
    told = f"bucket {stream.settings.name!r}: nothing came of its list for {timeout.total_seconds():g} s"
    if not stream.link.client.is_connected:
        return StoreUnavailableError(f"{told}, there is no connection to NATS")
    return StoreTimeoutError(told, timeout=timeout)
