"""A server that is down for a while: every call ends within its budget, and nothing of the outage shows up later."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path

import kvorm
from kvorm import (
    ANY,
    BulkError,
    KeyNotFoundError,
    KvormError,
    Repository,
    StoreTimeoutError,
    StoreUnavailableError,
    revision_of,
)
from kvorm.testing.servers import NatsServer
from tests.faults.workload import Account, Bank

BANK = Bank(accounts=8, history=10)
BUDGET = 1.0
SETTLE_SECONDS = 3.0
"""What an outage left behind would have arrived by then."""

Call = Callable[[Repository[Account]], Awaitable[object]]


@dataclass
class Run:
    """How calls ended while the server was down, and what was there when it was back."""

    errors: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    slowest: float = 0.0
    back_after: float = 0.0
    late: list[str] = field(default_factory=list[str])

    @property
    def calls(self) -> int:
        return self.errors.total()


class Calls:
    """One call of each kind; every write leaves something that would be seen."""

    def __init__(self, prefix: str, *, read: str, delete: str, purge: str, update: str) -> None:
        self._prefix = prefix
        self._numbers = count(1)
        self.open: set[str] = set()
        """Keys of writes whose outcome was told to be unknown."""
        self.every: dict[str, Call] = {
            "get": lambda accounts: accounts.get(read),
            "entry": lambda accounts: accounts.entry(read),
            "history": lambda accounts: accounts.history(read),
            "exists": lambda accounts: accounts.exists(read),
            "get_many": lambda accounts: accounts.get_many([(read,)]),
            "count": lambda accounts: accounts.count(),
            "find": _found,
            "save": lambda accounts: self._create(accounts.save),
            "save ANY": lambda accounts: self._create(lambda account: accounts.save(account, expect=ANY)),
            "save_many": lambda accounts: self._create(lambda account: accounts.save_many([account])),
            "delete": lambda accounts: self._noting(delete, accounts.delete(delete)),
            "purge": lambda accounts: self._noting(purge, accounts.purge(purge)),
            "update": lambda accounts: self._noting(
                update, accounts.update(update, apply=lambda account: account.move("0+"))
            ),
        }

    async def _create(self, save: Callable[[Account], Awaitable[object]]) -> None:
        account = Account(id=f"{self._prefix}{next(self._numbers)}")
        try:
            await self._noting(account.id, save(account))
        except BulkError as error:
            await self._noting(account.id, _raising(error.failed[0]))

    async def _noting(self, key: str, write: Awaitable[object]) -> None:
        try:
            await write
        except StoreTimeoutError:
            self.open.add(key)
            raise


async def _raising(error: Exception) -> None:
    raise error


async def _found(accounts: Repository[Account]) -> object:
    return [account async for account in accounts.find()]


async def server_down(directory: Path, seconds: float) -> Run:
    """Kill the server, call everything again and again, and start it after so many seconds."""
    result = Run()
    during = Calls("late", read="a0", delete="a1", purge="a2", update="a3")
    afterwards = Calls("back", read="a0", delete="a4", purge="a5", update="a6")
    with NatsServer(directory) as server:
        await BANK.open(server.url)
        async with kvorm.connect(server.url, timeout=timedelta(seconds=BUDGET)) as store:
            accounts = BANK.of(store)
            before = await _revisions(accounts)
            await asyncio.to_thread(server.kill)
            end = time.monotonic() + seconds
            await asyncio.gather(*(_calling(name, call, accounts, end, result) for name, call in during.every.items()))
            await asyncio.to_thread(server.start)
            await _until_all_work(afterwards, accounts, result)
            await asyncio.sleep(SETTLE_SECONDS)
            after = await _revisions(accounts)
    seen = {key for key in before | after if before.get(key) != after.get(key)}
    result.late = sorted(
        key for key in seen - during.open if not key.startswith("back") and key not in ("a4", "a5", "a6")
    )
    return result


async def _revisions(accounts: Repository[Account]) -> dict[str, int | None]:
    return {account.id: revision_of(account) async for account in accounts.find()}


async def _calling(name: str, call: Call, accounts: Repository[Account], end: float, result: Run) -> None:
    while time.monotonic() < end:
        start = time.monotonic()
        try:
            await call(accounts)
        except (StoreUnavailableError, StoreTimeoutError) as error:
            result.errors[type(error).__name__] += 1
        except KvormError as error:
            result.wrong.append(f"{name}: {error!r}")
        else:
            result.wrong.append(f"{name}: answered")
        result.slowest = max(result.slowest, time.monotonic() - start)


async def _until_all_work(calls: Calls, accounts: Repository[Account], result: Run) -> None:
    start = time.monotonic()

    async def until_it_works(call: Call) -> None:
        while True:
            try:
                await call(accounts)
            except (StoreUnavailableError, StoreTimeoutError):
                continue
            except KeyNotFoundError:
                return  # deleted by the try before
            return

    async with asyncio.timeout(60):
        await asyncio.gather(*map(until_it_works, calls.every.values()))
    result.back_after = time.monotonic() - start
