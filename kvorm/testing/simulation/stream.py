"""A simulated stream: what it stores and refuses, on one server or agreed on by three."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Final

from kvorm.backends import message
from kvorm.backends.log import Limits, LogFullError, StoredMessage, WrongLastSequenceError
from kvorm.testing.simulation import answers
from kvorm.testing.simulation.answers import Refusal
from kvorm.testing.simulation.batches import REPLY_END, Batches, Step
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.simulation.recorded import RecordedLog

_LEAST_TO_AGREE: Final = 0.0005
_MOST_TO_AGREE: Final = 0.004
_LONGEST_LAG: Final = 0.01

Answer = Callable[[bytes], None]


@dataclass(slots=True)
class Proposal:
    """A write on its way into a replicated stream."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    answer: Answer


@dataclass(slots=True)
class Replica:
    """A copy of the stream that follows its leader."""

    lag: float
    frozen_at: int | None = None


@dataclass
class SimulatedStream:
    """One stream in one of its lives.

    Attributes:
        changed: called after each change of what it holds.
        leaderless: while it has no leader nobody takes writes.
    """

    name: str
    config: dict[str, Any]
    created: str
    loop: VirtualLoop
    random: Random
    changed: Callable[[], None] = lambda: None
    leaderless: bool = False
    began_at: float = 0.0
    ended_at: float | None = None
    log: RecordedLog = field(init=False)
    followers: list[Replica] = field(default_factory=list[Replica])
    _ids: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    _proposed: deque[Proposal] = field(default_factory=deque[Proposal])
    _batches: Batches = field(init=False)

    def __post_init__(self) -> None:
        self._batches = Batches(self.name, self._take)
        self.log = RecordedLog(_limits(self.config), self.loop.utc)
        self.began_at = self.loop.time()
        if self.is_replicated:
            self.followers = [Replica(self.random.uniform(0, _LONGEST_LAG)) for _ in range(2)]

    @property
    def is_replicated(self) -> bool:
        """Whether several servers keep it."""
        return bool(self.config["num_replicas"] > 1)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take over another configuration."""
        self.config = config
        self.log.restrict(_limits(config))
        self.changed()

    # Writes

    def write(self, subject: str, data: bytes, headers: Mapping[str, str], reply: str, answer: Answer) -> None:
        """Take a write, of a batch if its reply subject says so; answer once it is stored or refused."""
        refusal = self._unfit(data, headers)
        if refusal is None and reply.endswith(REPLY_END) and not self.config.get("allow_batched"):
            refusal = answers.BATCHES_DISABLED
        if refusal is not None:
            answer(answers.refused(self.name, refusal))
        elif reply.endswith(REPLY_END):
            self._batches.take(Step.of(reply), subject, data, headers, answer)
        else:
            self._take(subject, data, headers, answer)

    def _take(self, subject: str, data: bytes, headers: Mapping[str, str], answer: Answer) -> None:
        if self.is_replicated:
            self._propose(Proposal(subject, data, headers, answer))
        else:
            self._store_alone(subject, data, headers, answer)

    def _unfit(self, data: bytes, headers: Mapping[str, str]) -> Refusal | None:
        most: int = self.config.get("max_msg_size", -1)
        return answers.TOO_LARGE if 0 < most < len(data) + message.headers_size(headers) else None

    def _store_alone(self, subject: str, data: bytes, headers: Mapping[str, str], answer: Answer) -> None:
        # One server looks at the expectation before it looks at the id (hazard H3).
        answer(self._mismatch(subject, headers) or self._repeated(headers) or self._stored(subject, data, headers))

    def _propose(self, proposal: Proposal) -> None:
        headers = proposal.headers
        refused = self._repeated(headers)
        if refused is None and message.EXPECTED_REVISION in headers:
            if any(one.subject == proposal.subject for one in self._proposed):
                refused = answers.refused(self.name, answers.CONCURRENT)
            else:
                refused = self._mismatch(proposal.subject, headers)
        refused = refused or self._bad_rollup(headers)
        if refused is not None:
            proposal.answer(refused)
            return
        self._proposed.append(proposal)
        self.loop.call_later(self.random.uniform(_LEAST_TO_AGREE, _MOST_TO_AGREE), self._commit, proposal)

    def _commit(self, proposal: Proposal) -> None:
        """Store what was proposed, and all before it: they are agreed on in order."""
        while proposal in self._proposed:
            first = self._proposed.popleft()
            first.answer(self._agreed(first))

    def _agreed(self, proposal: Proposal) -> bytes:
        subject, data, headers = proposal.subject, proposal.data, proposal.headers
        return self._mismatch(subject, headers) or self._stored(subject, data, headers)

    def lose_leader(self) -> None:
        """Lose the leader: of what was proposed the first ones are stored, the others never; nobody is told."""
        self.leaderless = True
        self._batches.forget()
        kept = self.random.randint(0, len(self._proposed))
        for proposal in list(self._proposed)[:kept]:
            self._agreed(proposal)
        self._proposed.clear()

    def end(self) -> None:
        """Be deleted: what was proposed is never stored, and nobody is told."""
        self.ended_at = self.loop.time()
        self._proposed.clear()

    def restart(self) -> None:
        """Remember only those operation ids that stand in what is stored (hazard H5), and no batch."""
        self._batches.forget()
        now = self.loop.time()
        self._ids = {
            one.headers[message.OPERATION_ID]: (now, one.sequence)
            for one in self.log.after(0)
            if message.OPERATION_ID in one.headers
        }

    def _mismatch(self, subject: str, headers: Mapping[str, str]) -> bytes | None:
        expected = headers.get(message.EXPECTED_REVISION)
        if expected is None:
            return None
        last = self.log.last(subject)
        sequence = last.sequence if last is not None else 0
        return None if int(expected) == sequence else answers.refused(self.name, answers.wrong_last(sequence))

    def _repeated(self, headers: Mapping[str, str]) -> bytes | None:
        operation_id = headers.get(message.OPERATION_ID)
        if operation_id is None:
            return None
        self._drop_old_ids()
        if operation_id in self._ids:
            return answers.acknowledged(self.name, self._ids[operation_id][1], duplicate=True)
        if any(one.headers.get(message.OPERATION_ID) == operation_id for one in self._proposed):
            return answers.refused(self.name, answers.IN_PROCESS)
        return None

    def _drop_old_ids(self) -> None:
        oldest = self.loop.time() - self.config["duplicate_window"] / 1e9
        for operation_id in list(self._ids):
            if self._ids[operation_id][0] > oldest:
                break
            del self._ids[operation_id]

    def _bad_rollup(self, headers: Mapping[str, str]) -> bytes | None:
        rollup = headers.get(message.ROLLUP, "sub")
        return None if rollup == "sub" else answers.refused(self.name, answers.invalid_rollup(rollup))

    def _stored(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bytes:
        refused = self._bad_rollup(headers)
        if refused is not None:
            return refused
        try:
            sequence = self.log.append(subject, data, headers)
        except LogFullError:
            return answers.refused(self.name, answers.FULL)
        except WrongLastSequenceError as error:  # nothing was expected of the log itself
            raise AssertionError from error
        if message.OPERATION_ID in headers:
            self._ids[headers[message.OPERATION_ID]] = self.loop.time(), sequence
        self.changed()
        return answers.acknowledged(self.name, sequence)

    # Replicas

    def some_replica(self) -> int:
        """Return how far the replica is that happens to answer a direct get."""
        number = self.random.randrange(len(self.followers) + 1)
        return self.log.last_sequence if number == len(self.followers) else self.reached(self.followers[number])

    def reached(self, replica: Replica) -> int:
        """Return how far a replica is."""
        self.log.expire()
        if replica.frozen_at is not None:
            return replica.frozen_at
        archive, last = self.log.archive, self.log.last_sequence
        before = self.loop.utc() - timedelta(seconds=replica.lag)
        while last and archive[last - 1].written > before:
            last -= 1
        return last

    def held(self, last: int) -> list[StoredMessage]:
        """Return what the stream held when its last sequence was that."""
        return self.log.held(last)


def _limits(config: Mapping[str, Any]) -> Limits:
    most: int = config.get("max_bytes", -1)
    return Limits(
        per_subject=config["max_msgs_per_subject"],
        max_age=_duration(config.get("max_age")),
        marker_ttl=_duration(config.get("subject_delete_marker_ttl")),
        max_bytes=most if most > 0 else None,
    )


def _duration(nanoseconds: int | None) -> timedelta | None:
    return timedelta(microseconds=nanoseconds / 1000) if nanoseconds else None
