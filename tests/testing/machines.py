"""What a user would write to test that domain: operations, laws, and how much should be there."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st

from kvorm.testing.faults import Fault
from kvorm.testing.machine import RepositoryMachine, invariant, operation
from tests.testing.domain import Account, Bank, Hall, Seat

numbers = st.sampled_from([1, 2])
people = st.sampled_from(["ann", "bob"])


class BankMachine(RepositoryMachine):
    """Nobody loses money, and nobody makes any."""

    bank: ClassVar[type[Bank]] = Bank

    async def start(self) -> None:
        self.accounts = self.store.repository(Account)
        self.expected = 10
        await self.accounts.save(Account(id="a", balance=10))

    @operation(amount=st.integers(1, 10))
    async def withdraw(self, amount: int) -> None:
        if await self.bank(self.accounts).withdraw("a", amount):
            self.expected -= amount

    @invariant
    async def nothing_is_lost(self) -> None:
        balance = (await self.accounts.get("a")).balance
        assert balance == self.expected
        assert balance >= 0


class UnluckyBankMachine(RepositoryMachine):
    """A deposit counts once, whatever is heard of it."""

    bank: ClassVar[type[Bank]] = Bank
    faults = (Fault.LOST_ACKNOWLEDGEMENT, Fault.TIMEOUT)

    async def start(self) -> None:
        self.accounts = self.store.repository(Account)
        self.requests = self.expected = 0
        await self.accounts.save(Account(id="a"))

    @operation(amount=st.integers(1, 10))
    async def deposit(self, amount: int) -> None:
        self.requests += 1
        await self.bank(self.accounts).deposit("a", amount, f"request {self.requests}")
        self.expected += amount

    @invariant
    async def each_counts_once(self) -> None:
        assert (await self.accounts.get("a")).balance == self.expected


class HallMachine(RepositoryMachine):
    """Who was told that a seat is theirs has it."""

    hall: ClassVar[type[Hall]] = Hall

    async def start(self) -> None:
        self.seats = self.store.repository(Seat)
        self.booked = {1: "ann"}  # and seat 2 is free
        await self.seats.save(Seat(number=1, holder="ann"))
        self.one = self.hall(self.seats, await self.enter(self.seats.view()))

    @operation(number=numbers, who=people)
    async def book(self, number: int, who: str) -> None:
        if await self.one.book(number, who):
            assert number not in self.booked, f"{self.booked[number]} was told that the seat is theirs"
            self.booked[number] = who

    @invariant
    async def who_was_told_has_it(self) -> None:
        assert {seat.number: seat.holder async for seat in self.seats.find()} == self.booked


class OneSeatMachine(RepositoryMachine):
    """A seat that is handed over is not its former holder's to cancel."""

    hall: ClassVar[type[Hall]] = Hall

    async def start(self) -> None:
        self.seats = self.store.repository(Seat)
        self.holder: str | None = "ann"
        await self.seats.save(Seat(number=1, holder="ann"))
        self.one = self.hall(self.seats, await self.enter(self.seats.view()))

    @operation(who=people)
    async def cancel(self, who: str) -> None:
        if await self.one.cancel(1, who):
            assert self.holder == who, "somebody else's booking was cancelled"
            self.holder = None

    @operation(who=people, to=people)
    async def hand_over(self, who: str, to: str) -> None:
        if await self.one.hand_over(1, who, to):
            self.holder = to
