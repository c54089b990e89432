"""How stories are played and told."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from kvorm import Key, Model
from kvorm.testing.machine import RepositoryMachine, invariant, operation

SAME_EACH_TIME = settings(max_examples=100, derandomize=True, database=None)


class Counter(Model, bucket="counters"):
    id: Key[str]
    n: int = 0


class Counters(RepositoryMachine):
    async def start(self) -> None:
        self.counters = self.store.repository(Counter)
        self.done = 0
        await self.counters.save(Counter(id="a"))

    @invariant
    async def adds_up(self) -> None:
        assert (await self.counters.get("a")).n == self.done


class Updates(Counters):
    most_actors = 3

    @operation()
    async def add(self) -> None:
        await self.counters.update("a", apply=lambda each: each.model_copy(update={"n": each.n + 1}))
        self.done += 1


class HalfDone(Counters):
    @operation()
    async def add(self) -> None:
        counter = await self.counters.get("a")
        await self.counters.save(counter)
        await self.counters.get("b")


class Waits(Counters):
    @operation()
    async def wait(self) -> None:
        await asyncio.Event().wait()


class Views(Counters):
    async def start(self) -> None:
        await super().start()
        self.view = await self.enter(self.counters.view())

    @operation()
    async def add(self) -> None:
        await self.view.wait_for((await self.counters.entry("a")).revision)
        await self.counters.update("a", apply=lambda each: each.model_copy(update={"n": each.n + 1}))
        self.done += 1


def story(machine: type[RepositoryMachine], error: type[BaseException]) -> tuple[str, str]:
    with pytest.raises(error) as found:
        machine.test(settings=SAME_EACH_TIME)()
    return str(found.value), next(note for note in found.value.__notes__ if note.startswith("What happened"))


def test_updates_add_up_whatever_the_order() -> None:
    Updates.test(settings=SAME_EACH_TIME)()


def test_a_view_in_a_story_is_told_of_writes() -> None:
    Views.test(settings=SAME_EACH_TIME)()


def test_half_an_operation_is_a_bug() -> None:
    message, told = story(HalfDone, AssertionError)
    assert message.startswith("add() failed with KeyNotFoundError after it had stored something")
    assert told.splitlines()[1:] == [
        "A  begins add()",
        'A    get counters/a -> revision 1 {"id":"a","n":0}',
        'A    put counters/a expecting revision 1 {"id":"a","n":0} -> revision 2',
        "A    get counters/b -> nothing",
        "A  fails: KeyNotFoundError",
    ]


def test_half_an_operation_may_be_meant() -> None:
    class Meant(HalfDone):
        half_done = True

    Meant.test(settings=SAME_EACH_TIME)()


def test_who_waits_for_ever_is_told() -> None:
    message, told = story(Waits, AssertionError)
    assert "waits for something that does not come" in message
    assert "A  begins wait()" in told


def test_the_same_choices_tell_the_same_story() -> None:
    assert story(HalfDone, AssertionError) == story(HalfDone, AssertionError)


def test_a_machine_without_operations() -> None:
    with pytest.raises(TypeError, match="has no operation"):
        Counters.test()


def test_arguments_are_said_by_name() -> None:
    with pytest.raises(TypeError, match="write one for each"):

        @operation(n=st.integers())
        async def add(self: object, m: int) -> None: ...


async def test_inside_a_running_loop() -> None:
    """A synchronous test cannot run there, and says so."""
    with pytest.raises(RuntimeError, match="an event loop of its own"):
        Updates.test(settings=settings(SAME_EACH_TIME, max_examples=1))()
