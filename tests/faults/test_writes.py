"""Every write has one true outcome, whatever happens to the connection and the server (W1, W3, W7, W11)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import nats
import pytest

import kvorm
from kvorm import (
    ANY,
    Bucket,
    BucketNotFoundError,
    Key,
    KeyExistsError,
    KvormError,
    Model,
    Store,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.testing.proxy import Direction, FlakyProxy
from kvorm.testing.servers import NatsServer
from tests.faults.one_server import naive_retry, network_faults
from tests.faults.outage import server_down
from tests.faults.watching import ignore, raw
from tests.faults.workload import Account, Bank, Outcome, run, with_kvorm

SECONDS = 8
"""How long the network misbehaves; `python -m tests.faults` is the long form."""
HOT = Bank(6)
MANY = Bank(1_000)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        await HOT.open(server.url)
        yield server


@pytest.fixture
async def proxy(server: NatsServer) -> AsyncIterator[FlakyProxy]:
    async with FlakyProxy(server.url) as proxy:
        yield proxy


async def test_told_done_is_applied_once(tmp_path: Path) -> None:
    ended = await network_faults(tmp_path, HOT, SECONDS)
    assert ended.outcome.transfers
    assert not ended.outcome.unknown
    assert not ended.outcome.errors
    assert ended.outcome.done == ended.stored.moves
    assert ended.outcome.balance == ended.stored.balance


@pytest.mark.parametrize("bank", [HOT, MANY], ids=["hot", "many"])
async def test_told_done_is_applied_once_by_a_server_that_is_killed(tmp_path: Path, bank: Bank) -> None:
    """What is unknown over hot keys with a short history is counted by the long form."""
    ended = await network_faults(tmp_path, bank, SECONDS / 2, kills=0.3)
    assert ended.outcome.kills
    assert not ended.outcome.errors
    assert not ended.lost
    assert not ended.twice
    assert abs(ended.outcome.balance - ended.stored.balance) <= ended.outcome.unknown.total()


async def test_the_checker_has_teeth(tmp_path: Path) -> None:
    """The same over naive retries of nats-py: some moves are applied twice, if not in the first run then in a later."""
    for attempt in range(6):
        ended = await naive_retry(tmp_path / str(attempt), HOT, SECONDS)
        if ended.twice:
            return
    raise AssertionError("naive retries applied nothing twice")


async def test_cancelled_saves_do_not_conflict_with_themselves(server: NatsServer) -> None:
    choice = random.Random(1)
    async with kvorm.connect(server.url) as store:
        accounts = HOT.of(store)
        account = await accounts.get("a0")
        for number in range(1, 101):
            account.balance = number
            saving = asyncio.create_task(accounts.save(account))
            await asyncio.sleep(choice.uniform(0, 0.0006))
            saving.cancel()
            await asyncio.wait([saving])
            await accounts.save(account)
        assert (await accounts.get("a0")).balance == 100
        await accounts.delete(account)


async def test_a_cancelled_creation_does_not_conflict_with_itself(server: NatsServer) -> None:
    choice = random.Random(2)
    async with kvorm.connect(server.url) as store:
        accounts = HOT.of(store)
        for number in range(100):
            account = Account(id=f"new-{number}")
            saving = asyncio.create_task(accounts.save(account))
            await asyncio.sleep(choice.uniform(0, 0.0006))
            saving.cancel()
            await asyncio.wait([saving])
            if number % 2:
                await accounts.save(account)
            await accounts.delete(account) if await accounts.exists(account.id) else await accounts.save(account)


async def test_a_restart_of_two_seconds_is_waited_out(server: NatsServer) -> None:
    async with kvorm.connect(server.url) as store:
        restarts = 0

        async def restart(choice: random.Random, outcome: Outcome) -> None:
            nonlocal restarts
            del choice, outcome
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(2)
            await asyncio.to_thread(server.start)
            restarts += 1

        outcome = await run([with_kvorm(HOT.of(store))] * 3, HOT.keys, restart, lambda: not restarts)
    stored = await HOT.stored(server.url)
    assert not outcome.errors
    assert not outcome.lost(stored)
    assert not outcome.twice(stored)


async def test_a_server_that_is_down(tmp_path: Path) -> None:
    """Each call ends within its budget, all works when the server is back, and nothing of the outage comes late."""
    ended = await server_down(tmp_path, 6)
    assert not ended.wrong
    assert not ended.late
    # Bounds for a busy machine; the long form has those of an idle one.
    assert ended.slowest < 4
    assert ended.back_after < 10


async def test_nothing_arrives_after_it_was_told_not_stored(server: NatsServer) -> None:
    async with kvorm.connect(server.url, timeout=timedelta(seconds=1)) as store:
        accounts = HOT.of(store)
        account = await accounts.get("a0")
        await asyncio.to_thread(server.kill)
        with pytest.raises((StoreUnavailableError, StoreTimeoutError)):
            await accounts.save(account)  # it may find the connection still up
        with pytest.raises(StoreUnavailableError):
            await accounts.save(Account(id="late"))
        with pytest.raises(StoreUnavailableError):
            await accounts.save(Account(id="late"), expect=ANY)
        await asyncio.to_thread(server.start)
        await until_connected(store)
        assert await accounts.get_or_none("late") is None
        assert await accounts.count() == len(HOT.keys)


async def test_a_half_open_network_is_noticed(server: NatsServer, proxy: FlakyProxy) -> None:
    async with kvorm.connect(proxy.url, timeout=timedelta(seconds=8)) as store:
        accounts = HOT.of(store)
        account = await accounts.get("a0")
        proxy.strand()
        account.balance = 7
        await accounts.save(account)
        assert (await accounts.get("a0")).balance == 7


async def test_what_waits_for_a_connection_is_not_written_into_another_bucket(
    server: NatsServer, proxy: FlakyProxy
) -> None:
    """A bucket that was made anew meanwhile counts its revisions from 1 again."""
    client = await nats.connect(proxy.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=ignore)
    async with kvorm.connect(server.url) as admin, kvorm.NatsStore(client) as store, raw(server.url) as server_itself:
        theirs, ours = admin.repository(Seat), store.repository(Seat)
        await theirs.save(Seat(id="1"))
        seat = await ours.get("1")
        proxy.swallow(*Direction)
        proxy.cut()
        await eventually(lambda: client.is_reconnecting)
        seat.guest = "Ada"
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(outcome_of(ours.save(seat)))
            await server_itself.call("STREAM.DELETE.KV_seats")
            await admin.ensure(theirs)
            await theirs.save(Seat(id="1", guest="Bob"))
            proxy.swallow()
            proxy.cut()
        assert isinstance(saving.result(), BucketNotFoundError)
        assert (await ours.get("1")).guest == "Bob"
    await client.close()


class Seat(Model, bucket="seats"):
    id: Key[str]
    guest: str = ""


class Lease(Model, bucket=Bucket("leases", ttl=timedelta(seconds=1), marker_ttl=timedelta(seconds=1))):
    id: Key[str]


@pytest.mark.parametrize("forgets", [False, True])
async def test_what_expired_before_its_answer_came_is_not_stored_again(
    server: NatsServer, proxy: FlakyProxy, forgets: bool
) -> None:
    """It is told as unknown: the server forgets operation ids with its entries, at the latest (W1, W3)."""
    async with kvorm.connect(server.url) as admin, kvorm.connect(proxy.url, timeout=timedelta(seconds=20)) as store:
        seen, leases = admin.repository(Lease), store.repository(Lease)
        assert await seen.count() == await leases.count() == 0
        proxy.swallow(Direction.TO_CLIENT)
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(outcome_of(leases.save(Lease(id="a"))))
            async with asyncio.timeout(10):
                while not await seen.history("a"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                while await seen.history("a"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            if forgets:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            proxy.swallow()
        assert isinstance(saving.result(), StoreTimeoutError)
        assert await leases.history("a") == []


async def test_an_operation_id_that_the_server_forgot_tells_nothing(server: NatsServer, proxy: FlakyProxy) -> None:
    """That it knows none counts while it would know it still; later the outcome is told as unknown (W1, W3)."""
    async with kvorm.connect(server.url) as admin, raw(server.url) as others:
        await admin.ensure(admin.repository(Seat))
        config = (await others.call("STREAM.INFO.KV_seats"))["config"]
        await others.call("STREAM.UPDATE.KV_seats", config | {"duplicate_window": 5 * 10**9})
        async with kvorm.connect(proxy.url, timeout=timedelta(seconds=20)) as store:
            seats = store.repository(Seat)

            async def overwritten(id: str, swallowed: Direction, seconds: float) -> int | KvormError:
                """Save, and let another write follow before the answer to this one, or to whether it is stored."""
                before = await seats.save(Seat(id=f"before {id}"))
                sent = store.client.stats["out_msgs"]
                proxy.swallow(swallowed)
                saving = asyncio.create_task(outcome_of(seats.save(Seat(id=id))))
                await eventually(lambda: store.client.stats["out_msgs"] > sent)
                while swallowed is Direction.TO_CLIENT and await others.last("seats") == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await others.client.request(f"$KV.seats.{id}", b'{"id": "another"}')
                await asyncio.sleep(seconds)
                proxy.swallow()
                proxy.cut()
                return await saving

            assert isinstance(await overwritten("lost", Direction.TO_SERVER, 0), KeyExistsError)
            assert isinstance(await overwritten("stored", Direction.TO_CLIENT, 0), int)
            assert isinstance(await overwritten("forgotten", Direction.TO_CLIENT, 6), StoreTimeoutError)


async def outcome_of(save: Awaitable[int]) -> int | KvormError:
    try:
        return await save
    except KvormError as error:
        return error


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_connected(store: Store) -> None:
    async with asyncio.timeout(10):
        while not (await store.health()).reachable:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
