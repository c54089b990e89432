"""Clients that move money between accounts through a hostile network, and what they were told beside what is stored."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import nats.errors
from nats.js.errors import APIError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import Field

import kvorm
from kvorm import Bucket, Key, KvormError, Mapping, Model, Repository, RevisionMismatchError, Store, StoreTimeoutError

BUCKET = "accounts"


class Account(Model, bucket=BUCKET):
    id: Key[str]
    balance: int = 0
    moves: dict[str, int] = Field(default_factory=dict)
    """How often each client added one ("3+") and took one ("3-")."""

    def move(self, slot: str) -> None:
        self.moves[slot] = self.moves.get(slot, 0) + 1
        self.balance += 1 if slot.endswith("+") else -1


@dataclass(frozen=True)
class Bank:
    """The accounts of one run, and the bucket they are in."""

    accounts: int
    history: int = 1
    replicas: int = 1

    @property
    def keys(self) -> list[str]:
        return [f"a{number}" for number in range(self.accounts)]

    def of(self, store: Store) -> Repository[Account]:
        bucket = Bucket(BUCKET, history=self.history, replicas=self.replicas)
        return store.repository(Account, mapping=Mapping(bucket, key=("id",)))

    async def open(self, url: str | list[str]) -> None:
        async with kvorm.connect(url) as store:
            await self.of(store).save_many([Account(id=key) for key in self.keys])

    async def stored(self, url: str | list[str]) -> Stored:
        async with kvorm.connect(url) as store:
            accounts = [account async for account in self.of(store).find()]
        moves = Counter({f"{one.id} {slot}": times for one in accounts for slot, times in one.moves.items()})
        return Stored(moves, sum(account.balance for account in accounts))


@dataclass(frozen=True)
class Stored:
    """What is there in the end."""

    moves: Counter[str]
    balance: int


@dataclass
class Outcome:
    """What the clients were told; a move is named by account, client and direction."""

    done: Counter[str] = field(default_factory=Counter[str])
    unknown: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    transfers: int = 0
    faults: int = 0
    kills: int = 0

    @property
    def balance(self) -> int:
        """What all accounts have together, if what is unknown is not stored."""
        return sum(times if name.endswith("+") else -times for name, times in self.done.items())

    def lost(self, stored: Stored) -> int:
        """Return how many moves were told done and are not there."""
        return (self.done - stored.moves).total()

    def twice(self, stored: Stored) -> int:
        """Return how many moves are there that nobody was told of, and that are not unknown."""
        return (stored.moves - self.done - self.unknown).total()


class Told(Enum):
    """What became of a move."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


Move = Callable[[str, str], Awaitable[Told]]
"""Changes one account by one; takes its key and the slot to count the move in."""


def unheard(key: str, revision: int) -> None:
    """Take no note of an acknowledgement."""


def with_kvorm(accounts: Repository[Account], acknowledged: Callable[[str, int], None] = unheard) -> Move:
    """Read, change, save: checked, and once. `acknowledged` gets the key and revision of each move that is done."""

    async def move(key: str, slot: str) -> Told:
        account = await accounts.get(key)
        account.move(slot)
        try:
            acknowledged(key, await accounts.save(account))
        except RevisionMismatchError:
            return Told.REFUSED
        except StoreTimeoutError:
            return Told.UNKNOWN
        return Told.DONE

    return move


def with_naive_retry(kv: KeyValue) -> Move:
    """Do what many services do over plain nats-py: after a timeout, read again and try again, twenty times."""

    async def move(key: str, slot: str) -> Told:
        for _ in range(20):
            try:
                entry = await kv.get(key)
                account = Account.model_validate_json(entry.value or b"")
                account.move(slot)
                await kv.update(key, account.model_dump_json().encode(), last=entry.revision)
            except (KeyWrongLastSequenceError, nats.errors.Error, APIError, OSError):
                continue
            return Told.DONE
        return Told.UNKNOWN

    return move


class Client:
    """Adds to accounts and moves from one to another, at random."""

    def __init__(self, number: int, move: Move, keys: list[str], outcome: Outcome) -> None:
        self._number = number
        self._move = move
        self._keys = keys
        self._outcome = outcome
        self._choice = random.Random(number)

    async def act(self) -> None:
        source, target = self._choice.sample(self._keys, 2)
        if self._choice.random() < 0.5:
            await self._change(target, "+")
        else:
            await self._transfer(source, target)

    async def _transfer(self, source: str, target: str) -> None:
        if await self._change(source, "-") is not Told.DONE:
            return
        # What was taken must arrive: only a refusal leaves the credit to be done.
        while await self._change(target, "+") is Told.REFUSED:
            pass
        self._outcome.transfers += 1

    async def _change(self, key: str, direction: str) -> Told | None:
        slot = f"{self._number}{direction}"
        try:
            told = await self._move(key, slot)
        except KvormError as error:
            self._outcome.errors[type(error).__name__] += 1
            return None
        if told is Told.DONE:
            self._outcome.done[f"{key} {slot}"] += 1
        elif told is Told.UNKNOWN:
            self._outcome.unknown[f"{key} {slot}"] += 1
        return told


Fault = Callable[[random.Random, Outcome], Awaitable[None]]


def lasting(seconds: float) -> Callable[[], bool]:
    """Return what is true for that long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


async def run(moves: list[Move], keys: list[str], fault: Fault, goes_on: Callable[[], bool]) -> Outcome:
    """Let a client make each of the moves, while faults happen and for a quiet second after the last one."""
    outcome = Outcome()
    over = False

    async def client(number: int, move: Move) -> None:
        acting = Client(number, move, keys, outcome)
        while not over:
            await acting.act()

    async def faults() -> None:
        nonlocal over
        choice = random.Random(0)
        try:
            while goes_on():
                await fault(choice, outcome)
                outcome.faults += 1
            await asyncio.sleep(1)
        finally:
            over = True

    await asyncio.gather(faults(), *(client(number, move) for number, move in enumerate(moves)))
    return outcome
