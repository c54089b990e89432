"""Messages out and in over one connection, whoever made it: what arrives is handed straight to its taker."""

from __future__ import annotations

from collections.abc import Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from kvorm.backends.nats.direct import DirectClient, Received, Take


class Transport:
    """The messages of one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._direct = client if isinstance(client, DirectClient) else None

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message. The caller has seen that the connection is up, and that subject and size are allowed."""
        if self._direct is not None:
            self._direct.publish_direct(subject, payload, reply, headers)
        else:
            await self._client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)

    def publish_now(self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None) -> bool:
        """Send a message as `publish` does, without waiting; False where only nats-py itself can send."""
        if self._direct is None:
            return False
        self._direct.publish_direct(subject, payload, reply, headers)
        return True

    async def subscribe(self, subject: str, take: Take) -> Listening:
        """Hand what comes on a subject to `take`, without a limit on how much: nats-py drops what is above its own."""
        if self._direct is not None:
            return Listening(self._client, await self._direct.subscribe_direct(subject, take))

        async def taken(message: Msg) -> None:
            take(Received(message.subject, message.reply, message.headers, message.data))

        # nats-py leaves the type of one parameter open, which pyright counts against the whole method.
        subscription = await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            subject, cb=taken, pending_msgs_limit=0, pending_bytes_limit=0
        )
        return Listening(self._client, subscription)


class Listening:
    """A subscription that can be ended."""

    def __init__(self, client: Client, subscription: Subscription) -> None:
        self._client = client
        self._subscription: Subscription | None = subscription

    async def end(self) -> None:
        """Take nothing more. Idempotent, and nothing to do on a closed connection."""
        subscription, self._subscription = self._subscription, None
        if subscription is None or self._client.is_closed:
            return
        if isinstance(self._client, DirectClient):
            await self._client.end(subscription)
        else:
            await subscription.unsubscribe()
