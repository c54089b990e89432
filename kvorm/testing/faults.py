"""Faults on purpose: calls that lose a race, their acknowledgement or the connection, or that answer stale or late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

from kvorm.backends.base import (
    BucketHandle,
    Deadline,
    RawChange,
    RawEntry,
    RawEvent,
    RawMarker,
    RawWatch,
    RefusedError,
    Replay,
)
from kvorm.backends.message import new_operation_id
from kvorm.entry import ANY
from kvorm.errors import KvormError, StoreTimeoutError, StoreUnavailableError
from kvorm.store import Store
from kvorm.testing.layer import CALLER, WRITES, Call, LayeredBackend, LayeredWatch, Verb

T = TypeVar("T")

_READS: Final = frozenset[Verb]({"get", "get_many"})
_DELIVERIES: Final = frozenset[Verb]({"deliver"})
_ALL: Final = frozenset[Verb](
    {
        "open",
        "get",
        "get_revision",
        "get_many",
        "history",
        "changes_after",
        "names",
        "live_keys",
        "heads",
        *WRITES,
        "load",
    }
)
_TIMEOUT: Final = timedelta(seconds=10)


class Fault(Enum):
    """What may go wrong with one call."""

    LOST_RACE = "another writer gets in between"
    LOST_ACKNOWLEDGEMENT = "it is done, and the answer is lost"
    TIMEOUT = "it is not done, and nobody says so"
    LATE_WRITE = "nobody says what became of it, and it arrives when the store is called again"
    DISCONNECT = "the server cannot be reached"
    STALE_READ = "a replica that lags behind answers"
    LATE_EVENT = "it arrives late"

    @property
    def verbs(self) -> frozenset[Verb]:
        """The calls that it can happen to."""
        return _VERBS[self]


_VERBS: Final[Mapping[Fault, frozenset[Verb]]] = {
    Fault.LOST_RACE: WRITES,
    Fault.LOST_ACKNOWLEDGEMENT: frozenset[Verb]({*WRITES, "load"}),
    Fault.TIMEOUT: _ALL,
    Fault.LATE_WRITE: WRITES,
    Fault.DISCONNECT: _ALL,
    Fault.STALE_READ: _READS,
    Fault.LATE_EVENT: _DELIVERIES,
}

Choose: TypeAlias = Callable[[Call, Sequence[Fault]], Fault | None]
"""Says which of the faults that are possible happens to a call; None: none of them."""

Foreign: TypeAlias = Callable[[str, bytes | None], bytes]
"""Says what another writer stores under a raw key, given what is there: bytes, or None."""


class Happened(NamedTuple):
    """A fault that was injected."""

    fault: Fault
    call: Call


@dataclass(slots=True)
class _Wish:
    fault: Fault
    verb: Verb | None
    key: str | None
    after: int

    def takes(self, call: Call) -> bool:
        """Whether it is this call's turn; counts those that pass."""
        wanted = call.verb in self.fault.verbs and self.verb in (None, call.verb)
        if not wanted or (self.key is not None and self.key not in call.raw_keys):
            return False
        self.after -= 1
        return self.after < 0


class Faults:
    """Wraps stores, and injects what is asked for, or what a seed says. Without either, nothing happens.

        faults = Faults()
        store = faults.over(MemoryStore())
        faults.inject(Fault.LOST_ACKNOWLEDGEMENT)      # the next write is stored, its caller gets StoreTimeoutError

    What kvorm promises holds under faults too: a write that raised StoreTimeoutError may be stored and its object does
    not conflict with itself later; after StoreUnavailableError nothing is stored; a stale read is never older than what
    the same store wrote or read before.

    Attributes:
        happened: the faults that were injected, in their order.
    """

    def __init__(
        self,
        *,
        choose: Choose | None = None,
        foreign: Foreign | None = None,
        late_by: timedelta = timedelta(milliseconds=500),
    ) -> None:
        """Say what happens beside what `inject` asks for.

        Args:
            choose: picks a fault for each call; `Faults.seeded` has one.
            foreign: what the other writer of a lost race stores; by default what is there, once more, or where nothing
                is, what the loser wanted to store.
            late_by: how long a late event is held, by the clock of the event loop.
        """
        self.happened: list[Happened] = []
        self._choose = choose
        self._foreign = foreign
        self._late_by = late_by
        self._wishes: list[_Wish] = []

    @classmethod
    def seeded(cls, seed: int, *, rate: float = 0.1, faults: Sequence[Fault] = tuple(Fault), **options: Any) -> Self:
        """Return faults that happen to this share of the calls; the same seed and calls give the same faults.

        Raises:
            ValueError: `rate` is not between 0 and 1.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate!r} must be between 0 and 1")
        random = Random(seed)

        def choose(_: Call, possible: Sequence[Fault]) -> Fault | None:
            wanted = [fault for fault in faults if fault in possible]
            return random.choice(wanted) if random.random() < rate and wanted else None

        return cls(choose=choose, **options)

    def over(self, store: Store) -> Store:
        """Return a store that does the same, with faults: one client. Closing it closes the one beneath."""
        return store.wrapped(partial(LayeredBackend, layer=FaultyLayer(self)))

    def inject(self, fault: Fault, *, verb: Verb | None = None, key: str | None = None, after: int = 0) -> None:
        """Let a fault happen once, to the next call that it can happen to.

        Args:
            fault: what happens.
            verb: only to such a call, for example "get" or "delete".
            key: only to a call about this raw key.
            after: let so many calls pass first.

        Raises:
            ValueError: it cannot happen to such a call.
        """
        if verb is not None and verb not in fault.verbs:
            raise ValueError(f"{fault} cannot happen to {verb!r}, only to {', '.join(sorted(fault.verbs))}")
        if after < 0:
            raise ValueError(f"after={after!r} is negative")
        self._wishes.append(_Wish(fault, verb, key, after))

    @property
    def waiting(self) -> int:
        """How many of the injected faults have not happened yet."""
        return len(self._wishes)

    # What a layer asks

    def choose(self, call: Call) -> Fault | None:
        """Return what happens to a call."""
        taking = [wish for wish in self._wishes if wish.takes(call)]
        if taking:
            self._wishes.remove(taking[0])
            return taking[0].fault
        possible = [fault for fault in Fault if call.verb in fault.verbs]
        return self._choose(call, possible) if self._choose is not None and possible else None

    def foreign(self, raw_key: str, there: bytes | None, wanted: bytes) -> bytes:
        """Return what the other writer of a lost race stores."""
        if self._foreign is not None:
            return self._foreign(raw_key, there)
        return wanted if there is None else there

    @property
    def late_by(self) -> timedelta:
        """How long a late event is held."""
        return self._late_by


class FaultyLayer:
    """The faults of one client: what it has seen and written bounds how stale a read may be."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._late_writes: list[Callable[[], Awaitable[object]]] = []
        self._seen: dict[tuple[str | None, str, str], RawChange | None] = {}
        self._floors: dict[tuple[str | None, str, str], int] = {}

    async def around(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        """Make a call, or let it go wrong."""
        await self._let_late_writes_arrive()
        fault = self._faults.choose(call)
        if fault is None:
            return self._note(call, await act())
        self._faults.happened.append(Happened(fault, call))
        match fault:
            case Fault.LOST_RACE:
                await self._overtake(call)
            case Fault.DISCONNECT:
                raise StoreUnavailableError(f"{_place(call)}: the connection was lost, nothing was stored (injected)")
            case Fault.TIMEOUT:
                raise _no_answer(call)
            case Fault.LATE_WRITE:
                self._late_writes.append(act)
                raise _no_answer(call)
            case Fault.LOST_ACKNOWLEDGEMENT:
                with suppress(RefusedError):  # that answer is lost just as well
                    await act()
                raise _no_answer(call)
            case Fault.STALE_READ:
                return self._note(call, cast("T", await self._stale(call, await act())))
            case Fault.LATE_EVENT:
                pass
        return self._note(call, await act())

    def watch(self, below: BucketHandle, filters: Sequence[str], start: Replay | int) -> RawWatch:
        """Return a watch whose events may be late."""
        return _LateWatch(below, below.watch(filters, start=start), self._faults)

    async def _let_late_writes_arrive(self) -> None:
        while self._late_writes:
            # Refused by then, or stored: nobody hears of it.
            with suppress(RefusedError, KvormError):
                await self._late_writes.pop(0)()

    async def _overtake(self, call: Call) -> None:
        """Write as another client would, below all that counts as this one's."""
        below, (raw_key,) = _handle(call), call.raw_keys
        deadline = call.deadline or Deadline(_TIMEOUT)
        there = await below.get(raw_key, deadline=deadline)
        data = self._faults.foreign(raw_key, there.data if isinstance(there, RawEntry) else None, call.data)
        if data:
            await below.put(raw_key, data, expect=ANY, headers={}, operation_id=new_operation_id(), deadline=deadline)

    async def _stale(self, call: Call, fresh: object) -> object:
        if call.verb == "get":
            return await self._older(call, call.raw_keys[0], cast("RawChange | None", fresh))
        found = cast("list[RawChange | None]", fresh)
        return [await self._older(call, key, one) for key, one in zip(call.raw_keys, found, strict=True)]

    async def _older(self, call: Call, raw_key: str, fresh: RawChange | None) -> RawChange | None:
        """Return what was there before, if this client may not know better."""
        if fresh is None:
            return None
        place = (CALLER.get(), call.bucket, raw_key)
        floor = self._floors.get(place, 0)
        kept = await _handle(call).history(raw_key, deadline=call.deadline or Deadline(_TIMEOUT))
        older = [change for change in kept if floor <= change.revision < fresh.revision]
        if older:
            return older[-1]
        # What it saw last may have left the history since.
        last = self._seen.get(place)
        if last is not None and last.revision >= floor:
            return last
        return None if floor == 0 else fresh

    def _note(self, call: Call, result: T) -> T:
        """Remember what this client knows from now on."""
        answers: Sequence[object] = cast("Sequence[object]", result) if call.verb == "get_many" else (result,)
        for raw_key, answer in zip(call.raw_keys, answers, strict=False):
            place = (CALLER.get(), call.bucket, raw_key)
            if call.writes and isinstance(answer, int):
                self._floors[place] = answer
            elif call.verb in _READS and isinstance(answer, RawEntry | RawMarker):
                self._floors[place] = max(self._floors.get(place, 0), answer.revision)
                self._seen[place] = answer
        return result


class _LateWatch(LayeredWatch):
    """A watch that holds back some events, in their order."""

    def __init__(self, handle: BucketHandle, below: RawWatch, faults: Faults) -> None:
        super().__init__(below)
        self._handle = handle
        self._faults = faults

    async def pass_on(self, event: RawEvent) -> None:
        """Hold back an event of a key that a fault takes."""
        if not isinstance(event, RawEntry | RawMarker):
            return
        call = Call("deliver", self._handle.settings.name, None, self._handle, (event.raw_key,))
        fault = self._faults.choose(call)
        if fault is not None:
            self._faults.happened.append(Happened(fault, call))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._faults.late_by.total_seconds()):
                    await self._closed.wait()


def _handle(call: Call) -> BucketHandle:
    assert call.below is not None, call
    return call.below


def _place(call: Call) -> str:
    return "/".join((call.bucket, *call.raw_keys[:1]))


def _no_answer(call: Call) -> StoreTimeoutError:
    timeout = call.deadline.timeout if call.deadline is not None else _TIMEOUT
    told = "whether it is stored is unknown" if call.verb in {*WRITES, "load"} else "nothing was read"
    return StoreTimeoutError(
        f"{_place(call)}: no answer within {timeout.total_seconds():g} s; {told} (injected)", timeout=timeout
    )
