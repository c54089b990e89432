"""One simulated history: a seed becomes clients, faults and delays; what came of it is checked."""

from __future__ import annotations

import asyncio
import json
import random as module_random
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final
from unittest.mock import patch

from nats.aio import client as nats_client

import kvorm
from kvorm import Bucket, Repository, View, lifetimes
from kvorm.testing.simulation.check_watches import check_views, check_watches
from kvorm.testing.simulation.checks import Violation, check_errors, check_leaks, check_reads, check_writes
from kvorm.testing.simulation.loop import HungError, VirtualLoop
from kvorm.testing.simulation.observers import Observer
from kvorm.testing.simulation.record import Outcome, Record, Seen, Viewed
from kvorm.testing.simulation.stream import SimulatedStream
from kvorm.testing.simulation.traits import Traits
from kvorm.testing.simulation.truth import NEVER, Life, Truth, written
from kvorm.testing.simulation.workload import BUCKET, Client, Item, items
from kvorm.testing.simulation.world import World

_ACTIVE_SECONDS: Final = 2.0
_HEALING_SECONDS: Final = 5.0
"""The longest outage, and the time until a client has noticed a half-open connection."""

_RECOVERY_SECONDS: Final = 2.5
_FORGETTING_SECONDS: Final = 7.0
"""After so long the server has taken off the consumers of a client that could not do it."""

_BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Report:
    """What came of one history, or of many."""

    histories: int = 0
    calls: int = 0
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    events: int = 0
    views: int = 0
    faults: dict[str, int] = field(default_factory=dict[str, int])
    violations: list[tuple[int, Violation]] = field(default_factory=list[tuple[int, Violation]])
    """With the seed of the history each was found in."""

    def add(self, other: Report) -> None:
        """Add the figures of another one."""
        for name in ("histories", "calls", "acknowledged", "unknown", "refused", "events", "views"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for fault, times in other.faults.items():
            self.faults[fault] = self.faults.get(fault, 0) + times
        self.violations += other.violations


def run(seed: int, *, replicas: int | None = None, traits: Traits | None = None) -> Report:
    """Run the history of a seed and check it; the same seed gives the same report.

    `replicas` is 1 or 3; where it, or `traits`, is None the seed decides.
    """
    random = Random(seed)
    copies = random.choice([1, 3])
    history = History(seed, random, replicas or copies, traits or Traits.drawn(seed))
    loop = VirtualLoop()
    with _seeded(seed, loop):
        try:
            loop.run_until_complete(history.play(loop))
        except HungError as error:
            history.violations.append(Violation("hung", str(error)))
        finally:
            _end(loop)
    return history.report()


@contextmanager
def _seeded(seed: int, loop: VirtualLoop) -> Generator[None, None, None]:
    """Let all that is left to chance, and nats-py's look at the time, follow from the seed."""
    before = module_random.getstate()
    module_random.seed(seed)
    try:
        # nats-py times its tries to reconnect by this module and not by its event loop; a view's lifetimes are dates.
        with patch.object(nats_client, "time", loop), patch.object(lifetimes, "utc_now", loop.utc):
            yield
    finally:
        module_random.setstate(before)


def _end(loop: VirtualLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    try:
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class History:
    """The clients of one history, what they were told, and what is broken."""

    def __init__(self, seed: int, random: Random, replicas: int, traits: Traits) -> None:
        self.violations: list[Violation] = []
        self._seed = seed
        self._random = random
        self._replicas = replicas
        self._traits = traits
        self._record = Record(budget=random.choice([1.0, 3.0, 10.0]))
        self._truth = Truth([])
        self._world: World | None = None
        self._bucket = Bucket(
            BUCKET,
            history=random.choice([1, 2, 5]),
            ttl=timedelta(seconds=traits.lifetime) if traits.lifetime else None,
            replicas=replicas,
        )

    async def play(self, loop: VirtualLoop) -> None:
        """Let it happen, then check it."""
        random, record = self._random, self._record
        world = self._world = World(loop, random, nodes=self._replicas)
        world.conditions.page = random.choice([2, 100_000])
        world.conditions.window = random.choice([400, 32 * 1024 * 1024])
        timeout = timedelta(seconds=record.budget)
        nearest = self._traits.nearest
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(kvorm.connect(world.urls, reads="nearest" if nearest else "latest"))
                for _ in range(random.choice([2, 3]))
            ]
            # With the whole budget there is: some of these calls are no part of the history.
            repositories = [items(store, self._bucket, timeout) for store in stores]
            await stores[0].ensure(repositories[0])
            if not self._traits.batches:
                world.refuse_batches()
            clients = [Client(number, one, record, random, self._traits) for number, one in enumerate(repositories)]
            observers = [Observer(f"watch{number}", one, record, random) for number, one in enumerate(repositories[:2])]
            watching = [asyncio.create_task(observer.run()) for observer in observers]
            view = await stack.enter_async_context(repositories[-1].view())
            self._plan_faults(world)
            await asyncio.gather(*(client.act(random.randint(6, 12)) for client in clients))
            for observer in observers:
                observer.stay()
            await asyncio.sleep(_HEALING_SECONDS)
            world.heal()
            record.healed = loop.time()
            await asyncio.gather(*(client.finish() for client in clients))
            await self._write_last(repositories[0])
            await asyncio.sleep(_RECOVERY_SECONDS)
            await self._compare(view, world)
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
            self._truth = _truth(world)
        await self._look_for_leaks(world)
        self._check()

    def _plan_faults(self, world: World) -> None:
        faults = [world.cut, world.strand, world.slow_down, world.lose_messages, world.restart, world.drop_consumer]
        if self._replicas > 1:
            faults += [world.lose_leader, world.lose_leader, world.lag]
        for _ in range(self._random.randint(0, 5)):
            world.loop.call_later(self._random.uniform(0.05, _ACTIVE_SECONDS), self._random.choice(faults))
        if self._traits.made_anew is not None:
            world.loop.call_later(_ACTIVE_SECONDS / 2, world.make_anew, self._traits.made_anew)

    async def _write_last(self, repository: Repository[Item]) -> None:
        """Write one more key, which all watches have to come to."""
        last = Item(group="a", number=99, tag="last")
        client = Client(99, repository, self._record, self._random, self._traits)
        await client.save_new(last)

    async def _compare(self, view: View[Item], world: World) -> None:
        """Compare a view with what is stored, at this quiet moment."""
        log = world.jetstream.streams[f"KV_{BUCKET}"].log
        late, shown = "", dict[str, str]()
        try:
            async with asyncio.timeout(_RECOVERY_SECONDS):
                await view.wait_for(log.last_sequence)
            shown = {f"{one.group}.{one.number}": one.tag for one in view.values()}
        except Exception as error:
            late = repr(error)
        stored: dict[str, str] = {}
        for subject in log.subjects():
            last = log.last(subject)
            if last is not None and last.data:
                stored[subject.removeprefix(f"$KV.{BUCKET}.")] = json.loads(last.data)["tag"]
        self._record.views.append(Viewed(world.loop.time(), shown, stored, late))

    async def _look_for_leaks(self, world: World) -> None:
        await asyncio.sleep(_FORGETTING_SECONDS)
        left = self._record.left
        left += [f"consumer {name}" for name in world.jetstream.consumers_left()]
        left += [f"{one.left_behind} subscriptions" for one in world.nodes if one.left_behind]
        left += [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    def _check(self) -> None:
        record, truth = self._record, self._truth
        self.violations += check_writes(record, truth)
        self.violations += check_reads(record, truth)
        self.violations += check_watches(record, truth)
        self.violations += check_views(record)
        self.violations += check_errors(record)
        self.violations += check_leaks(record)

    def report(self) -> Report:
        """Return its figures."""
        calls = self._record.calls
        writes = [call for call in calls if call.kind in ("save", "delete", "purge")]
        return Report(
            histories=1,
            calls=len(calls),
            acknowledged=sum(call.outcome is Outcome.DONE for call in writes),
            unknown=sum(call.outcome is Outcome.UNKNOWN for call in writes),
            refused=sum(call.outcome is Outcome.REFUSED for call in writes),
            events=sum(isinstance(event.what, Seen) for watch in self._record.watches for event in watch.events),
            views=len(self._record.views),
            faults=dict(self._world.conditions.faults) if self._world is not None else {},
            violations=[(self._seed, violation) for violation in self.violations],
        )

    def told(self) -> list[str]:
        """Return all that happened, a line each, for whoever looks for the reason."""
        lines = [(call.start, str(call)) for call in self._record.calls]
        lines += [(one.at, f"stored: {one}") for one in self._truth.written()]
        for watch in self._record.watches:
            lines += [(event.at, f"{watch.name}: {event.what}") for event in watch.events]
        return [f"{at:.4f} {line}" for at, line in sorted(lines)]


def _truth(world: World) -> Truth:
    streams = [*world.jetstream.ended, *world.jetstream.streams.values()]
    return Truth([_life(one) for one in streams])


def _life(stream: SimulatedStream) -> Life:
    log = stream.log
    stored = [
        (
            one,
            _seconds(one.written),
            _seconds(log.removed_at[one.sequence]) if one.sequence in log.removed_at else NEVER,
        )
        for one in log.archive
    ]
    end = NEVER if stream.ended_at is None else stream.ended_at
    return Life(stream.created, stream.began_at, end, written(stored, f"$KV.{BUCKET}."))


def _seconds(moment: datetime) -> float:
    return (moment - _BEGINNING) / timedelta(seconds=1)
