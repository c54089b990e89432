"""The checks of watches have teeth: each fails where the one thing that it looks at is broken.

What is broken is kvorm's own, one step of it at a time, on a real server. `test_watch_checker.py` does the same to the
judge alone, without a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from kvorm.backends.base import Replay
from kvorm.backends.nats.consumer import Consumer
from kvorm.backends.nats.initial import InitialState
from kvorm.backends.nats.replies import Delivered
from kvorm.backends.nats.watch import NatsWatch
from kvorm.testing.servers import NatsServer
from tests.faults.watch_limits import LOADS, caught_up, slow_reader
from tests.faults.watching import BUCKET, NOTHING_WRONG, Told, Verdict, follow, judge, opened, put, raw, until

KEYS, SIZE = 400, 20_000
"""Enough that a consumer is lost in the midst of them."""

FLOOD, LOAD = 3_000, "every key rewritten, history 1"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with NatsServer(tmp_path / "server") as server:
        yield server


async def interrupted(server: NatsServer) -> Verdict:
    """Judge a watch that loses its consumer twice: during the initial state, and before something is written."""
    async with AsyncExitStack() as stack:
        _, handle = await stack.enter_async_context(opened(server.url, BUCKET))
        client = await stack.enter_async_context(raw(server.url))
        await asyncio.gather(*(put(handle, f"acme.{number}", b"x" * SIZE) for number in range(KEYS)))
        watch, told = handle.watch([">"], start=Replay.CURRENT), Told()
        assert isinstance(watch, NatsWatch)
        for _ in range(10):
            told.take(await anext(watch))
        watch.doubt()
        reader = asyncio.create_task(follow(watch, told))
        await until(lambda: bool(told.caught_up), 5)
        assert told.resumed == 1
        watch.doubt()
        await until(lambda: told.resumed == 2, 5)
        last = [await put(handle, f"b.{number}") for number in range(3)][-1]
        await until(lambda: told.position >= last, 5)
        stored = await client.stored(BUCKET.name)
        await watch.aclose()
        await reader
        return judge(told, stored)


async def test_unbroken_nothing_is_wrong(server: NatsServer) -> None:
    assert await interrupted(server) == NOTHING_WRONG


async def test_going_on_too_far_is_missing_something(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = NatsWatch._delivery

    def too_far(self: NatsWatch[Any]) -> Mapping[str, Any]:
        right = dict(delivery(self))
        if "opt_start_seq" in right:
            right["opt_start_seq"] += 1
        return right

    monkeypatch.setattr(NatsWatch, "_delivery", too_far)
    assert await interrupted(server) == Verdict(missed=1, twice=0, out_of_order=0)


async def test_telling_again_is_telling_twice(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = NatsWatch._tell

    def forgetful(self: NatsWatch[Any], messages: Sequence[Delivered]) -> None:
        self._position = 0
        tell(self, messages)

    monkeypatch.setattr(NatsWatch, "_tell", forgetful)
    verdict = await interrupted(server)
    assert not verdict.missed
    assert verdict.twice


async def test_dropping_what_is_too_much_is_missing_it(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a client does that has a limit for what a slow reader has not read."""
    at_hand = Consumer.at_hand
    monkeypatch.setattr(Consumer, "at_hand", lambda self: at_hand(self)[:64])
    slow = await slow_reader(server, FLOOD)
    assert slow.verdict.missed
    assert not slow.verdict.twice


async def test_dropping_what_is_noticed_is_going_on_anew(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missed, but it is told that the reader was too slow."""
    receive = Consumer._receive

    def full(self: Consumer, message: Any) -> None:
        if len(self._unread) < 500:
            receive(self, message)

    monkeypatch.setattr(Consumer, "_receive", full)
    slow = await slow_reader(server, FLOOD)
    assert slow.verdict == NOTHING_WRONG
    assert slow.resumed


async def test_guessing_the_end_is_telling_it_too_early(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def guessed(*_: object) -> bool:
        return True

    monkeypatch.setattr(InitialState, "may_be_complete", lambda *_: True)
    monkeypatch.setattr(InitialState, "is_complete", guessed)
    found = await caught_up(server, LOADS[LOAD], 10)
    assert found.early
    assert (found.not_once, found.hanging) == (0, 0)


async def test_telling_the_end_again_is_not_once(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    say = NatsWatch._say_caught_up

    def twice(self: NatsWatch[Any], last: int) -> None:
        say(self, last)
        say(self, last)

    monkeypatch.setattr(NatsWatch, "_say_caught_up", twice)
    found = await caught_up(server, LOADS[LOAD], 10)
    assert found.not_once == 10
    assert (found.early, found.hanging) == (0, 0)
