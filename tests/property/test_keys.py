"""Keys on the wire, for whatever text, number or time somebody puts into them."""

from __future__ import annotations

import asyncio
import enum
import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import nats
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from nats.js import kv

from kvorm import ANY, Bucket, EncodeError, InvalidKeyError, Key, Model, NatsStore
from kvorm.keys import MAX_RAW_KEY_BYTES, matches
from kvorm.model import compile_model
from kvorm.testing.servers import NatsServer

ALLOWED = re.compile(r"[A-Za-z0-9_/=-]+(\.[A-Za-z0-9_/=-]+)*")


class Color(enum.Enum):
    RED = "r.e*d"
    NONE = ""
    FOUR = 4


class Note(Model, bucket="notes"):
    id: Key[str]


class Pair(Model, bucket="pairs"):
    a: Key[str]
    b: Key[str]


class Wide(Model, bucket="wide", prefix="shop.v1"):
    name: Key[str]
    number: Key[int]
    flag: Key[bool]
    id: Key[UUID]
    color: Key[Color]
    size: Key[Literal["s", ">", 1, False]]
    day: Key[date]
    at: Key[datetime]


NOTE, PAIR, WIDE = compile_model(Note), compile_model(Pair), compile_model(Wide)

hostile = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=".*>=_ \t\r\n/\\-$2EeFf50aé\x00\x7f\u2028😀", max_size=6),
    st.sampled_from(
        [".", "..", "*", ">", "=", "=2E", "_", "", "$KV.notes.x", "a.>", "é", "e\u0301", "\r\nPUB x 0\r\n"]
    ),
)
zones = st.one_of(
    st.just(UTC),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))),
    st.sampled_from(
        [ZoneInfo(name) for name in ("Europe/Berlin", "Asia/Kathmandu", "Africa/Monrovia", "Pacific/Apia")]
    ),
)
moments = st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1))
wide_keys = st.tuples(
    hostile,
    st.integers(),
    st.booleans(),
    st.uuids(),
    st.sampled_from(Color),
    st.sampled_from(["s", ">", 1, False]),
    st.dates(),
    moments,
)
# What a stranger may write into the bucket: anything that a NATS subject takes.
foreign_tokens = st.text(alphabet="=2eEfF5_0-/aA.C3", min_size=1, max_size=8).filter(
    lambda text: not text.startswith(".") and not text.endswith(".") and ".." not in text
)
here = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


# Before 2.10 nats-py took any key.
is_valid_for_nats_py: Callable[[str], object] = getattr(kv, "_is_key_valid", ALLOWED.fullmatch)


def in_utc(key: tuple[Any, ...]) -> tuple[Any, ...]:
    # Times with a fold are never equal to times of another zone (PEP 495), so all are compared in UTC.
    return tuple(value.astimezone(UTC) if isinstance(value, datetime) else value for value in key)


def typed(key: tuple[Any, ...]) -> tuple[Any, ...]:
    # True, 1 and 1.0 are equal.
    return tuple((type(value), value) for value in in_utc(key))


def raw_or_none(form: Callable[[tuple[Any, ...]], str], key: tuple[Any, ...]) -> str | None:
    try:
        return form(key)
    except InvalidKeyError as error:
        assert "at most 1024" in str(error) or "outside the years" in str(error)
        return None


# Raw keys


@given(st.text(max_size=30) | hostile)
@example("x" * MAX_RAW_KEY_BYTES)
@here
def test_any_text_is_one_plain_token(text: str) -> None:
    raw_key = NOTE.raw_key((text,), {})
    assert ALLOWED.fullmatch(raw_key)
    assert "." not in raw_key
    assert not raw_key.startswith("_")
    assert is_valid_for_nats_py(raw_key)
    assert NOTE.key(raw_key) == (text,)


@given(wide_keys)
@here
def test_a_key_comes_back_as_it_was(key: tuple[Any, ...]) -> None:
    raw_key = raw_or_none(lambda key: WIDE.raw_key(key, {}), key)
    assume(raw_key is not None)
    assert raw_key is not None
    assert ALLOWED.fullmatch(raw_key)
    assert is_valid_for_nats_py(raw_key)
    assert raw_key.startswith("shop.v1.")
    assert raw_key.count(".") == len(key) + 1
    found = WIDE.key(raw_key)
    assert found is not None
    assert typed(found) == typed(key)
    assert WIDE.raw_key(found, {}) == raw_key


@given(st.lists(st.tuples(hostile, hostile), min_size=2, max_size=8, unique=True))
@here
def test_different_keys_have_different_raw_keys(keys: list[tuple[str, str]]) -> None:
    raw_keys = [PAIR.raw_key(key, {}) for key in keys]
    assert len(set(raw_keys)) == len(keys)


@given(wide_keys, wide_keys, st.lists(st.booleans(), min_size=8, max_size=8))
@here
def test_keys_that_differ_in_some_fields_have_different_raw_keys(
    one: tuple[Any, ...], two: tuple[Any, ...], taken: list[bool]
) -> None:
    other = tuple(b if take else a for a, b, take in zip(one, two, taken, strict=True))
    raw_one, raw_other = (raw_or_none(lambda key: WIDE.raw_key(key, {}), key) for key in (one, other))
    assume(raw_one is not None and raw_other is not None)
    assert (raw_one == raw_other) == (typed(one) == typed(other))


@given(st.one_of(foreign_tokens, st.tuples(foreign_tokens, foreign_tokens).map(".".join)))
@example("=2e")
@example("=")
@example("=.=")
@example("_.a")
@example("=5f.a")
@example("=5F.a")
@example("a.=5F")
@example("=C0=AE")
@example("=ED=A0=80")
@here
def test_a_raw_key_of_others_is_a_key_only_if_it_is_ours(raw_key: str) -> None:
    for mapping in (NOTE, PAIR):
        key = mapping.key(raw_key)
        if key is not None:
            assert mapping.raw_key(key, {}) == raw_key
            assert not raw_key.startswith("_")


@given(wide_keys, st.integers(0, 10), st.data())
@here
def test_another_writing_of_a_token_is_no_key(key: tuple[Any, ...], at: int, data: st.DataObject) -> None:
    raw_key = raw_or_none(lambda key: WIDE.raw_key(key, {}), key)
    assume(raw_key is not None)
    assert raw_key is not None
    spots = [match.span() for match in re.finditer(r"=[0-9A-F]{2}|[A-Za-z0-9_/-]", raw_key) if match.start() >= 8]
    start, end = spots[at % len(spots)]
    piece = raw_key[start:end]
    escaped = f"={ord(piece):02X}" if len(piece) == 1 else piece.lower()
    other = raw_key[:start] + escaped + raw_key[end:]
    assume(other != raw_key)
    assert WIDE.key(other) is None


@given(wide_keys, st.sampled_from(["0", "+", "-", " ", "=20", "_", ".", "=", "1"]), st.integers(0, 200))
@here
def test_something_put_in_between_is_no_key_or_another_one(key: tuple[Any, ...], more: str, at: int) -> None:
    raw_key = raw_or_none(lambda key: WIDE.raw_key(key, {}), key)
    assume(raw_key is not None)
    assert raw_key is not None
    at %= len(raw_key) + 1
    other = raw_key[:at] + more + raw_key[at:]
    found = WIDE.key(other)
    assert found is None or (WIDE.raw_key(found, {}) == other and typed(found) != typed(key))


@given(st.text(alphabet=st.characters(categories=["Cs"]), min_size=1, max_size=2))
@here
def test_text_without_a_utf8_form_is_no_key(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        NOTE.raw_key((text,), {})


# Filters


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [subset for size in range(len(names) + 1) for subset in itertools.combinations(names, size)]


@given(st.lists(st.tuples(hostile, hostile), min_size=1, max_size=8), hostile, hostile)
@here
def test_a_filter_matches_the_keys_with_its_values_alone(keys: list[tuple[str, str]], a: str, b: str) -> None:
    for values in ({}, {"a": a}, {"b": b}, {"a": a, "b": b}, {"a": keys[0][0]}, {"b": keys[0][1]}):
        subject_filter = PAIR.filter(values)
        for key in [*keys, (a, b)]:
            wanted = all(dict(zip("ab", key, strict=True))[name] == value for name, value in values.items())
            assert matches(subject_filter, PAIR.raw_key(key, {})) == wanted


# On a server


class Thing(Model, bucket=Bucket("things", history=1, storage="memory"), prefix="thing"):
    tenant: Key[str]
    number: Key[int]
    color: Key[Color]
    at: Key[datetime]


things = st.builds(
    lambda tenant, number, color, at: Thing(tenant=tenant, number=number, color=color, at=at),
    hostile,
    st.integers(-3, 3) | st.integers(),
    st.sampled_from(Color),
    st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))])
    | moments,
)
names = itertools.count()


async def check_on_a_server(url: str, wanted: list[Thing], strangers: list[str]) -> None:
    client = await nats.connect(url)
    try:
        async with NatsStore(client) as store:
            repository = store.repository(Thing, bucket=f"things-{next(names)}")
            await store.ensure(repository)
            bucket = await client.jetstream().key_value(repository.bucket.name)
            for raw_key in strangers:
                # `>` at the end of a prefix, `_` at the beginning: whatever stands beside our keys.
                await bucket.put(raw_key, b"stranger")
            stored: dict[str, tuple[Any, ...]] = {}
            for thing in wanted:
                try:
                    await repository.save(thing, expect=ANY)
                except (InvalidKeyError, EncodeError):
                    continue  # outside the years, or in a zone with seconds, which JSON does not have
                raw_key = (await repository.entry(*key_of(thing))).raw_key
                assert (await bucket.get(raw_key)).value is not None
                stored[raw_key] = in_utc(key_of(thing))
            fields = ("tenant", "number", "color", "at")
            for subset, key in itertools.product(subsets(fields), list(stored.values())[:3]):
                values = {name: value for name, value in zip(fields, key, strict=True) if name in subset}
                expected = [key for key in stored.values() if has(dict(zip(fields, key, strict=True)), values)]
                found = [in_utc(key) async for key in repository.keys(**values)]
                assert sorted(found, key=repr) == sorted(expected, key=repr)
                assert await repository.count(**values) == len(expected)
            await client.jetstream().delete_stream(f"KV_{repository.bucket.name}")
    finally:
        await client.close()


def key_of(thing: Thing) -> tuple[Any, ...]:
    return thing.tenant, thing.number, thing.color, thing.at


def has(fields: Mapping[str, object], values: Mapping[str, object]) -> bool:
    return all(fields[name] == value for name, value in values.items())


@given(
    st.lists(things, min_size=1, max_size=12),
    st.lists(st.sampled_from(["_x", "thing", "thing.a.1.r.x.y", "thing.a.01.=.x", "other.a.1.=.x"]), max_size=3),
)
@settings(here, max_examples=25)
def test_a_server_takes_every_key_and_filters_as_we_do(
    nats_server: NatsServer, wanted: list[Thing], strangers: list[str]
) -> None:
    asyncio.run(check_on_a_server(nats_server.url, wanted, strangers))
