"""Writes with one true outcome: what became of a write whose answer was lost is found out, never guessed.

Each checked write has an identity, its operation id (`Nats-Msg-Id`). A write without an expectation has none and is
never sent again once it may have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from kvorm.backends import message
from kvorm.backends.base import Deadline
from kvorm.backends.nats import replies
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.link import FIRST_PATIENCE, LONGEST_PATIENCE, JetStreamError, Link
from kvorm.backends.nats.requests import NoRespondersError, UnansweredError, result
from kvorm.errors import StoreTimeoutError, StoreUnavailableError

# A refused expectation has two codes: 10071, and 10164 on replicated buckets (nats.go#2097).
_REFUSED: Final = (10071, 10164)
_IN_PROCESS: Final = 10158
# The server looks at the operation id before it looks at this, and stores nothing.
_PROBE: Final = {message.ROLLUP: "kvorm-probe"}


class Write(msgspec.Struct, frozen=True, gc=False):
    """One write, the same whenever it is sent."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    expected: int | None
    operation_id: str | None
    renewals: int = 0

    def renewed(self) -> Write:
        """Return the same write under another id of its own; its expectation lets only one of the two in."""
        number = self.renewals + 1
        headers = {**self.headers, message.OPERATION_ID: message.sent_id(self.operation_id or "", number)}
        return replace(self, headers=headers, renewals=number)

    def sent_ids(self) -> list[str]:
        """Return the ids it was sent under."""
        return [message.sent_id(self.operation_id or "", number) for number in range(self.renewals + 1)]


class Begun(NamedTuple):
    """What became of the first try of a write that was sent ahead."""

    answer: Received | Exception
    server: str
    """Which server it was sent to."""


class Reader(Protocol):
    """What finding out needs to read, from the leader, and to know of the stream.

    Attributes:
        remembers_seconds: how long it knows the operation id of a write.
    """

    remembers_seconds: float

    async def latest(self, subject: str, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the newest message of a subject."""
        ...

    async def next_after(self, subject: str, sequence: int, deadline: Deadline) -> replies.StoredMessage | None:
        """Return the first message of a subject above a sequence."""
        ...

    async def check_same_life(self, deadline: Deadline) -> None:
        """Raise if the bucket is gone, or another one."""
        ...

    async def explain_silence(self, subject: str, deadline: Deadline) -> None:
        """Return after a moment if the stream lacks a leader, raise if it is gone."""
        ...

    def lasts(self, headers: Mapping[str, str]) -> timedelta | None:
        """Return how long a message, or the marker of its end, is there at least; None: as long as nobody erases it."""
        ...


class Writer:
    """Sends writes to one stream and finds out what became of them."""

    def __init__(self, link: Link, reader: Reader) -> None:
        self._link = link
        self._reader = reader
        # A write that was stored, to see that the probe works: its check order is not documented.
        self._known: Write | None = None
        # The life of the server in which it was seen to work.
        self._probe_works_on = ""

    def begin(self, write: Write, deadline: Deadline, ended: Callable[[int | Begun], None]) -> bool:
        """Send a write ahead; False, and nothing sent, where it must wait.

        `ended` is told its sequence, or what `store` needs to go on.
        """
        server = self._link.server_id

        def answered(answer: Received | Exception) -> None:
            ended(self._outcome(write, answer, server))

        return self._link.tell(write.subject, write.data, write.headers, deadline=deadline, answered=answered)

    async def store(self, write: Write, deadline: Deadline, begun: Begun | None = None) -> int | None:
        """Store a message and return its sequence, or None where its expectation was refused.

        It goes on from a first try that has `begun`.

        Raises:
            StoreTimeoutError: it may be stored.
            JetStreamError: refused for another reason; nothing was stored.
            StoreUnavailableError: not stored.
            StoreClosedError: the connection was closed; it may be stored if it had been sent.
            BucketNotFoundError: the bucket is gone, or another one; nothing is stored there.
        """
        if begun is None:
            server = self._link.server_id
            first = self._link.ask(write.subject, write.data, write.headers, deadline=deadline)
            if first is not None:
                # Most writes need no more than this.
                outcome = self._outcome(write, await first, server)
                if isinstance(outcome, int):
                    return outcome
                begun = outcome
        doubt: UnansweredError | None = None
        patience = FIRST_PATIENCE
        server = begun.server if begun is not None else self._link.server_id
        while True:
            try:
                tried, begun = begun, None
                sequence = await self._send(write, deadline, patience, tried)
            except UnansweredError as error:
                doubt = error
                patience = LONGEST_PATIENCE
                if write.expected is None:
                    raise _unknown(write, deadline) from error
            except _InProcessError as error:
                write = write.renewed()
                if deadline.passed or write.renewals >= message.MOST_SENT:
                    raise _unknown(write, deadline) from error
                continue
            except (StoreUnavailableError, StoreTimeoutError, JetStreamError) as error:
                if doubt is not None:
                    raise _unknown(write, deadline) from error
                if isinstance(error, StoreTimeoutError):
                    raise StoreUnavailableError(f"the stream has no leader: {error}; nothing was stored") from error
                raise
            else:
                if sequence is not None:
                    self._remember(write)
                    return sequence
                if doubt is None:
                    return None
            try:
                found = await self._find_out(write, server, deadline)
            except (StoreTimeoutError, StoreUnavailableError) as error:
                raise _unknown(write, deadline) from error
            if not isinstance(found, _Again):
                return found
            if deadline.passed:
                raise _unknown(write, deadline) from doubt

    def _outcome(self, write: Write, answer: Received | Exception, server: str) -> int | Begun:
        """Return the sequence of a write, or what `store` needs to go on, from the answer to its first try."""
        sequence = replies.stored_at(answer)
        if sequence is None:
            return Begun(answer, server)
        self._remember(write)
        return sequence

    def _remember(self, write: Write) -> None:
        if write.operation_id is not None:
            self._known = write

    async def _send(self, write: Write, deadline: Deadline, patience: float, begun: Begun | None) -> int | None:
        """Send it until it is answered or in doubt."""
        while True:
            try:
                first, begun = begun, None
                if first is not None:
                    answer = result(first.answer)
                else:
                    answer = await self._link.send(
                        write.subject,
                        write.data,
                        deadline=deadline,
                        headers=write.headers,
                        patience=patience,
                        check=self._reader.check_same_life,
                    )
            except NoRespondersError:
                # Never stored: no stream listens (0 of 150 in nats.md).
                await self._reader.explain_silence(write.subject, deadline)
                continue
            acknowledged = replies.acknowledgement(answer)
            refusal = acknowledged.error
            if refusal is None:
                return acknowledged.seq
            if refusal.err_code in _REFUSED:
                return None
            error_ = JetStreamError(refusal.err_code, refusal.description)
            if refusal.err_code == _IN_PROCESS:
                raise _InProcessError from error_
            if not replies.is_temporary(refusal):
                raise error_
            await self._link.pause(deadline, error_)

    async def _find_out(self, write: Write, server: str, deadline: Deadline) -> int | _Again | None:
        """Return the sequence if it was stored, None if it was refused, `_Again` if it can be sent again.

        Raises:
            StoreTimeoutError: nothing can tell.
            BucketNotFoundError: the bucket is gone, or another one.
        """
        await self._reader.check_same_life(deadline)
        found = await self._look_for(write, server, deadline)
        if not isinstance(found, int):
            # An answer may take long: that nothing was found counts if it is the same bucket still.
            await self._reader.check_same_life(deadline)
        return found

    async def _look_for(self, write: Write, server: str, deadline: Deadline) -> int | _Again | None:
        """Look for a write where it was to be stored, and at what was stored there instead."""
        expected = write.expected or 0
        latest = await self._reader.latest(write.subject, deadline)
        if latest is not None and _is(latest, write):
            return latest.sequence
        lasts = self._reader.lasts(write.headers)
        if lasts is not None and deadline.spent() >= lasts.total_seconds():
            # What was written since may have expired without a trace.
            return await self._ask_by_id(write, server, deadline)
        if (latest.sequence if latest else 0) == expected:
            # Nobody wrote since: should the first one still arrive, only one of the two meets the expectation.
            return _Again()
        following = await self._reader.next_after(write.subject, expected, deadline)
        first = following
        while following is not None:
            if _is(following, write):
                return following.sequence
            following = await self._reader.next_after(write.subject, following.sequence, deadline)
        if first is not None and first.headers.get(message.EXPECTED_REVISION) == str(expected):
            # Another write met the same expectation: ours cannot have, nor will it.
            return None
        return await self._ask_by_id(write, server, deadline)

    async def _ask_by_id(self, write: Write, server: str, deadline: Deadline) -> int | None:
        """Ask the server for the operation id, without writing."""
        for sent_id in write.sent_ids():
            answered = await self._probe(write.subject, sent_id, deadline)
            if answered is not None:
                return answered
        # "No" counts only if the memory that says so would have learned of the write, and would know it still.
        remembered = server == self._link.server_id and deadline.spent() < self._reader.remembers_seconds
        if remembered and await self._can_probe(deadline):
            return None
        raise StoreTimeoutError("the server cannot tell any more", timeout=deadline.timeout)

    async def _can_probe(self, deadline: Deadline) -> bool:
        server = self._link.server_id
        if self._probe_works_on != server and self._known is not None:
            works = await self._probe(self._known.subject, self._known.sent_ids()[-1], deadline) is not None
            self._probe_works_on = server if works else ""
        return self._probe_works_on == server

    async def _probe(self, subject: str, operation_id: str, deadline: Deadline) -> int | None:
        """Return the sequence of a write that the server remembers by its id."""
        headers = {message.OPERATION_ID: operation_id, **_PROBE}
        while True:
            try:
                answer = await self._link.send(subject, b"", deadline=deadline, headers=headers)
            except UnansweredError:
                continue
            except NoRespondersError:
                await self._reader.explain_silence(subject, deadline)
                continue
            acknowledged = replies.acknowledgement(answer)
            if acknowledged.error is None:
                return acknowledged.seq if acknowledged.duplicate else None
            return None


class _InProcessError(Exception):
    """The server holds the id back: for a write that is on its way, or (2.11, replicated) was refused just now."""


class _Again:
    """The write can be sent again."""


def _is(stored: replies.StoredMessage, write: Write) -> bool:
    return write.operation_id is not None and stored.headers.get(message.OPERATION_ID) in write.sent_ids()


def _unknown(write: Write, deadline: Deadline) -> StoreTimeoutError:
    waited = f" within {deadline.timeout.total_seconds():g} s" if deadline.passed else ""
    return StoreTimeoutError(
        f"no answer to a write on {write.subject!r}{waited}, and nothing tells whether it is stored: "
        f"read the key before you decide",
        timeout=deadline.timeout,
    )
