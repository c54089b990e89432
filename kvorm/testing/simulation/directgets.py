"""Direct gets of the simulated JetStream: answered by whichever replica is asked. Source: ADR-31."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kvorm.backends.log import StoredMessage
from kvorm.keys import matches, matches_any
from kvorm.testing.simulation import answers
from kvorm.testing.simulation.stream import SimulatedStream

Reply = Callable[[bytes, bytes], None]
"""Sends one answer: its headers as they travel, and its data."""


def direct_get(stream: SimulatedStream, subject: str, payload: bytes, reply: Reply) -> None:
    """Answer a direct get; `subject` is what stands behind the name of the stream."""
    body: dict[str, Any] = {"last_by_subj": subject} if subject else json.loads(payload)
    reached = stream.some_replica()
    held = stream.held(reached)
    name = stream.name
    if "multi_last" in body:
        _latest_of_many(name, held, reached, body, reply)
    elif "batch" in body:
        _batch(name, held, body, reply)
    else:
        found = _one(held, body)
        if found is None:
            reply(answers.status("404 Message Not Found"), b"")
        else:
            reply(answers.direct(name, found, {}), found.data)


def _one(held: list[StoredMessage], body: dict[str, Any]) -> StoredMessage | None:
    if "last_by_subj" in body:
        return next((one for one in reversed(held) if matches(body["last_by_subj"], one.subject)), None)
    first: int = body.get("seq", 0)
    if "next_by_subj" in body:
        return next((one for one in held if one.sequence >= first and matches(body["next_by_subj"], one.subject)), None)
    return next((one for one in held if one.sequence == first), None)


def _latest_of_many(name: str, held: list[StoredMessage], reached: int, body: dict[str, Any], reply: Reply) -> None:
    up_to: int = body.get("up_to_seq", reached)
    wanted: list[str] = body["multi_last"]
    latest = {one.subject: one for one in held if one.sequence <= up_to and matches_any(wanted, one.subject)}
    found = sorted(latest.values(), key=lambda one: one.sequence)
    if not found:
        reply(answers.status("404 No Results"), b"")
        return
    _send(name, found, body.get("batch", len(found)), reply, {"Nats-UpTo-Sequence": str(up_to)})


def _batch(name: str, held: list[StoredMessage], body: dict[str, Any], reply: Reply) -> None:
    first, wanted = body.get("seq", 0), body["next_by_subj"]
    found = [one for one in held if one.sequence >= first and matches(wanted, one.subject)]
    if not found:
        reply(answers.status("404 Message Not Found"), b"")
        return
    _send(name, found, body["batch"], reply, {})


def _send(name: str, found: list[StoredMessage], most: int, reply: Reply, end: dict[str, str]) -> None:
    last = 0
    for number, one in enumerate(found[:most], 1):
        further = {"Nats-Num-Pending": str(len(found) - number), "Nats-Last-Sequence": str(last)}
        reply(answers.direct(name, one, further), one.data)
        last = one.sequence
    pending = str(max(0, len(found) - most))
    reply(answers.status("204 EOB", {"Nats-Num-Pending": pending, "Nats-Last-Sequence": str(last), **end}), b"")
