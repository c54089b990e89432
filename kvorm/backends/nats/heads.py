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
from kvorm.backends.base import Deadline, RawHead, RawMarker
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.opened import OpenedStream
from kvorm.backends.nats.replies import delivered, stored
from kvorm.backends.nats.watch import NatsWatch
from kvorm.entry import CaughtUp, Reset
from kvorm.errors import StoreTimeoutError, StoreUnavailableError

_SIZE: Final = "Nats-Msg-Size"
"""The header in which the server tells the size of a value that it leaves out."""

_OPERATION: Final = message.OPERATION.encode()
_REASON: Final = message.MARKER_REASON.encode()


async def live_keys(
    watch: NatsWatch[Received], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[str], None]:
    """Yield the raw keys of what is live, each once. Raises as `live_heads`."""
    start = len(stream.subject(""))
    async with aclosing(_live(watch, stream, timeout)) as portions:
        async for portion in portions:
            yield [delivery.subject[start:] for delivery in portion]


async def live_heads(
    watch: NatsWatch[Received], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[RawHead], None]:
    """Yield what is live, each key once, as it is at some time during this; the next portion has `timeout`.

    Raises:
        BucketNotFoundError: the bucket is gone, or another one.
        StoreUnavailableError, StoreTimeoutError: the time is over, without and with a connection.
    """
    async with aclosing(_live(watch, stream, timeout)) as portions:
        async for portion in portions:
            yield [_head(delivery, stream) for delivery in portion]


async def _live(
    watch: NatsWatch[Received], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[Received], None]:
    portions = _deliveries(watch, stream, timeout)
    if stream.is_replicated:
        # The replica that delivers may lag: what it tells first may have been deleted before this began. All that the
        # leader had by then has come when the deliveries end.
        portions = _at_the_end(portions, stream, timeout)
    told: set[str] = set()
    async with aclosing(portions):
        async for portion in portions:
            found: list[Received] = []
            for delivery in portion:
                if delivery.subject not in told and not _is_marker(delivery):
                    told.add(delivery.subject)
                    found.append(delivery)
            if found:
                yield found


async def _deliveries(
    watch: NatsWatch[Received], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[Received], None]:
    ended = False
    async with aclosing(watch):
        while not ended:
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    events = await watch.next_at_hand()
            except TimeoutError as error:
                raise _late(stream, timeout) from error
            for event in events:
                if isinstance(event, CaughtUp):
                    ended = True
                elif isinstance(event, Reset):
                    raise stream.made_anew()
            yield [event for event in events if isinstance(event, Received)]


async def _at_the_end(
    portions: AsyncGenerator[list[Received], None], stream: OpenedStream, timeout: timedelta
) -> AsyncGenerator[list[Received], None]:
    """Yield the last delivery of each subject, once all have come."""
    latest: dict[str, Received] = {}
    async with aclosing(portions):
        async for portion in portions:
            latest.update((delivery.subject, delivery) for delivery in portion)
    if not stream.is_current:
        # What the leader had was asked of another bucket, if there is one now.
        await stream.check_same_life(Deadline(timeout))
    yield list(latest.values())


def _is_marker(delivery: Received) -> bool:
    raw = delivery.raw_headers
    if isinstance(raw, bytes) and _OPERATION not in raw and _REASON not in raw:
        return False  # most need not be parsed
    _, sequence, written, headers, _ = stored(delivery)
    return isinstance(message.read("", b"", sequence, written, headers), RawMarker)


def _head(delivery: Received, stream: OpenedStream) -> RawHead:
    size_bytes = int((delivery.headers or {})[_SIZE])
    of = delivered(delivery)
    return RawHead(stream.raw_key(delivery.subject), of.sequence, of.written_at, size_bytes)


def _late(stream: OpenedStream, timeout: timedelta) -> StoreUnavailableError | StoreTimeoutError:
    told = f"bucket {stream.settings.name!r}: nothing came of its list for {timeout.total_seconds():g} s"
    if not stream.link.client.is_connected:
        return StoreUnavailableError(f"{told}, there is no connection to NATS")
    return StoreTimeoutError(told, timeout=timeout)
