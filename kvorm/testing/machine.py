"""RepositoryMachine: the laws of a domain, checked on generated stories of actors that work side by side."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from kvorm.errors import BulkError, ConflictError, NotFoundError, StoreError, StoreTimeoutError
from kvorm.store import MemoryStore, Store
from kvorm.testing.faults import Fault, Faults, FaultyLayer
from kvorm.testing.interleaving import Interleaving
from kvorm.testing.layer import CALLER, Call, LayeredBackend
from kvorm.testing.simulation.loop import VirtualLoop
from kvorm.testing.story import Story

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

OpenStore: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]
"""Opens an empty store for one story: `lambda: kvorm.connect(url, namespace=f"t{uuid4().hex}-")`."""

_ARGUMENTS: Final = "__kvorm_arguments__"
_INVARIANT: Final = "__kvorm_invariant__"
_PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink)
_NAMES: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def operation(**arguments: st.SearchStrategy[Any]) -> Callable[[F], F]:
    """Mark an async method as something that actors do, with arguments drawn from these strategies."""

    def mark(method: F) -> F:
        accepted = list(inspect.signature(method).parameters)[1:]
        if sorted(accepted) != sorted(arguments):
            raise TypeError(
                f"{method.__name__} takes {accepted}, and @operation has strategies for {list(arguments)}: write one "
                f"for each, by name"
            )
        setattr(method, _ARGUMENTS, arguments)
        return method

    return mark


def invariant(method: F) -> F:
    """Mark an async method as a law: it raises AssertionError unless all is well. It takes nothing but `self`.

    It is checked whenever no actor is in the midst of an operation, and at the end.
    """
    setattr(method, _INVARIANT, True)
    return method


@dataclass(frozen=True)
class Step:
    """One operation of an actor, with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(hash=False)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class RepositoryMachine:
    """Operations and laws of a domain over kvorm; subclass it, and let a test run its stories.

        class Bank(RepositoryMachine):
            async def start(self) -> None:
                self.accounts = self.store.repository(Account)
                await self.accounts.save(Account(id="a", balance=10))

            @operation(amount=st.integers(1, 10))
            async def withdraw(self, amount: int) -> None:
                await withdraw(self.accounts, "a", amount)

            @invariant
            async def never_negative(self) -> None:
                assert (await self.accounts.get("a")).balance >= 0

        test_bank = Bank.test()

    A story has some actors with some operations each. They run side by side, and before each call of the store one of
    them is chosen to go on. Hypothesis looks for the story that breaks a law, and shortens it. Each story has an object
    of its own, so that attributes may keep count of what should be there.

    An operation may raise what a caller would have to live with (`ordinary`): it failed. If it failed and something of
    it is stored nevertheless, that is a bug as well, unless `half_done` says otherwise or a fault was injected.

    Attributes:
        store: the store of this story.
        most_actors, most_operations: how many actors a story has at most, and how many operations each.
        faults: what else may go wrong; most_faults times in a story.
        ordinary: errors with which an operation may fail.
        half_done: whether a failed operation may have stored something.
    """

    most_actors: ClassVar[int] = 2
    most_operations: ClassVar[int] = 3
    faults: ClassVar[tuple[Fault, ...]] = ()
    most_faults: ClassVar[int] = 1
    ordinary: ClassVar[tuple[type[Exception], ...]] = (ConflictError, NotFoundError, StoreError, BulkError)
    half_done: ClassVar[bool] = False

    def __init__(self, store: Store, resources: AsyncExitStack) -> None:
        self.store = store
        self._resources = resources

    async def start(self) -> None:
        """Make repositories and what is there at the beginning; nothing of it is interleaved."""

    async def end(self) -> None:
        """Look at the end of the story, after the last check of the laws."""

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter a context manager, for example a view, until the story ends."""
        return await self._resources.enter_async_context(manager)

    @classmethod
    def test(cls, *, store: OpenStore | None = None, settings: hypothesis.settings | None = None) -> Callable[[], None]:
        """Return a test function, for pytest and every other runner; calling it runs the stories.

        Args:
            store: opens an empty store for each story. By default one in memory, on a loop of virtual time: waiting
                takes no time, and its lifetimes pass with it.
            settings: of Hypothesis; how many stories, above all.

        Raises:
            TypeError: the class has no operation.
        """
        play = hypothesis.given(actors=plans(cls), choices=st.randoms(use_true_random=False))(_player(cls, store))
        given = settings or hypothesis.settings()
        chosen = hypothesis.settings(
            given,
            deadline=None,
            # The story explains it better.
            phases=[phase for phase in _PHASES if phase in given.phases],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        return chosen(play)


def plans(machine: type[RepositoryMachine]) -> st.SearchStrategy[list[list[Step]]]:
    """Return what the actors of a machine may do: for each of them a list of steps.

    Raises:
        TypeError: the class has no operation.
    """
    operations = {
        name: vars(method)[_ARGUMENTS]
        for name, method in inspect.getmembers(machine, inspect.isfunction)
        if _ARGUMENTS in vars(method)
    }
    if not operations:
        raise TypeError(f"{machine.__name__} has no operation: mark async methods with @operation(...)")
    steps = st.one_of([_steps(name, of) for name, of in operations.items()])
    of_one = st.lists(steps, min_size=1, max_size=machine.most_operations)
    return st.lists(of_one, min_size=1, max_size=machine.most_actors)


def _steps(name: str, arguments: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Step]:
    return st.fixed_dictionaries(dict(arguments)).map(lambda drawn: Step(name, drawn))


def _player(cls: type[RepositoryMachine], store: OpenStore | None) -> Callable[..., None]:
    def play(actors: list[list[Step]], choices: Random) -> None:
        _check_no_loop(cls)
        with asyncio.Runner(loop_factory=VirtualLoop if store is None else asyncio.new_event_loop) as runner:
            runner.run(_Run(cls, actors, choices).run(store or _in_memory))

    play.__name__ = play.__qualname__ = cls.__name__
    play.__doc__ = cls.__doc__
    return play


def _check_no_loop(cls: type[RepositoryMachine]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{cls.__name__} runs an event loop of its own: call its test from a plain `def`")


def _in_memory() -> Store:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return MemoryStore(clock=loop.utc)


class _Run:
    """One story, as it is played."""

    def __init__(self, cls: type[RepositoryMachine], plan: list[list[Step]], choices: Random) -> None:
        self._cls = cls
        self._plan = plan
        self._choices = choices
        self._story = Story()
        self._faults = Faults(choose=self._choose_fault)
        self._stage = Interleaving(choices.randrange, self._story)
        self._checked = -1
        self._ended = 0

    async def run(self, open_store: OpenStore) -> None:
        try:
            async with open_store() as base, AsyncExitStack() as resources:
                store = base.wrapped(
                    lambda backend: LayeredBackend(LayeredBackend(backend, FaultyLayer(self._faults)), self._stage)
                )
                await self._tell(self._cls(store, resources))
        except Exception as error:
            error.add_note(str(self._story))
            raise

    async def _tell(self, machine: RepositoryMachine) -> None:
        await machine.start()

        async def check() -> None:
            if self._checked != self._ended:
                self._checked = self._ended
                await self._check(machine)

        actors = {
            _NAMES[number % len(_NAMES)] * (1 + number // len(_NAMES)): steps for number, steps in enumerate(self._plan)
        }
        acting = {who: partial(self._act, machine, who, steps) for who, steps in actors.items()}
        await self._stage.play(acting, check)
        await self._check(machine)
        await machine.end()

    async def _act(self, machine: RepositoryMachine, who: str, steps: list[Step]) -> None:
        for step in steps:
            turn = await self._stage.wait_for_turn(who, begins=True)
            self._story.tell(who, f"begins {step}")
            turn.is_over.set()
            await self._do(machine, who, step)
            self._ended += 1

    async def _do(self, machine: RepositoryMachine, who: str, step: Step) -> None:
        stored, faults = self._story.stored_by(who), len(self._faults.happened)
        try:
            result = await getattr(machine, step.name)(**step.arguments)
        except machine.ordinary as error:
            self._story.tell(who, f"fails: {type(error).__name__}")
            excused = machine.half_done or isinstance(error, StoreTimeoutError) or len(self._faults.happened) > faults
            if self._story.stored_by(who) > stored and not excused:
                raise AssertionError(
                    f"{step} failed with {type(error).__name__} after it had stored something: half of it happened"
                ) from error
        except Exception as error:
            self._story.tell(who, f"fails: {type(error).__name__}: {error}")
            raise
        else:
            self._story.tell(who, "ends" if result is None else f"ends: {result!r}")

    async def _check(self, machine: RepositoryMachine) -> None:
        for name, method in inspect.getmembers(type(machine), inspect.isfunction):
            if _INVARIANT not in vars(method):
                continue
            try:
                await method(machine)
            except Exception:
                self._story.tell("=>", f"{name} does not hold")
                raise

    def _choose_fault(self, call: Call, possible: Sequence[Fault]) -> Fault | None:
        wanted = [fault for fault in self._cls.faults if fault in possible]
        if (
            CALLER.get() is None
            or not self._stage.playing
            or len(self._faults.happened) >= self._cls.most_faults
            or not wanted
        ):
            return None
        number = self._choices.randrange(len(wanted) + 1)
        return wanted[number - 1] if number else None
