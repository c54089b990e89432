"""Requests over one inbox of our own: an answer, or at once the news that the connection was lost meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import nats.errors
from nats.aio.client import Client

from kvorm.backends.base import Deadline
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.transport import Listening, Transport
from kvorm.errors import PermissionDeniedError

_LOOK_SECONDS: Final = 0.025
NO_RESPONDERS: Final = "503"
"""The status of the server's own answer where nobody listens."""


class UnansweredError(Exception):
    """A request was sent and no answer came: whether it arrived is not known."""


class NotSentError(Exception):
    """The connection was not up: nothing was handed to it."""


class NoRespondersError(Exception):
    """Nobody listens on a subject: nothing was done."""


Answered: TypeAlias = Callable[[Received | Exception], None]
"""Told of the one answer to a request, or why there is none. Called from the read loop: as short as a `Take`."""


class Part(NamedTuple):
    """One of the messages that make up one request; the subject of what answers it ends in `step`."""

    subject: str
    payload: bytes
    step: str


class _Told:
    """A request of whose one answer a function is told; the answer, or an error, is its end."""

    __slots__ = ("_answered", "life", "subject", "until")

    ends = True

    def __init__(self, subject: str, life: int, until: float, answered: Answered) -> None:
        self.subject = subject
        self.life = life
        self.until = until
        self._answered = answered

    def take(self, message: Received) -> None:
        self._answered(message)

    def fail(self, error: Exception) -> None:
        self._answered(error)


class _One:
    """A request whose one answer comes to a future; the answer, or an error, is its end."""

    __slots__ = ("answer", "life", "subject", "until")

    ends = True

    def __init__(self, subject: str, life: int, until: float, answer: asyncio.Future[Received | Exception]) -> None:
        self.subject = subject
        self.life = life
        self.until = until
        self.answer = answer

    def take(self, message: Received) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_result(error)


class _Many:
    """A request whose reader knows which answer is the last."""

    __slots__ = ("answers", "life", "subject", "until")

    ends = False

    def __init__(self, subject: str, life: int) -> None:
        self.subject = subject
        self.life = life
        self.until = float("inf")
        self.answers: asyncio.Queue[Received | Exception] = asyncio.Queue()

    def take(self, message: Received) -> None:
        self.answers.put_nowait(message)

    def fail(self, error: Exception) -> None:
        self.answers.put_nowait(error)


_Waiting: TypeAlias = _One | _Many | _Told


class Requests:
    """Requests of one connection. While it is down nothing is handed to it: it would be sent later (hazard H1)."""

    _loop: asyncio.AbstractEventLoop
    """Known once the inbox is open, which every request needs."""

    def __init__(self, client: Client, transport: Transport) -> None:
        self._client = client
        self._transport = transport
        self._waiting: dict[str, _Waiting] = {}
        self._sent = 0
        self._inbox = ""
        self._listening: Listening | None = None
        self._opening = asyncio.Lock()
        # In which life of the connection the inbox was refused.
        self._denied: int | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def life(self) -> int:
        """How often the connection was made anew."""
        return self._client.stats["reconnects"]

    async def send(self, subject: str, payload: bytes, headers: Mapping[str, str] | None, *, until: float) -> Received:
        """Send a request once and return its one answer, which is waited for until then.

        Raises:
            PermissionDeniedError: this user may not receive answers; if it is the first time, the request was sent.
            NotSentError: the connection is down; nothing will be sent.
            UnansweredError: sent; the connection was lost, or the time is over.
            NoRespondersError: nobody listens; nothing was done.
        """
        if self._listening is None:
            await self._open()
        waiting = _One(subject, self.life, until, self._loop.create_future())
        token = self._await_answer(waiting)
        try:
            await self._transport.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            message = await waiting.answer
        except nats.errors.OutboundBufferLimitError as error:
            raise NotSentError from error
        finally:
            self._waiting.pop(token, None)
        return result(message)

    def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, *, until: float
    ) -> asyncio.Future[Received | Exception] | None:
        """Send a request at once; its one answer, or why there is none, comes to the future: for `result`.

        None where `tell` returns False.
        """
        if not self._is_ready:
            return None
        waiting = _One(subject, self.life, until, self._loop.create_future())
        return waiting.answer if self._begin(waiting, payload, headers) else None

    def tell(
        self, subject: str, payload: bytes, headers: Mapping[str, str], *, until: float, answered: Answered
    ) -> bool:
        """Send a request at once and let a function know of its answer; False, and nothing sent, where that cannot be.

        It cannot while the connection is down, before the first request of all, and over a plain client of nats-py.
        """
        return self._is_ready and self._begin(_Told(subject, self.life, until, answered), payload, headers)

    @property
    def _is_ready(self) -> bool:
        """Whether a request can be sent at once."""
        return self._listening is not None and self._client.is_connected and self._denied != self.life

    def _begin(self, waiting: _One | _Told, payload: bytes, headers: Mapping[str, str] | None) -> bool:
        token = self._keep(waiting)
        if self._transport.publish_now(waiting.subject, payload, f"{self._inbox}.{token}", headers):
            return True
        del self._waiting[token]
        return False

    async def send_many(
        self, parts: Sequence[Part], deadline: Deadline, patience: float
    ) -> AsyncGenerator[Received, None]:
        """Send a request once and yield its answers; the reader knows the last one and stops there.

        Raises:
            UnansweredError: sent; the connection was lost, or the next answer did not come in time.
            PermissionDeniedError, NotSentError: as `send`.
        """
        if self._listening is None:
            await self._open()
        waiting = _Many(parts[0].subject, self.life)
        token = self._await_answer(waiting)
        reply = f"{self._inbox}.{token}"
        part = parts[0]
        try:
            for part in parts:
                await self._transport.publish(part.subject, part.payload, reply=f"{reply}{part.step}")
            while True:
                if waiting.answers.empty():
                    answer = await _in_time(waiting, min(patience, deadline.remaining()))
                else:
                    answer = waiting.answers.get_nowait()
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        except nats.errors.OutboundBufferLimitError as error:
            if part is not parts[0]:
                raise UnansweredError("the connection was lost") from error
            raise NotSentError from error
        finally:
            del self._waiting[token]

    def fail(self, error: Exception) -> None:
        """End all that waits for an answer with an error."""
        for token in list(self._waiting):
            self._fail(token, error)

    def deny_publish(self, subject: str) -> bool:
        """End the requests that were refused, and tell whether any was; the server tells its subject in lower case."""
        refused = [token for token, one in self._waiting.items() if one.subject.lower() == subject.lower()]
        for token in refused:
            ours = self._waiting[token].subject
            told = f"this user may not publish to {ours!r}; nothing was done. Grant it on the server"
            self._fail(token, PermissionDeniedError(told, subject=ours))
        return bool(refused)

    def deny_inbox(self, subject: str) -> bool:
        """Take note that a subscription was refused, and tell whether it is our inbox: no answer will come then."""
        if subject.lower() != f"{self._inbox}.>".lower():
            return False
        self._denied = self.life
        self.fail(self._no_inbox())
        return True

    async def close(self) -> None:
        """Give up the inbox."""
        if self._look is not None:
            self._look.cancel()
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.end()

    def _await_answer(self, waiting: _Waiting) -> str:
        """Keep a request that is about to be sent; return the token that its answers come back with.

        Raises:
            PermissionDeniedError: no answer could be received.
            NotSentError: the connection is down.
        """
        if self._denied == waiting.life:
            raise self._no_inbox()
        if not self._client.is_connected:
            raise NotSentError
        return self._keep(waiting)

    def _keep(self, waiting: _Waiting) -> str:
        self._sent += 1
        token = str(self._sent)
        self._waiting[token] = waiting
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._look_after_connection)
        return token

    def _no_inbox(self) -> PermissionDeniedError:
        return PermissionDeniedError(
            f"this user may not subscribe to its inbox {self._inbox}.>, so no answer can be received: grant it, or "
            f"connect with inbox_prefix=",
            subject=f"{self._inbox}.>",
        )

    async def _open(self) -> None:
        async with self._opening:
            if self._listening is None:
                self._loop = asyncio.get_running_loop()
                self._inbox = self._client.new_inbox()
                self._listening = await self._transport.subscribe(f"{self._inbox}.>", self._receive)

    def _receive(self, message: Received) -> None:
        token = message.subject[len(self._inbox) + 1 :].partition(".")[0]
        waiting = self._waiting.get(token)
        if waiting is not None:
            if waiting.ends:
                del self._waiting[token]
            waiting.take(message)

    def _fail(self, token: str, error: Exception) -> None:
        waiting = self._waiting[token]
        if waiting.ends:
            del self._waiting[token]
        waiting.fail(error)

    def _look_after_connection(self) -> None:
        """End what a lost connection will not answer, and what has waited long enough; look again while any waits."""
        self._look = None
        now, connected, life = self._loop.time(), self._client.is_connected, self.life
        for token, waiting in list(self._waiting.items()):
            if not connected or waiting.life != life:
                self._fail(token, UnansweredError("the connection was lost"))
            elif waiting.until <= now:
                self._fail(token, UnansweredError(f"no answer on {waiting.subject!r}"))
        if self._waiting:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._look_after_connection)


async def _in_time(waiting: _Many, seconds: float) -> Received | Exception:
    try:
        async with asyncio.timeout(max(0.001, seconds)):
            return await waiting.answers.get()
    except TimeoutError as error:
        raise UnansweredError(f"no answer on {waiting.subject!r}") from error


def result(answer: Received | Exception) -> Received:
    """Return an answer that is one.

    Raises:
        NoRespondersError: nobody listens; nothing was done.
        Exception: what came instead of an answer.
    """
    if isinstance(answer, Exception):
        raise answer
    if answer.status == NO_RESPONDERS:
        raise NoRespondersError(answer.subject)
    return answer
