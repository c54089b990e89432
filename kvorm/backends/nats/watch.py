"""A watch: one consumer after another, each going on where the last one stopped."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final, Generic, Self, TypeVar

from kvorm.backends.base import Deadline, Position, Replay, Resumed, Signal
from kvorm.backends.nats.consumer import Consumer, GapError, Idle
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.initial import InitialState
from kvorm.backends.nats.link import JetStreamError
from kvorm.backends.nats.replies import delivered
from kvorm.backends.nats.stream import State, Stream
from kvorm.backends.nats.watches import Watches
from kvorm.entry import CaughtUp, Reset
from kvorm.errors import (
    BucketNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)

_STEP: Final = timedelta(seconds=5)
_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 0.5
_REFUSED: Final = timedelta(seconds=10)
"""How long the server may refuse a consumer before that counts as its last word."""

_DOUBT: Final = timedelta(seconds=1)
"""How long a stream may be missing, or behind, before that is believed: another node may know better."""

_NO_OPTIONS: Final[Mapping[str, Any]] = {}

C = TypeVar("C")

_log = logging.getLogger("kvorm")


class NatsWatch(Generic[C]):
    """What one watch has told, and the consumer that feeds it now; `C` is what it tells of a stored message.

    Steps that ask the server run as a task of their own: closing the watch ends them, and a reader who stops waiting
    does not.
    """

    def __init__(
        self,
        stream: Stream,
        start: Replay | int,
        *,
        incarnation: str,
        watches: Watches,
        read: Callable[[Received], C],
        outdate: Callable[[], None],
        options: Mapping[str, Any] = _NO_OPTIONS,
        helps: bool = False,
    ) -> None:
        """Describe a watch; `incarnation` is the life of the bucket that a `start` after a revision means.

        `outdate` is called when the bucket turns out to be another one; `options` are further ones of its consumers.
        One that `helps` another to see whether it is complete asks no third one.
        """
        self._stream = stream
        self._watches = watches
        self._read = read
        self._outdate = outdate
        self._options = options
        self._helps = helps
        self._start = start
        self._incarnation = incarnation if isinstance(start, int) else ""
        # All changes up to here have been told.
        self._position = start if isinstance(start, int) else 0
        # None: caught up, or not begun.
        self._initial: InitialState | None = None
        self._told: deque[C | Signal] = deque()
        self._now = asyncio.get_running_loop().time
        self._consumer = Consumer(stream, heard=0.0)
        self._flowing = False
        self._work: asyncio.Task[None] | None = None
        self._began = False
        # Whether the state that `start` asks for has been looked up.
        self._placed = False
        # Whether its server was lost, and is to be gone on with where that happened.
        self._interrupted = False
        self._goes_on = False
        self._ended: Exception | None = None

    @property
    def stream(self) -> str:
        """The name of the stream it watches."""
        return self._stream.name

    @property
    def silent_for(self) -> float:
        """Seconds since the server was last heard of."""
        return self._now() - self._consumer.heard if self._began else 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C | Signal:
        await self._await_event()
        return self._told.popleft()

    async def next_at_hand(self) -> list[C | Signal]:
        """Return the next event, and those behind it that are at hand.

        Raises:
            Exception: as `__anext__`.
        """
        await self._await_event()
        at_hand = list(self._told)
        self._told.clear()
        return at_hand

    async def _await_event(self) -> None:
        """Return once there is an event to tell."""
        while True:
            if self._ended is not None:
                raise self._ended
            if self._told:
                return
            if self._work is not None:
                await self._finish_work()
            elif self._flowing:
                await self._receive()
            else:
                self._begin()
                self._work = asyncio.create_task(self._open())

    async def aclose(self) -> None:
        """End it; nothing stays on the server."""
        await self.end(StopAsyncIteration())

    async def end(self, reason: Exception) -> None:
        """End it with an error for its reader; the first one counts."""
        if self._ended is None:
            self._ended = reason
        self._watches.discard(self)
        try:
            if self._work is not None:
                self._work.cancel()
                await asyncio.gather(self._work, return_exceptions=True)
        finally:
            self._consumer.nudge()
            await self._consumer.close()

    def tick(self) -> None:
        """Notice that the connection was lost, or that the server is silent."""
        if self._flowing:
            self._consumer.tick()
            if self._initial is not None:
                self._consumer.nudge()

    def doubt(self) -> None:
        """Look at the stream again."""
        self._consumer.lose()

    def needs(self, subject: str) -> bool:
        """Whether it cannot go on without a subject."""
        return self._consumer.uses(subject)

    def _begin(self) -> None:
        if not self._began:
            self._began = True
            self._consumer.heard = self._now()
            self._watches.add(self)

    async def _finish_work(self) -> None:
        assert self._work is not None
        await asyncio.wait({self._work})
        if self._ended is None:
            work, self._work = self._work, None
            try:
                work.result()
            except Exception as error:
                await self.end(error)

    # Reading

    async def _receive(self) -> None:
        """Tell what the consumer has next."""
        try:
            received = await self._consumer.next()
            if isinstance(received, Received):
                self._tell([received, *self._consumer.at_hand()])
                return
        except GapError:
            self._lose()
            return
        if self._initial is not None:
            # A quiet moment: what is pending may have expired, or been pushed out.
            self._work = asyncio.create_task(self._catch_up(self._initial))
        elif isinstance(received, Idle) and received.position > self._position:
            self._position = received.position
            self._told.append(Position(received.position))

    def _tell(self, messages: Sequence[Received]) -> None:
        """Tell messages in the order they were delivered, but not again what was told before a gap."""
        last = delivered(messages[-1])
        if delivered(messages[0]).sequence <= self._position:
            messages = [one for one in messages if delivered(one).sequence > self._position]
        if messages:
            self._position = last.sequence
            self._told.extend(map(self._read, messages))
        if self._initial is not None:
            self._initial.tell([one.subject for one in messages])
            if self._initial.may_be_complete(self._position, last.pending):
                self._work = asyncio.create_task(self._catch_up(self._initial))

    async def _catch_up(self, initial: InitialState) -> None:
        """Say so if the initial state is complete."""
        try:
            if await initial.is_complete(self._position, Deadline(_STEP)):
                self._say_caught_up(initial.last)
        except (JetStreamError, StoreTimeoutError, StoreUnavailableError, UnsupportedError):
            self._consumer.lose()

    def _say_caught_up(self, last: int) -> None:
        self._initial = None
        self._position = max(self._position, last)
        self._told.append(CaughtUp(self._position, self._incarnation))

    # Going on

    def _lose(self) -> None:
        self._flowing = False
        self._interrupted = self._goes_on = True
        _log.warning("the watch of %s lost its server, it goes on after revision %d", self.stream, self._position)

    async def _open(self) -> None:
        """Make a consumer that goes on where the last one stopped; try until there is one."""
        refused: Deadline | None = None
        pause = _RETRY_SECONDS
        while True:
            deadline = Deadline(_STEP)
            try:
                await self._open_once(deadline)
                return
            except (StoreTimeoutError, StoreUnavailableError):
                refused = None
            except (JetStreamError, UnsupportedError) as error:
                # A server that is just stopping or starting refuses what it will take again.
                refused = refused or Deadline(_REFUSED)
                if refused.passed:
                    raise StoreError(f"{self.stream} cannot be watched, the server refuses: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    async def _open_once(self, deadline: Deadline) -> None:
        await self._stream.link.ready(deadline)
        await self._consumer.close()
        self._consumer = Consumer(self._stream, heard=self._consumer.heard)
        self._place(await self._look(deadline))
        pending = await self._consumer.open(self._delivery(), deadline)
        self._flowing = True
        if self._interrupted:
            _log.info("the watch of %s has its server again", self.stream)
        if self._goes_on:
            self._told.append(Resumed())
        self._interrupted = self._goes_on = False
        if self._initial is not None and not pending:
            await self._catch_up(self._initial)

    async def _look(self, deadline: Deadline) -> State:
        """Return how the stream is.

        Raises:
            BucketNotFoundError: it is gone.
        """
        doubt: Deadline | None = None
        while True:
            # What counts is when it is asked, after a first answer has come: either may take long.
            is_last_word = doubt is not None and doubt.passed
            state = await self._stream.state(deadline)
            if state is not None and (state.last >= self._position or not state.replicated):
                return state
            if is_last_word:
                break
            doubt = doubt or Deadline(_DOUBT)
            await asyncio.sleep(_RETRY_SECONDS)
        if state is None:
            name = self.stream.removeprefix("KV_")
            raise BucketNotFoundError(f"bucket {name!r} was deleted; the watch has ended", bucket=name)
        return state

    def _place(self, state: State) -> None:
        """Find the place to go on from, in a stream that may be another one."""
        known, self._incarnation = self._incarnation, state.created
        if known not in ("", state.created) or state.last < self._position:
            self._start, self._position = Replay.CURRENT, 0
            self._placed, self._goes_on = False, False
            self._outdate()
            self._told.append(Reset())
        if self._placed:
            return
        self._placed = True
        if self._start is Replay.NOTHING:
            self._say_caught_up(state.last)
        else:
            self._initial = InitialState(
                self._stream,
                state.last,
                whole=isinstance(self._start, Replay),
                may_lag=state.replicated and not self._helps,
                changed_after=self._changed_after,
            )

    async def _changed_after(self, sequence: int) -> set[str]:
        """Ask by another watch, of the headers of all keys: a key may be written anew whenever one looks for it."""
        latest: dict[str, int] = {}
        heads = watch_of_headers(
            self._stream, incarnation=self._incarnation, watches=self._watches, outdate=self._outdate, helps=True
        )
        async with aclosing(heads):
            async for event in heads:
                match event:
                    case Received():
                        latest[event.subject] = delivered(event).sequence
                    case Reset():
                        latest.clear()  # this watch is about to learn of it, too
                    case CaughtUp():
                        break
                    case _:
                        pass
        return {subject for subject, newest in latest.items() if newest > sequence}

    def _delivery(self) -> Mapping[str, Any]:
        if self._start is Replay.CURRENT and self._initial is not None:
            return {**self._options, "deliver_policy": "last_per_subject"}
        return {**self._options, "deliver_policy": "by_start_sequence", "opt_start_seq": self._position + 1}


def watch_of_headers(
    stream: Stream, *, incarnation: str, watches: Watches, outdate: Callable[[], None], helps: bool = False
) -> NatsWatch[Received]:
    """Describe a watch of what there is, without its values, but with their sizes."""
    return NatsWatch(
        stream,
        Replay.CURRENT,
        incarnation=incarnation,
        watches=watches,
        read=lambda message: message,
        outdate=outdate,
        options={"headers_only": True},
        helps=helps,
    )
