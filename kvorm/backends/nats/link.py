"""A NATS connection as the rest of this package uses it: requests within a deadline, errors translated once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, TypeAlias

import msgspec
import nats.errors
from nats.aio.client import Client

from kvorm.backends.base import Deadline
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.replies import TEMPORARY
from kvorm.backends.nats.requests import (
    Answered,
    NoRespondersError,
    NotSentError,
    Part,
    Requests,
    UnansweredError,
    result,
)
from kvorm.backends.nats.transport import Transport
from kvorm.errors import (
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)

_CLOSED: Final = "the connection to NATS is closed; open a new store"
_POLL_SECONDS: Final = 0.02
FIRST_PATIENCE: Final = 1.0
"""Seconds that the first try of a request waits for its answer."""

LONGEST_PATIENCE: Final = 2.0
"""Seconds that a later try of a write waits, before it is looked up whether one has arrived."""

_RETRY_SECONDS: Final = 0.1
_NO_JETSTREAM: Final = (10039, 10076)

Check: TypeAlias = Callable[[Deadline], Awaitable[None]]
"""Raises what says that something is not to be done any more."""


class JetStreamError(Exception):
    """JetStream refused a request; nothing was done.

    Attributes:
        code: its error code, stable across versions.
    """

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


def api_prefix(domain: str | None) -> str:
    """Return what the subjects of the JetStream API begin with."""
    return f"$JS.{domain}.API" if domain else "$JS.API"


def subject_root(domain: str | None) -> str:
    """Return what the subjects of writes begin with: within a domain its API prefix too (as in nats.go)."""
    return f"{api_prefix(domain)}.$KV" if domain else "$KV"


class Link:
    """One connection, and the JetStream domain it talks to."""

    def __init__(self, client: Client, *, domain: str | None) -> None:
        self.client = client
        self.transport: Final = Transport(client)
        self._requests = Requests(client, self.transport)
        self._closed = False
        self.api: Final = api_prefix(domain)
        self.subject_root: Final = subject_root(domain)

    @property
    def life(self) -> int:
        """How often the connection was made anew; what was known of the server before may be wrong since."""
        return self.client.stats["reconnects"]

    @property
    def max_payload(self) -> int:
        """Bytes the server takes in one message, headers included."""
        return self.client.max_payload

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The version of the server this connection is with."""
        version = self.client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def in_cluster(self) -> bool:
        """Whether the server is a member of a cluster."""
        return bool(self._server_info.get("cluster"))

    @property
    def server_id(self) -> str:
        """Which life of which server the connection is with: a restart gives another one."""
        return str(self._server_info.get("server_id", ""))

    @property
    def server_name(self) -> str:
        """Name and version of the server, for people."""
        return f"{self._server_info.get('server_name', '')} {self._server_info.get('version', '')}".strip()

    @property
    def _server_info(self) -> Mapping[str, Any]:
        # The client keeps what the server said of itself, and shows it under no public name.
        return getattr(self.client, "_server_info", {})

    async def ready(self, deadline: Deadline) -> None:
        """Wait until the connection is up.

        Raises:
            StoreClosedError: it was closed, by us or by its owner.
            StoreUnavailableError: it did not come up in time.
        """
        while True:
            if self._closed or self.client.is_closed or self.client.is_draining:
                raise StoreClosedError(_CLOSED)
            if self.client.is_connected:
                return
            if deadline.passed:
                raise StoreUnavailableError(f"no connection to NATS for {_seconds(deadline)} s; nothing was sent")
            await asyncio.sleep(_POLL_SECONDS)

    async def send(
        self,
        subject: str,
        payload: bytes,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        patience: float = FIRST_PATIENCE,
        check: Check | None = None,
    ) -> Received:
        """Send a request once, as soon as the connection is up, and return its one answer.

        It may take `patience` seconds, and never more than is left. Where the connection had to be waited for, `check`
        says whether it may still be sent.

        Raises:
            UnansweredError: sent, and no answer came: it may have been done.
            NoRespondersError: nobody listens; nothing was done.
            StoreUnavailableError, StoreClosedError: not sent.
        """
        while True:
            if self._closed or not self.client.is_connected:
                await self.ready(deadline)
                if check is not None:
                    await check(deadline)
                    continue
            until = deadline.until(patience)
            if not until:
                raise StoreUnavailableError(f"{_seconds(deadline)} s were over; nothing was sent")
            try:
                return await self._requests.send(subject, payload, headers, until=until)
            except NotSentError:
                await asyncio.sleep(_POLL_SECONDS)
            except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
                raise StoreClosedError(_CLOSED) from error

    def tell(
        self, subject: str, payload: bytes, headers: Mapping[str, str], *, deadline: Deadline, answered: Answered
    ) -> bool:
        """Send a request once, now, and let a function know of its answer; False, and nothing sent, where it cannot."""
        until = deadline.until(FIRST_PATIENCE)
        if self._closed or not until:
            return False
        return self._requests.tell(subject, payload, headers, until=until, answered=answered)

    def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, *, deadline: Deadline
    ) -> asyncio.Future[Received | Exception] | None:
        """Send a request once, now; return what its answer comes to, for `result`. None, nothing sent, if it cannot."""
        until = deadline.until(FIRST_PATIENCE)
        if self._closed or not until:
            return None
        return self._requests.ask(subject, payload, headers, until=until)

    async def request(self, subject: str, payload: bytes, *, deadline: Deadline) -> Received:
        """Ask what may be asked again, until an answer comes.

        One that was lost costs a second, not the whole budget. A cluster leaves some questions about a stream that is
        just being made unanswered.

        Raises:
            NoRespondersError: nobody listens.
            StoreTimeoutError: no answer in time.
            StoreUnavailableError, StoreClosedError: no connection.
        """
        asked = self.ask(subject, payload, None, deadline=deadline)
        try:
            # Most questions need no more than this.
            return result(await asked) if asked is not None else await self.send(subject, payload, deadline=deadline)
        except UnansweredError:
            return await self._ask_again(subject, payload, deadline)

    async def _ask_again(self, subject: str, payload: bytes, deadline: Deadline) -> Received:
        """Ask once a second and take the first answer to any of the questions: they get lost, and servers are slow."""
        asked: list[asyncio.Task[Received]] = []
        waiting: set[asyncio.Task[Received]] = set()
        try:
            while not deadline.passed:
                send = self.send(subject, payload, deadline=deadline, patience=deadline.remaining())
                asked.append(asyncio.create_task(send))
                waiting.add(asked[-1])
                ended, waiting = await asyncio.wait(
                    waiting, timeout=FIRST_PATIENCE, return_when=asyncio.FIRST_COMPLETED
                )
                for one in ended:
                    with suppress(UnansweredError):
                        return one.result()
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise StoreTimeoutError(f"no answer on {subject!r} within {_seconds(deadline)} s", timeout=deadline.timeout)

    async def call(self, verb: str, body: Mapping[str, Any] | None = None, *, deadline: Deadline) -> dict[str, Any]:
        """Ask the JetStream API and return its answer; wait out moments without a leader.

        Raises:
            JetStreamError: it said no.
            UnsupportedError: there is no JetStream for this account.
        """
        payload = msgspec.json.encode(body) if body is not None else b""
        while True:
            try:
                answer = await self.request(f"{self.api}.{verb}", payload, deadline=deadline)
            except NoRespondersError as error:
                raise UnsupportedError(
                    "the server has no JetStream: start it with -js, or use an account where it is enabled"
                ) from error
            reply: dict[str, Any] = msgspec.json.decode(answer.data)
            refused = reply.get("error")
            if refused is None:
                return reply
            refusal = JetStreamError(refused.get("err_code", 0), refused.get("description", "refused"))
            if refusal.code in _NO_JETSTREAM:
                raise UnsupportedError(f"JetStream is not enabled for this account: {refusal.description}") from refusal
            if refusal.code not in TEMPORARY:
                raise refusal
            await self.pause(deadline, refusal)

    async def pause(self, deadline: Deadline, cause: Exception) -> None:
        """Wait a moment before trying again what is known to have done nothing.

        Raises:
            StoreUnavailableError: the time is over.
        """
        if deadline.remaining() <= _RETRY_SECONDS:
            raise StoreUnavailableError(
                f"JetStream could not do it for {_seconds(deadline)} s, nothing was stored: {cause}"
            ) from cause
        await asyncio.sleep(_RETRY_SECONDS)

    def request_many(self, subject: str, payload: bytes, *, deadline: Deadline) -> AsyncGenerator[Received, None]:
        """Send a request and yield its answers, as `request_parts`."""
        return self.request_parts([Part(subject, payload, "")], deadline=deadline, patience=LONGEST_PATIENCE)

    async def request_parts(
        self, parts: Sequence[Part], *, deadline: Deadline, patience: float
    ) -> AsyncGenerator[Received, None]:
        """Send a request of several messages and yield its answers; the caller knows the last one and stops there.

        Each answer may take `patience` seconds after the one before.

        Raises:
            UnansweredError: the next answer did not come; ask for all of them again.
            StoreUnavailableError, StoreClosedError: not sent.
        """
        while True:
            await self.ready(deadline)
            try:
                async with aclosing(self._requests.send_many(parts, deadline, patience)) as answers:
                    async for answer in answers:
                        yield answer
            except NotSentError:
                await asyncio.sleep(_POLL_SECONDS)
            except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
                raise StoreClosedError(_CLOSED) from error

    def denied(self, action: str, subject: str) -> bool:
        """End what waits for something that the server has just refused to do; tell whether anything did.

        It told so beside the request, with the subject in lower case.
        """
        if action != "publish":
            return self._requests.deny_inbox(subject)
        # A server of the domain itself takes the domain off the subject before it looks at the rights.
        for plain, ours in (("$kv.", self.subject_root), ("$js.api.", self.api)):
            if subject.startswith(plain) and self._requests.deny_publish(f"{ours}.{subject[len(plain) :]}"):
                return True
        return self._requests.deny_publish(subject)

    async def close(self) -> None:
        """Take no further requests and end those that wait; the connection itself stays with its owner."""
        self._closed = True
        self._requests.fail(StoreClosedError(_CLOSED))
        await self._requests.close()


def _seconds(deadline: Deadline) -> str:
    # What is left of a whole time is a hair less than people say.
    return f"{round(deadline.timeout.total_seconds(), 3):g}"
