"""One store call at a time: actors run side by side, and each waits before each call until it is its turn.

Whose turn it is, is chosen; the same choices give the same run, in memory as on a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, TypeAlias, TypeVar

from kvorm.backends.base import BucketHandle, Position, RawChange, RawEntry, RawEvent, RawMarker, RawWatch, Replay
from kvorm.entry import CaughtUp, Reset
from kvorm.keys import matches_any
from kvorm.testing.layer import CALLER, Call, LayeredWatch
from kvorm.testing.story import Story, told_answer, told_call

T = TypeVar("T")

Choose: TypeAlias = Callable[[int], int]
"""Picks one of so many: 0 goes on with whom it was last."""

_PATIENCE_SECONDS: Final = 0.4
"""How long an actor that is at no call may take to come to one: longer than kvorm's own pauses before a retry."""
_LONGEST_CALL_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 600.0
_MOST_TURNS: Final = 1000
_ROUNDS: Final = 5


class StuckError(AssertionError):
    """The story does not end: all actors wait, or one goes on for ever."""


class Turn:
    """A place where an actor, or a watch, waits until it may go on."""

    def __init__(self, who: str, *, begins: bool = False) -> None:
        self.who = who
        self.begins = begins
        self.may_go = asyncio.Event()
        self.is_over = asyncio.Event()


class Interleaving:
    """The layer that holds calls, and the scheduler that lets one go at a time.

    Outside of `play` everything passes, and so do the calls of those who are no actors.
    """

    def __init__(self, choose: Choose, story: Story) -> None:
        self._choose = choose
        self._story = story
        self._playing = False
        self._turns: list[Turn] = []
        self._running: set[str] = set()
        self._stuck: set[str] = set()
        self._watches: list[_HeldWatch] = []
        self._current = ""
        self._changed = asyncio.Event()

    # As a layer

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        """Wait for one's turn, then make the call."""
        who = CALLER.get()
        if who is None or not self._playing:
            return self._note(call, await act())
        turn = await self.wait_for_turn(who)
        try:
            result = self._note(call, await act())
        except Exception as error:
            self._story.tell(who, f"  {told_call(call)} -> {told_answer(error)}")
            raise
        else:
            self._story.tell(who, f"  {told_call(call)} -> {told_answer(result)}")
            return result
        finally:
            turn.is_over.set()

    def watch(self, below: BucketHandle, filters: Sequence[str], start: Replay | int) -> RawWatch:
        """Return a watch whose events wait for their turn."""
        held = _HeldWatch(self, f"watch {len(self._watches) + 1}", below, filters, start)
        self._watches.append(held)
        return held

    async def wait_for_turn(self, who: str, *, begins: bool = False) -> Turn:
        """Wait until it is the turn of this one; whoever lets it go waits until `is_over` is set."""
        turn = Turn(who, begins=begins)
        if not self._playing:
            return turn
        self._turns.append(turn)
        self._stuck.discard(who)
        self._changed.set()
        await turn.may_go.wait()
        return turn

    def tell(self, who: str, text: str) -> None:
        """Add a line to the story."""
        self._story.tell(who, text)

    @property
    def playing(self) -> bool:
        """Whether calls and events are held."""
        return self._playing

    # As a scheduler

    async def play(
        self, actors: Mapping[str, Callable[[], Coroutine[Any, Any, None]]], at_rest: Callable[[], Awaitable[None]]
    ) -> None:
        """Run the actors to their end; call `at_rest` whenever none of them is in the midst of something.

        Raises:
            StuckError: they do not come to an end.
            BaseException: what an actor raised, the first of them.
        """
        self._playing = True
        self._running = set(actors)
        tasks: list[asyncio.Task[None]] = []
        try:
            for who, act in actors.items():
                context = copy_context()
                context.run(CALLER.set, who)
                tasks.append(asyncio.create_task(self._act(who, act), context=context))
            await self._direct(tasks, at_rest)
        finally:
            self._playing = False
            for task in tasks:
                task.cancel()
            for turn in self._turns:
                turn.may_go.set()
            self._turns.clear()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _act(self, who: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await act()
        finally:
            self._running.discard(who)
            self._changed.set()

    async def _direct(self, tasks: Sequence[asyncio.Task[None]], at_rest: Callable[[], Awaitable[None]]) -> None:
        for _ in range(_MOST_TURNS):
            await self._settle()
            for task in tasks:
                if task.done():
                    task.result()
            busy = self._running - {turn.who for turn in self._turns if turn.begins}
            if not busy:
                await at_rest()
            if not self._running:
                return
            await self._let_one_go()
        raise StuckError(f"no end after {_MOST_TURNS} calls")

    async def _let_one_go(self) -> None:
        if not self._turns:
            await self._wait(_LONGEST_WAIT_SECONDS, "every actor waits for something that does not come")
            return
        ready = sorted(self._turns, key=self._order)
        turn = ready[self._choose(len(ready)) if len(ready) > 1 else 0]
        self._turns.remove(turn)
        self._current = turn.who
        turn.may_go.set()
        async with asyncio.timeout(_LONGEST_CALL_SECONDS):
            await turn.is_over.wait()

    def _order(self, turn: Turn) -> tuple[bool, bool, str]:
        """Who was at it goes on by default; events come when everybody else is through."""
        return turn.who != self._current, turn.who not in self._running, turn.who

    async def _settle(self) -> None:
        """Wait until everybody is at a call, at the end, or waits for somebody else."""
        while coming := self._coming():
            self._changed.clear()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                self._stuck |= coming
        # What others waited for may have come with that.
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)

    def _coming(self) -> set[str]:
        at_call = {turn.who for turn in self._turns}
        behind = {watch.name for watch in self._watches if watch.is_behind}
        return (self._running | behind) - at_call - self._stuck

    async def _wait(self, seconds: float, what: str) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            raise StuckError(what) from None

    def _note(self, call: Call, result: T) -> T:
        """Let the watches know of a write that they will tell."""
        if call.writes and isinstance(result, int):
            self._story.stored(CALLER.get())
            for watch in self._watches:
                watch.expect(call.bucket, call.raw_keys[0], result)
        return result


class _HeldWatch(LayeredWatch):
    """A watch whose events, once it has caught up, come to its reader when it is their turn."""

    def __init__(
        self, stage: Interleaving, name: str, handle: BucketHandle, filters: Sequence[str], start: Replay | int
    ) -> None:
        super().__init__(handle.watch(filters, start=start))
        self.name = name
        self._stage = stage
        self._bucket = handle.settings.name
        self._filters = filters
        self._expected = 0
        self._arrived = 0
        self._caught_up = False

    @property
    def is_behind(self) -> bool:
        """Whether an event is on its way."""
        return self._caught_up and not self._closed.is_set() and self._arrived < self._expected

    def expect(self, bucket: str, raw_key: str, revision: int) -> None:
        """Learn of a write."""
        if bucket == self._bucket and matches_any(self._filters, raw_key):
            self._expected = revision

    async def pass_on(self, event: RawEvent) -> None:
        """Hold a change until it is its turn."""
        match event:
            case CaughtUp(revision=revision):
                self._caught_up = True
                self._arrived = max(self._arrived, revision)
            case Reset():
                self._caught_up = False
            case Position(revision=revision):
                self._arrived = max(self._arrived, revision)
            case RawEntry() | RawMarker() if self._caught_up:
                self._arrived = event.revision
                await self._hold(event)
            case _:
                pass

    async def _hold(self, event: RawChange) -> None:
        waiting = asyncio.ensure_future(self._stage.wait_for_turn(self.name))
        closed = asyncio.ensure_future(self._closed.wait())
        held = self._stage.playing
        try:
            await asyncio.wait([waiting, closed], return_when=asyncio.FIRST_COMPLETED)
            if held and waiting.done():
                place = f"{self._bucket}/{event.raw_key}"
                self._stage.tell(self.name, f"  tells its reader of {place} at revision {event.revision}")
        finally:
            if waiting.done() and not waiting.cancelled():
                waiting.result().is_over.set()
            waiting.cancel()
            closed.cancel()
