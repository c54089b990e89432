"""A work group: processes that share a bucket's changes, each change going to one of them until it is acknowledged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from kvorm.faststream.change import subject

_MOST_UNACKNOWLEDGED: Final = 1000
_CREATION_REFUSED: Final = 10012
_FETCH_SECONDS: Final = 2.0
"""How long a request for the next change stands; a server that comes back has forgotten those before."""


@dataclass(frozen=True)
class WorkGroup:
    """A durable consumer on the stream of a bucket, which the members share.

    Attributes:
        name: of the group, and of the consumer.
        bucket: the full name of the bucket.
        filter: which raw keys.
        ack_wait: after which time without an answer of a member a change goes to another one.
        updates_only: whether a group that is new begins with what comes from now on.
    """

    name: str
    bucket: str
    filter: str
    ack_wait: timedelta
    updates_only: bool

    @asynccontextmanager
    async def joined(self, jetstream: JetStreamContext) -> AsyncGenerator[JetStreamContext.PullSubscription, None]:
        """Take part, in an existing group or as the first member; leaving keeps its place in the stream.

        Raises:
            nats.errors.Error: the server cannot be reached, or refuses.
        """
        begins = DeliverPolicy.NEW if self.updates_only else DeliverPolicy.ALL
        try:
            await self._make(jetstream, begins)
        except APIError as error:
            if error.err_code != _CREATION_REFUSED:
                raise
            # It is there already, and goes on where it is, wherever it began; the server does not let that be changed.
            try:
                await self._make(jetstream, *{DeliverPolicy.NEW, DeliverPolicy.ALL} - {begins})
            except APIError:
                raise error from None
        subscription = await jetstream.pull_subscribe_bind(self.name, f"KV_{self.bucket}")
        try:
            yield subscription
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _make(self, jetstream: JetStreamContext, begins: DeliverPolicy) -> None:
        config = ConsumerConfig(
            durable_name=self.name,
            filter_subject=subject(self.bucket, self.filter),
            deliver_policy=begins,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait.total_seconds(),
            max_ack_pending=_MOST_UNACKNOWLEDGED,
        )
        await jetstream.add_consumer(f"KV_{self.bucket}", config)  # pyright: ignore[reportUnknownMemberType]


async def next_change(subscription: JetStreamContext.PullSubscription) -> Msg | None:
    """Return the next message for this member, or None if none came for a while.

    Raises:
        nats.errors.Error: the consumer is gone, or the server.
    """
    try:
        (msg,) = await subscription.fetch(1, timeout=_FETCH_SECONDS)
    except nats.errors.TimeoutError:
        return None
    return msg
