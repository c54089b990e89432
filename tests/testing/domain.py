"""A small domain, each operation right and wrong: accounts with transfers, and a hall with seats that people book."""

from __future__ import annotations

from pydantic import Field

from kvorm import ANY, ConflictError, Key, KeyNotFoundError, Model, Repository, StoreTimeoutError, View


class Account(Model, bucket="bank", prefix="account"):
    id: Key[str]
    balance: int = 0
    done: list[str] = Field(default_factory=list)


class Seat(Model, bucket="hall"):
    number: Key[int]
    holder: str = ""


class Bank:
    """Deposits and withdrawals as they should be."""

    def __init__(self, accounts: Repository[Account]) -> None:
        self.accounts = accounts

    async def withdraw(self, id_: str, amount: int) -> bool:
        account = await self.accounts.get(id_)
        if account.balance < amount:
            return False
        account.balance -= amount
        await self.accounts.save(account)
        return True

    async def deposit(self, id_: str, amount: int, request: str) -> None:
        while True:
            account = await self.accounts.get(id_)
            if request in account.done:
                return
            account.balance += amount
            account.done.append(request)
            try:
                await self.accounts.save(account)
            except (StoreTimeoutError, ConflictError):
                continue  # stored or not: the account itself tells
            return


class LostUpdate(Bank):
    """Reads once to decide, and once more to write: what came between is not seen by the decision."""

    async def withdraw(self, id_: str, amount: int) -> bool:
        if (await self.accounts.get(id_)).balance < amount:
            return False
        account = await self.accounts.get(id_)
        account.balance -= amount
        await self.accounts.save(account)
        return True


class BlindOverwrite(Bank):
    async def withdraw(self, id_: str, amount: int) -> bool:
        account = await self.accounts.get(id_)
        if account.balance < amount:
            return False
        account.balance -= amount
        await self.accounts.save(account, expect=ANY)
        return True


class AppliesTwice(Bank):
    async def deposit(self, id_: str, amount: int, request: str) -> None:
        while True:
            account = await self.accounts.get(id_)
            account.balance += amount
            try:
                await self.accounts.save(account)
            except (StoreTimeoutError, ConflictError):
                continue
            return


class Hall:
    """Bookings as they should be: a view is good for a first look, the seat itself decides."""

    def __init__(self, seats: Repository[Seat], view: View[Seat]) -> None:
        self.seats = seats
        self.view = view

    async def book(self, number: int, who: str) -> bool:
        seen = self.view.get(number)
        if seen is not None and seen.holder:
            return False
        seat = seen or Seat(number=number)
        seat.holder = who
        await self.seats.save(seat)
        return True

    async def cancel(self, number: int, who: str) -> bool:
        seat = await self.seats.get_or_none(number)
        if seat is None or seat.holder != who:
            return False
        await self.seats.delete(seat)
        return True

    async def hand_over(self, number: int, who: str, to: str) -> bool:
        seat = await self.seats.get_or_none(number)
        if seat is None or seat.holder != who:
            return False
        seat.holder = to
        await self.seats.save(seat)
        return True


class StaleView(Hall):
    async def book(self, number: int, who: str) -> bool:
        seen = self.view.get(number)
        if seen is not None and seen.holder:
            return False
        try:
            await self.seats.save(Seat(number=number, holder=who))
        except ConflictError:
            # "It was free a moment ago."
            await self.seats.save(Seat(number=number, holder=who), expect=ANY)
        return True


class BlindDelete(Hall):
    async def cancel(self, number: int, who: str) -> bool:
        seat = await self.seats.get_or_none(number)
        if seat is None or seat.holder != who:
            return False
        try:
            await self.seats.delete(number)
        except KeyNotFoundError:
            return False
        return True
