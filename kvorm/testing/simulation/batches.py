"""Fast-ingest batches of a simulated stream, as server 2.15 takes them. Source: ADR-50."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from kvorm.testing.simulation import answers

REPLY_END: Final = ".$FI"
"""What the reply subject of each message of a batch ends in."""

_START: Final = 0
_END: Final = 3

Answer: TypeAlias = Callable[[bytes], None]
Write: TypeAlias = Callable[[str, bytes, Mapping[str, str], Answer], None]
"""Stores a message and hands over how the stream acknowledges or refuses it."""


class Step(NamedTuple):
    """What the reply subject of a message says of it."""

    batch: str
    every: int
    number: int
    operation: int

    @classmethod
    def of(cls, reply: str) -> Step:
        """Read a reply subject: `<batch>.<every>.<on a gap>.<number>.<operation>.$FI`."""
        batch, every, _, number, operation, _ = reply.rsplit(".", 5)
        return cls(batch, int(every), int(number), int(operation))


@dataclass(slots=True)
class _Batch:
    """One batch: the number of the message it waits for, and what is stored of it."""

    next: int = 1
    under_way: int = 0
    count: int = 0
    sequence: int = 0
    end: Answer | None = None
    """Who is to be told of its end, once all that is under way is stored."""


class Batches:
    """All batches into one stream."""

    def __init__(self, stream: str, write: Write) -> None:
        self._stream = stream
        self._write = write
        self._batches: dict[str, _Batch] = {}

    def forget(self) -> None:
        """Know none of them any more, as after a restart or a change of leader."""
        self._batches.clear()

    def take(self, step: Step, subject: str, data: bytes, headers: Mapping[str, str], answer: Answer) -> None:
        """Take a message of a batch, or its end."""
        if step.operation == _START and step.number == 1:
            self._batches[step.batch] = _Batch()
        batch = self._batches.get(step.batch)
        if batch is None:
            answer(answers.refused(self._stream, answers.BATCH_UNKNOWN))
        elif step.number != batch.next:
            answer(json.dumps({"type": "gap", "last_seq": batch.next, "seq": step.number}).encode())
            self._end(step, batch, answer)
        elif step.operation == _END:
            self._end(step, batch, answer)
        else:
            self._store(step, batch, subject, data, headers, answer)

    def _store(
        self, step: Step, batch: _Batch, subject: str, data: bytes, headers: Mapping[str, str], answer: Answer
    ) -> None:
        def stored(acknowledgement: bytes) -> None:
            told = json.loads(acknowledgement)
            batch.under_way -= 1
            if "error" in told:
                # The number is not taken: the next message finds a gap.
                batch.next = step.number
                if step.number == 1:
                    self._batches.pop(step.batch, None)
                answer(acknowledgement)
                return
            batch.count, batch.sequence = batch.count + 1, told["seq"]
            if step.number % step.every == 0:
                answer(_reached(step, step.number))
            self._end_if_stored(step, batch)

        batch.next += 1
        batch.under_way += 1
        if step.number == 1:
            answer(_reached(step, 0))
        self._write(subject, data, headers, stored)

    def _end(self, step: Step, batch: _Batch, answer: Answer) -> None:
        del self._batches[step.batch]
        batch.end = answer
        self._end_if_stored(step, batch)

    def _end_if_stored(self, step: Step, batch: _Batch) -> None:
        if batch.end is not None and not batch.under_way:
            end = {"stream": self._stream, "seq": batch.sequence, "batch": step.batch, "count": batch.count}
            batch.end(json.dumps(end).encode())


def _reached(step: Step, number: int) -> bytes:
    return json.dumps({"type": "ack", "seq": number, "msgs": step.every}).encode()
