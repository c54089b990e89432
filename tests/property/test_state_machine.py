"""Memory and a real server do the same as a plain dict, whatever is asked of them in whatever order.

`KVORM_STATE_MACHINE_EXAMPLES=2000 pytest tests/property/test_state_machine.py` looks longer; 200 is the default.
"""

from __future__ import annotations

import asyncio
import copy
import faulthandler
import itertools
import json
import os
import pickle
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import nats
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from nats.aio.client import Client
from pydantic import ConfigDict

from kvorm import (
    ABSENT,
    ANY,
    Bucket,
    CaughtUp,
    Entry,
    Key,
    KvormError,
    Marker,
    MemoryStore,
    Model,
    NatsStore,
    Repository,
    revision_of,
)
from kvorm.testing.servers import NatsServer
from tests.property.oracle import Oracle, Refused, Twin

EXAMPLES = int(os.environ.get("KVORM_STATE_MACHINE_EXAMPLES", "200"))
STEPS = 40
HISTORY = 3
TTL = timedelta(seconds=30)

T = TypeVar("T")


class Item(Model, bucket=Bucket("items", history=HISTORY)):
    # The two settings with which Pydantic would turn a stamp into an extra field.
    model_config = ConfigDict(extra="allow", validate_assignment=True)

    tenant: Key[str]
    number: Key[int]
    text: str = ""
    amount: int = 0


class ShortLived(Item, bucket=Bucket("items", history=HISTORY, ttl=TTL)):
    pass


RAW_KEYS = {
    ("acme", 1): "acme.1",
    ("acme", -2): "acme.-2",
    ("a.b", 1): "a=2Eb.1",
    ("*", 1): "=2A.1",
    (">", 7): "=3E.7",
    ("", 1): "=.1",
    ("_x", 1): "=5Fx.1",
    ("é", 10**20): "=C3=A9.100000000000000000000",
}
NO_KEYS = [
    "_x.1",
    "_kvorm",
    "acme",
    "acme.1.1",
    "acme.01",
    "acme.+1",
    "acme.-0",
    "a=2eb.1",
    "acme.=31",
    "==.1",
    "acme.x",
]

# Often the same few, so that much happens to each.
keys = st.sampled_from(list(RAW_KEYS)[:2]) | st.sampled_from(list(RAW_KEYS))
texts = st.text(max_size=6)
amounts = st.integers()
wanted = st.dictionaries(st.integers(0, 1), keys, max_size=2).map(
    lambda chosen: {position: key[position] for position, key in chosen.items()}
)
whiches = st.integers(0, 9)
marks = st.sampled_from(["deleted", "purged"])
expectations = st.sampled_from(["stamp"] * 4 + ["any", "absent", "revision"])

Told = Any


class Side(Protocol):
    """A store under test, and the hand of another client on its bucket."""

    repository: Repository[Item]

    async def write(self, raw_key: str, data: bytes, headers: Mapping[str, str]) -> int: ...

    async def drop(self) -> None: ...

    async def ensure(self) -> None: ...

    async def close(self) -> None: ...

    def check_written(self, written: list[datetime], expected: list[datetime]) -> None: ...


class MemorySide:
    def __init__(self, model: type[Item], bucket: str, clock: Callable[[], datetime]) -> None:
        self._store = MemoryStore(clock=clock)
        self.repository = self._store.repository(model, bucket=bucket)

    async def write(self, raw_key: str, data: bytes, headers: Mapping[str, str]) -> int:
        stored = self._store.server.find(self.repository.bucket.name)
        revision = stored.log.append(raw_key, data, headers)
        stored.announce()
        return revision

    async def drop(self) -> None:
        self._store.server.delete(self.repository.bucket.name)

    async def ensure(self) -> None:
        await self._store.ensure(self.repository)

    async def close(self) -> None:
        await self._store.close()

    def check_written(self, written: list[datetime], expected: list[datetime]) -> None:
        assert written == expected


class ServerSide:
    def __init__(self, model: type[Item], bucket: str, client: Client) -> None:
        self._client = client
        self._store = NatsStore(client)
        self.repository = self._store.repository(model, bucket=bucket)

    async def write(self, raw_key: str, data: bytes, headers: Mapping[str, str]) -> int:
        subject = f"$KV.{self.repository.bucket.name}.{raw_key}"
        answer = await self._client.jetstream().publish(subject, data, headers=dict(headers) or None)
        return answer.seq

    async def drop(self) -> None:
        await self._client.jetstream().delete_stream(f"KV_{self.repository.bucket.name}")

    async def ensure(self) -> None:
        while True:
            await self._store.ensure(self.repository)
            stream = await self._client.jetstream().stream_info(f"KV_{self.repository.bucket.name}")
            if stream.state.last_seq == 0:
                return
            # nats-server 2.15 deletes a stream's files a moment after it said so: of 12,000 streams made anew at once
            # 16 had their old messages again.
            await self.drop()

    async def close(self) -> None:
        await self.drop()
        await self._store.close()

    def check_written(self, written: list[datetime], expected: list[datetime]) -> None:
        assert len(written) == len(expected)
        assert written == sorted(written)
        assert all(abs(datetime.now(UTC) - one) < timedelta(minutes=1) for one in written)


@dataclass
class Objects:
    """One object as it should be, and as each store has it."""

    twin: Twin
    of: list[Item]

    @property
    def key(self) -> tuple[Any, ...]:
        return self.twin.value["tenant"], self.twin.value["number"]


class StoresBesideADict(RuleBasedStateMachine):
    """The sides and the oracle, and how to ask all of them the same."""

    objects = Bundle("objects")
    names = itertools.count()

    def __init__(
        self, run: Callable[[Coroutine[Any, Any, Any]], Any], model: type[Item], client: Client | None
    ) -> None:
        super().__init__()
        self.run = run
        self.model = model
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.bucket = f"items-{next(self.names)}"
        self.sides: list[Side] = [MemorySide(model, self.bucket, lambda: self.now)]
        if client is not None:
            self.sides.append(ServerSide(model, self.bucket, client))
        ttl = self.sides[0].repository.bucket.ttl
        self.oracle = Oracle(RAW_KEYS, HISTORY, ttl=ttl, marker_ttl=ttl)
        self.begun = False
        self.diverged = False

    # How to compare

    def pass_time(self, seconds: int = 1) -> None:
        self.now += timedelta(seconds=seconds)
        self.oracle.expire(self.now)

    def ask(self, predict: Callable[[], T], act: Callable[[Side, int], Awaitable[Any]]) -> tuple[T | None, list[Any]]:
        """Let every side act and compare what comes of it; return what was predicted, and the answers."""
        self.pass_time()
        predicted: T | None = None
        try:
            predicted = predict()
            expected = self.told(predicted)
        except Refused as refused:
            expected = refused.told
        answers = [self.run(self.outcome(act(side, number))) for number, side in enumerate(self.sides)]
        for side, answer in zip(self.sides, answers, strict=True):
            told = self.told(answer)
            self.diverged = self.diverged or told != expected
            assert told == expected, type(side).__name__
        return predicted, answers

    async def outcome(self, acting: Awaitable[Any]) -> Any:
        try:
            return await acting
        except (KvormError, ValueError, ZeroDivisionError) as error:
            return error

    def told(self, answer: object) -> Told:
        """Return an answer or an error as the oracle tells it."""
        match answer:
            case Item():
                return ("Item", answer.model_dump(), revision_of(answer))
            case Twin():
                return ("Item", answer.value, answer.revision)
            case Entry():
                assert (answer.bucket, revision_of(answer.value)) == (self.bucket, answer.revision)
                return ("Entry", answer.value.model_dump(), answer.revision, answer.key, answer.raw_key)
            case Marker():
                assert answer.bucket == self.bucket
                return ("Marker", answer.reason, answer.revision, answer.key, answer.raw_key)
            case Exception():
                # Messages are for people, and buckets have one name here.
                attributes = {name: self.told(value) for name, value in vars(answer).items() if name != "reason"}
                assert attributes.pop("bucket", self.bucket) == self.bucket
                return (type(answer).__name__, attributes)
            case list():
                return [self.told(one) for one in answer]
            case _:
                return "absent" if answer is ABSENT else answer

    def check(self, objects: Objects) -> None:
        for item in objects.of:
            assert self.told(item) == self.told(objects.twin)

    def read(self, twin: Twin | None, answers: list[Any]) -> Any:
        """Return the objects that were read, for the bundle; nothing if there are none."""
        return multiple() if twin is None else Objects(twin, answers)

    def revision(self, key: tuple[Any, ...], which: int) -> int:
        """Return a revision that is often one of the key, sometimes another, and sometimes none at all."""
        own = [change.revision for change in self.oracle.kept.get(RAW_KEYS[key], [])]
        return own[which % len(own)] if own and which < 6 else max(1, self.oracle.last + 7 - which)

    # Objects come and change

    @initialize(target=objects, key=keys)
    def first(self, key: tuple[Any, ...]) -> Objects:
        self.run(self.each(lambda side: side.ensure()))
        self.begun = True
        return self.made(key, "", 0)

    @rule(target=objects, key=keys, text=texts, amount=amounts)
    def made(self, key: tuple[Any, ...], text: str, amount: int) -> Objects:
        value = {"tenant": key[0], "number": key[1], "text": text, "amount": amount}
        return Objects(Twin(value), [self.model.model_validate(value) for _ in self.sides])

    @rule(objects=objects, text=texts, amount=amounts)
    def assigned(self, objects: Objects, text: str, amount: int) -> None:
        for item in objects.of:
            item.text = text
            item.amount = amount
        objects.twin.value |= {"text": text, "amount": amount}
        self.check(objects)

    @rule(objects=objects, key=keys)
    def moved(self, objects: Objects, key: tuple[Any, ...]) -> None:
        for item in objects.of:
            item.tenant, item.number = key
        objects.twin.value |= {"tenant": key[0], "number": key[1]}
        self.check(objects)

    @rule(target=objects, objects=objects, how=st.sampled_from(["copy", "deepcopy", "model_copy", "pickle"]))
    def copied(self, objects: Objects, how: str) -> Objects:
        copier: Callable[[Item], Item] = {
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
            "model_copy": lambda item: item.model_copy(),
            "pickle": lambda item: pickle.loads(pickle.dumps(item)),
        }[how]
        copies = Objects(copy.deepcopy(objects.twin), [copier(item) for item in objects.of])
        self.check(copies)
        return copies

    @rule(target=objects, objects=objects)
    def parsed_again(self, objects: Objects) -> Objects:
        parsed = [self.model.model_validate_json(item.model_dump_json()) for item in objects.of]
        return Objects(Twin(dict(objects.twin.value)), parsed)

    # Reads

    @rule(target=objects, key=keys, which=whiches, latest=st.booleans(), named=st.booleans())
    def got(self, key: tuple[Any, ...], which: int, latest: bool, named: bool) -> Any:
        if named:
            fields = {"tenant": key[0], "number": str(key[1])}
            return self.read(*self.ask(lambda: self.oracle.read(key), lambda side, _: side.repository.get(**fields)))
        if latest:
            return self.read(*self.ask(lambda: self.oracle.read(key), lambda side, _: side.repository.get(*key)))
        revision = self.revision(key, which)
        return self.read(
            *self.ask(
                lambda: self.oracle.read_revision(key, revision),
                lambda side, _: side.repository.get(*key, revision=revision),
            )
        )

    @rule(key=keys)
    def told_of_one_key(self, key: tuple[Any, ...]) -> None:
        self.ask(lambda: self.oracle.entry(key), lambda side, _: side.repository.entry(*key))
        self.ask(lambda: self.oracle.exists(key), lambda side, _: side.repository.exists(*key))
        self.ask(
            lambda: self.oracle.read(key) if self.oracle.exists(key) else None,
            lambda side, _: side.repository.get_or_none(*key),
        )

    @rule(key=keys, skip=st.booleans())
    def history(self, key: tuple[Any, ...], skip: bool) -> None:
        left_out: list[list[Any]] = [[] for _ in self.sides]
        _, answers = self.ask(
            lambda: self.oracle.all_changes(key, skip=skip),
            lambda side, number: side.repository.history(*key, on_invalid=left_out[number].append if skip else "raise"),
        )
        kept = self.oracle.kept.get(RAW_KEYS[key], [])
        invalid = [change.revision for change in kept if change.live and change.value is None]
        for side, answer, errors in zip(self.sides, answers, left_out, strict=True):
            assert [error.revision for error in errors] == (invalid if skip else [])
            if isinstance(answer, list):
                expected = [change.written for change in kept if not change.live or change.value is not None]
                side.check_written([change.written for change in answer], expected)

    @rule(asked=st.lists(keys, max_size=10))
    def get_many(self, asked: list[tuple[Any, ...]]) -> None:
        invalid = self.oracle.invalid(asked)
        readable = [key for key in asked if RAW_KEYS[key] not in {change.raw_key for change in invalid}]
        self.ask(
            lambda: [self.oracle.read(key) if self.oracle.exists(key) else None for key in asked],
            lambda side, _: side.repository.get_many(asked),
        )
        self.ask(
            lambda: [self.oracle.read(key) if key in readable and self.oracle.exists(key) else None for key in asked],
            lambda side, _: side.repository.get_many(asked, on_invalid=lambda _: None),
        )

    @rule(wanted=wanted)
    def listed(self, wanted: dict[int, Any]) -> None:
        fields = {("tenant", "number")[position]: value for position, value in wanted.items()}

        async def found(side: Side) -> list[Any]:
            errors: list[Any] = []
            values = [item async for item in side.repository.find(on_invalid=errors.append, **fields)]
            return [sorted(values, key=RAW_KEYS_OF), sorted(error.key for error in errors)]

        async def found_keys(side: Side) -> list[Any]:
            return sorted([key async for key in side.repository.keys(**fields)])

        def predicted() -> list[Any]:
            matching = self.oracle.matching(wanted)
            invalid = sorted(change.raw_key for change in self.oracle.invalid(matching))
            valid = [self.oracle.read(key) for key in matching if RAW_KEYS[key] not in invalid]
            return [sorted(valid, key=lambda twin: twin.stamp[1] if twin.stamp else ""), invalid]

        self.ask(predicted, lambda side, _: found(side))
        self.ask(lambda: sorted(self.oracle.matching(wanted)), lambda side, _: found_keys(side))
        self.ask(lambda: len(self.oracle.matching(wanted)), lambda side, _: side.repository.count(**fields))

    # Writes

    @rule(objects=objects, expect=expectations, which=whiches)
    def saved(self, objects: Objects, expect: str, which: int) -> None:
        revision = self.revision(objects.key, which)
        self.ask(
            lambda: self.oracle.save(
                objects.twin, objects.key, self.now, lambda _: b"", revision if expect == "revision" else expect
            ),
            lambda side, number: (
                side.repository.save(objects.of[number])
                if expect == "stamp"
                else side.repository.save(
                    objects.of[number], expect={"any": ANY, "absent": ABSENT}.get(expect, revision)
                )
            ),
        )
        self.check(objects)

    @rule(objects=objects)
    def refused_before_sending(self, objects: Objects) -> None:
        def refused(error: str, **attributes: object) -> Callable[[], None]:
            def predict() -> None:
                raise Refused(error, **attributes)

            return predict

        bent = [item.model_copy(update={"amount": "much"}) for item in objects.of]
        self.ask(
            refused("EncodeError", key=RAW_KEYS[objects.key]), lambda side, number: side.repository.save(bent[number])
        )
        for expect in (0, -1, None, True, "any"):
            self.ask(
                refused("ValueError"), lambda side, n, expect=expect: side.repository.save(objects.of[n], expect=expect)
            )
        self.ask(refused("ValueError"), lambda side, _: side.repository.get(*objects.key, revision=0))
        self.check(objects)

    @rule(target=objects, objects=objects)
    def got_or_created(self, objects: Objects) -> Any:
        key = objects.key

        def predict() -> Twin:
            if self.oracle.exists(key):
                return self.oracle.read(key)
            self.oracle.save(objects.twin, key, self.now, lambda _: b"", "absent")
            return copy.deepcopy(objects.twin)

        twin, answers = self.ask(predict, lambda side, number: side.repository.get_or_create(objects.of[number]))
        self.check(objects)
        # What was created is the same object: a copy keeps the bundle free of aliases.
        return self.read(twin, [copy.deepcopy(answer) for answer in answers])

    @rule(objects=objects, reason=marks)
    def object_erased(self, objects: Objects, reason: str) -> None:
        self.ask(
            lambda: self.oracle.mark_object(objects.twin, objects.key, self.now, reason),
            lambda side, number: erase(side.repository, reason, objects.of[number]),
        )
        self.check(objects)

    @rule(key=keys, reason=marks)
    def key_erased(self, key: tuple[Any, ...], reason: str) -> None:
        self.ask(
            lambda: self.oracle.mark_key(key, self.now, reason), lambda side, _: erase(side.repository, reason, *key)
        )

    @rule(key=keys, which=whiches)
    def restored(self, key: tuple[Any, ...], which: int) -> None:
        revision = self.revision(key, which)
        self.ask(
            lambda: self.oracle.restore(key, revision, self.now),
            lambda side, _: side.repository.restore(*key, revision=revision),
        )

    @rule(
        target=objects,
        key=keys,
        how=st.sampled_from(["copies", "in place", "awaits", "raises", "moves", "is overtaken", "loses it"]),
        text=texts,
    )
    def updated(self, key: tuple[Any, ...], how: str, text: str) -> Any:
        def predict() -> Twin:
            twin = self.oracle.read(key)
            if how == "raises":
                raise Refused("ZeroDivisionError")
            if how == "moves":
                raise Refused("InvalidKeyError", key=("elsewhere", key[1]))
            if how == "is overtaken":
                value = self.value(key, "overtaken", 5)
                self.oracle.write(RAW_KEYS[key], self.now, json.dumps(value).encode(), value)
                twin = self.oracle.read(key)
            if how == "loses it":
                self.oracle.mark(RAW_KEYS[key], self.now, "deleted")
                self.oracle.read(key)
            twin.value |= {"text": text, "amount": twin.value["amount"] + 1}
            self.oracle.save(twin, key, self.now, lambda _: b"", "stamp")
            return twin

        def apply(side: Side) -> Callable[[Item], Any]:
            tries = itertools.count()

            def changed(item: Item) -> Item | None:
                if how == "raises":
                    raise ZeroDivisionError
                change: dict[str, Any] = {"text": text, "amount": item.amount + 1}
                if how == "in place":
                    item.text, item.amount = change["text"], change["amount"]
                    return None
                return item.model_copy(update=change | {"tenant": "elsewhere"} if how == "moves" else change)

            async def slowly(item: Item) -> Item | None:
                if next(tries) == 0 and how == "is overtaken":
                    await side.write(RAW_KEYS[key], json.dumps(self.value(key, "overtaken", 5)).encode(), {})
                if how == "loses it":
                    await side.write(RAW_KEYS[key], b"", {"KV-Operation": "DEL"})
                await asyncio.sleep(0)
                return changed(item)

            return slowly if how in ("awaits", "is overtaken", "loses it") else changed

        twin, answers = self.ask(predict, lambda side, _: side.repository.update(*key, apply=apply(side)))
        return self.read(twin, answers)

    # What other clients do

    def value(self, key: tuple[Any, ...], text: str, amount: int) -> dict[str, Any]:
        return {"tenant": key[0], "number": key[1], "text": text, "amount": amount}

    @rule(key=keys, text=texts, headers=st.sampled_from([{}, {"Kvorm-Schema": "1"}, {"X-Trace": "y"}]))
    def written_by_others(self, key: tuple[Any, ...], text: str, headers: dict[str, str]) -> None:
        value = self.value(key, text, 1) | {"more": [1]}
        data = json.dumps(value, indent=1).encode()
        self.ask(
            lambda: self.oracle.write(RAW_KEYS[key], self.now, data, value),
            lambda side, _: side.write(RAW_KEYS[key], data, headers),
        )

    @rule(key=keys, kind=st.sampled_from(["empty", "no JSON", "null", "another key", "codec", "schema", "wrong"]))
    def spoilt_by_others(self, key: tuple[Any, ...], kind: str) -> None:
        good = json.dumps(self.value(key, "", 0)).encode()
        data = {
            "empty": b"",
            "no JSON": b"{\xff",
            "null": b"null",
            "another key": json.dumps(self.value(("other", 1), "", 0)).encode(),
            "wrong": b'{"tenant": 1}',
        }.get(kind, good)
        headers = {"codec": {"Kvorm-Codec": "rot13"}, "schema": {"Kvorm-Schema": "2"}}.get(kind, {})
        self.ask(
            lambda: self.oracle.write(RAW_KEYS[key], self.now, data, None),
            lambda side, _: side.write(RAW_KEYS[key], data, headers),
        )

    @rule(key=keys, reason=marks)
    def erased_by_others(self, key: tuple[Any, ...], reason: str) -> None:
        headers = {"deleted": {"KV-Operation": "DEL"}, "purged": {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}}
        self.ask(
            lambda: self.oracle.mark(RAW_KEYS[key], self.now, reason),
            lambda side, _: side.write(RAW_KEYS[key], b"", headers[reason]),
        )

    @rule(raw_key=st.sampled_from(NO_KEYS))
    def written_elsewhere(self, raw_key: str) -> None:
        self.ask(
            lambda: self.oracle.write(raw_key, self.now, b"{}", None), lambda side, _: side.write(raw_key, b"{}", {})
        )

    @rule()
    def made_anew(self) -> None:
        def gone() -> None:
            raise Refused("BucketNotFoundError")

        self.run(self.each(lambda side: side.drop()))
        self.ask(gone, lambda side, _: side.repository.exists("acme", 1))
        self.run(self.each(lambda side: side.ensure()))
        self.oracle.begin_another_life()

    # All in all

    async def each(self, act: Callable[[Side], Awaitable[None]]) -> None:
        for side in self.sides:
            await act(side)

    def check_all(self) -> None:
        """Compare everything that is kept: each history, and the whole bucket as a watch replays it."""
        for key in RAW_KEYS:
            self.history(key, skip=True)
        self.listed({})
        self.ask(
            lambda: sorted(
                (told for key in RAW_KEYS for told in self.oracle.all_changes(key, skip=True)), key=lambda told: told[2]
            ),
            lambda side, _: replayed(side.repository),
        )

    def teardown(self) -> None:
        if not self.begun:
            return
        try:
            if not self.diverged:
                self.check_all()
        finally:
            self.run(self.each(lambda side: side.close()))


class MemoryInTime(StoresBesideADict):
    """Memory alone, where time is set by hand and entries expire."""

    def pass_time(self, seconds: int = 1) -> None:
        super().pass_time(seconds)
        # Memory notices at its next use that time has passed.
        self.run(self.outcome(self.sides[0].repository.exists("acme", 1)))

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.pass_time(seconds)


def RAW_KEYS_OF(item: Item) -> str:  # noqa: N802
    return RAW_KEYS[item.tenant, item.number]


def erase(repository: Repository[Item], reason: str, *key: object) -> Coroutine[Any, Any, int]:
    return repository.delete(*key) if reason == "deleted" else repository.purge(*key)


async def replayed(repository: Repository[Item]) -> list[Any]:
    changes: list[Any] = []
    async with repository.watch(history=True, on_invalid=lambda _: None) as events:
        async for event in events:
            if isinstance(event, CaughtUp):
                break
            changes.append(event)
    return changes


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def explore(machine: Callable[[], RuleBasedStateMachine]) -> None:
    # A failure is shrunk for up to five minutes, and a long look takes its time.
    faulthandler.dump_traceback_later(600 + EXAMPLES, exit=True)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


def test_memory_and_a_server_do_as_a_dict_does(nats_server: NatsServer, runner: asyncio.Runner) -> None:
    client = runner.run(nats.connect(nats_server.url))
    try:
        explore(lambda: StoresBesideADict(runner.run, Item, client))
    finally:
        runner.run(client.close())


def test_memory_does_as_a_dict_with_lifetimes_does(runner: asyncio.Runner) -> None:
    explore(lambda: MemoryInTime(runner.run, ShortLived, None))
