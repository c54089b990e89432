"""Questions that get lost, and servers that are slow: somebody who answers late, or not at once, stands in for them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from secrets import token_hex

import nats
import pytest
from nats.aio.msg import Msg

from kvorm import StoreTimeoutError
from kvorm.backends.base import Deadline
from kvorm.backends.nats.direct import new_client
from kvorm.backends.nats.link import Link
from kvorm.testing.servers import NatsServer

Answer = Callable[[int, Msg], Awaitable[None]]


async def ask(server: NatsServer, answer: Answer, timeout: timedelta) -> bytes:
    """Ask once while `answer` gets every question with its number."""
    asked = 0
    pending: set[asyncio.Task[None]] = set()
    subject = f"slow.{token_hex(4)}"
    responder = await nats.connect(server.url)
    client = new_client()
    await client.connect(server.url)

    async def on_question(message: Msg) -> None:
        nonlocal asked
        asked += 1
        pending.add(asyncio.create_task(answer(asked, message)))

    try:
        await responder.subscribe(subject, cb=on_question)
        await responder.flush()  # nats-py sends its ping ahead of the subscription, which waits for a task of its own
        await responder.flush()
        return (await Link(client, domain=None).request(subject, b"", deadline=Deadline(timeout))).data
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await client.close()
        await responder.close()


async def test_a_lost_question_costs_a_second_however_many_were_lost_before(nats_server: NatsServer) -> None:
    async def answer(number: int, message: Msg) -> None:
        if number == 5:
            await message.respond(b"the fifth")

    # Waiting twice as long after each would take 15 s to the fifth.
    assert await ask(nats_server, answer, timedelta(seconds=12)) == b"the fifth"


async def test_an_answer_that_takes_longer_than_a_second_is_taken(nats_server: NatsServer) -> None:
    async def answer(number: int, message: Msg) -> None:
        await asyncio.sleep(3)
        await message.respond(f"{number}".encode())

    assert await ask(nats_server, answer, timedelta(seconds=30)) == b"2"


async def test_no_answer_at_all_ends_with_the_budget(nats_server: NatsServer) -> None:
    async def answer(number: int, message: Msg) -> None:
        pass

    with pytest.raises(StoreTimeoutError, match=r"slow\."):
        await ask(nats_server, answer, timedelta(seconds=1.5))


async def test_whoever_stops_waiting_leaves_at_once_however_often_it_was_asked(nats_server: NatsServer) -> None:
    asked_again = asyncio.Event()

    async def answer(number: int, message: Msg) -> None:
        if number == 3:
            asked_again.set()

    asking = asyncio.create_task(ask(nats_server, answer, timedelta(seconds=60)))
    await asked_again.wait()
    asking.cancel()
    ended, _ = await asyncio.wait({asking}, timeout=5)
    assert ended
    assert asking.cancelled()
