"""R7 and R8: bytes that are no value of the model, keys that are none of its keys."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from kvorm.entry import ANY, CaughtUp, Entry, Marker
from kvorm.errors import DecodeError, KeyNotFoundError
from kvorm.model import Key, Mapping, Model
from kvorm.repository import Repository
from kvorm.testing.contract.harness import Attempt, Harness, listed, raises
from kvorm.testing.contract.models import Note, new_bucket, new_notes, new_orders
from kvorm.testing.contract.watching import until_caught_up


async def r7_invalid_bytes_never_come_back_as_something_else(harness: Harness) -> None:
    """A DecodeError with bucket, key, revision and data on every read; the key exists and can be mended."""
    notes = await new_notes(harness)
    await notes.save(Note(id="a", text="valid"))
    bads = [
        b"",
        b"no json",
        b"[]",
        b"null",
        b'{"text": "no id"}',
        b'{"id": "a", "text": 5}',
        b'{"id": "a"',
        b"\xff\xfe",
    ]
    # Valid, but of another key.
    bads += [b'{"id": "b"}', b'{"id": "A"}']
    for bad in bads:
        revision = await harness.write(notes.bucket.name, "a", bad)
        attempts: list[Attempt] = [
            lambda: notes.get("a"),
            lambda: notes.get_or_none("a"),
            lambda: notes.entry("a"),
            partial(notes.get, "a", revision=revision),
            lambda: notes.get_many([("a",)]),
            lambda: notes.history("a"),
            lambda: anext(notes.find()),
            lambda: until_caught_up(notes.watch()),
            lambda: notes.get_or_create(Note(id="a")),
            lambda: notes.update("a", apply=lambda note: note),
        ]
        for attempt in attempts:
            with raises(DecodeError) as raised:
                await attempt()
            error = raised.error
            assert (error.bucket, error.key, error.revision, error.data) == (notes.bucket.name, "a", revision, bad)
            assert error.reason
        assert await notes.exists("a")
        assert await listed(notes.keys()) == [("a",)]
        assert await notes.count() == 1
    await notes.save(Note(id="a", text="mended"), expect=ANY)
    assert (await notes.get("a")).text == "mended"
    await harness.write(notes.bucket.name, "a", b"no json")
    await notes.delete("a")
    assert await notes.get_or_none("a") is None


async def r7_invalid_bytes_hide_nobody_else(harness: Harness) -> None:
    """With `on_invalid` lists, histories and watches go on; a function gets each DecodeError."""
    notes = await new_notes(harness, history=3)
    await notes.save_many([Note(id="a"), Note(id="b"), Note(id="c")])
    await harness.write(notes.bucket.name, "b", b"no json")
    await harness.write(notes.bucket.name, "d", b'{"id": "e"}')
    told: list[DecodeError] = []
    for on_invalid in ("skip", told.append):
        assert sorted([note.id async for note in notes.find(on_invalid=on_invalid)]) == ["a", "c"]
        many = await notes.get_many([("a",), ("b",), ("c",), ("d",)], on_invalid=on_invalid)
        assert many == [Note(id="a"), None, Note(id="c"), None]
        assert [event.key for event in await notes.history("b", on_invalid=on_invalid)] == [("b",)]
        events = await until_caught_up(notes.watch(on_invalid=on_invalid))
        # In the order in which they were stored, which save_many leaves open.
        keys = sorted(event.key for event in events if isinstance(event, Entry))
        if harness.replicas and ("b",) in keys:
            keys.remove(("b",))  # a replica that lags still has the valid one
        assert keys == [("a",), ("c",)]
        assert isinstance(events[-1], CaughtUp)
    assert sorted(error.key for error in told) == ["b"] * 4 + ["d"] * 3
    assert sorted(await listed(notes.keys())) == [("a",), ("b",), ("c",), ("d",)]


async def r7_other_codecs_and_schemas_are_invalid(harness: Harness) -> None:
    """A value that says it is encoded otherwise, or of a higher schema, is a DecodeError though its bytes look fine."""
    notes = await new_notes(harness)
    name, text = notes.bucket.name, '{"id":"%s","text":"as if"}'
    await notes.count()

    async def found(id: str) -> Note:
        return await anext(notes.find(id=id))

    async def watched(id: str) -> object:
        return await until_caught_up(notes.watch(id=id))

    for id, headers in {
        "a": {"Kvorm-Codec": "msgpack"},
        "b": {"Kvorm-Schema": "2"},
        "c": {"Kvorm-Codec": "json+zstd", "Kvorm-Schema": "1"},
    }.items():
        data = (text % id).encode()
        revision = await harness.write(name, id, data, headers)
        attempts: list[Attempt] = [
            partial(notes.get, id),
            partial(notes.get, id, revision=revision),
            partial(notes.get_many, [(id,)]),
            partial(notes.history, id),
            partial(found, id),
            partial(watched, id),
            partial(notes.restore, id, revision=revision),
        ]
        for attempt in attempts:
            with raises(DecodeError) as raised:
                await attempt()
            assert (raised.error.key, raised.error.revision, raised.error.data) == (id, revision, data)
    await harness.write(name, "a", (text % "a").encode(), {"Kvorm-Schema": "1", "Someones-Header": "x"})
    assert (await notes.get("a")).text == "as if"


async def r8_foreign_keys_count_if_they_are_canonical(harness: Harness) -> None:
    """A raw key of another client is the model's exactly if it decodes, and encodes back to itself."""
    orders = await new_orders(harness, history=2)
    name = orders.bucket.name
    await orders.count()
    for raw_key, tenant, id in (("acme.1", "acme", 1), ("a=2Eb.-2", "a.b", -2), ("=.0", "", 0), ("a/b_.3", "a/b_", 3)):
        await harness.write(name, raw_key, json.dumps({"tenant": tenant, "id": id}).encode())
        assert (await orders.entry(tenant, id)).raw_key == raw_key
    ours = {("acme", 1), ("a.b", -2), ("", 0), ("a/b_", 3)}
    foreign = [
        "acme.007",  # not how an int is written
        "acme.-0",
        "acme.one",
        "a=2eb.1",  # lower case
        "a=41.1",  # escaped for no reason
        "=FF.1",  # no UTF-8
        "a=.1",
        "=5f.1",
        "acme",  # too short
        "acme.1.2",  # too long
        "acme.+1",
        "acme.1=20",
    ]
    for raw_key in foreign:
        await harness.write(name, raw_key, b'{"tenant": "acme", "id": 1}')
    assert set(await listed(orders.keys())) == ours
    assert await orders.count() == len(ours)
    assert {(order.tenant, order.id) async for order in orders.find()} == ours
    events = await until_caught_up(orders.watch())
    assert {event.key for event in events if isinstance(event, Entry | Marker)} == ours
    for key in (("acme", 7), ("acme", 2), ("A", 1), ("_", 1)):
        assert await orders.get_or_none(*key) is None
        assert await orders.history(*key) == []


async def r8_raw_keys_of_kvorm_itself_are_invisible(harness: Harness) -> None:
    """What begins with `_` is no key of any model: not to get, list, count, watch, replay or delete."""

    class Pair(Model):
        a: Key[str]
        b: Key[str]

    store = await harness.open()
    bucket = new_bucket(harness, history=2)
    notes = store.repository(Note, mapping=Mapping(bucket, key=("id",)))
    pairs_bucket = new_bucket(harness, history=2)
    pairs = store.repository(Pair, mapping=Mapping(pairs_bucket, key=("a", "b")))
    await store.ensure(notes, pairs)
    await harness.write(bucket.name, "_a", b'{"id":"_a"}')
    await harness.write(pairs_bucket.name, "_a.b", b'{"a":"_a","b":"b"}')
    hidden: list[tuple[Repository[Any], tuple[str, ...], str]] = [
        (notes, ("_a",), "=5Fa"),
        (pairs, ("_a", "b"), "=5Fa.b"),
    ]
    for repository, key, raw_key in hidden:
        stored = await harness.messages(repository.bucket.name)
        assert await repository.get_or_none(*key) is None
        assert not await repository.exists(*key)
        with raises(KeyNotFoundError):
            await repository.get(*key, revision=stored[0].revision)
        assert await repository.get_many([key]) == [None]
        assert await repository.history(*key) == []
        assert await listed(repository.find()) == []
        assert await listed(repository.keys()) == []
        assert await repository.count() == 0
        for watch in (
            repository.watch(),
            repository.watch(history=True),
            repository.watch(since=stored[0].revision - 1 or 1),
        ):
            assert [type(event) for event in await until_caught_up(watch)] == [CaughtUp]
        with raises(KeyNotFoundError):
            await repository.delete(*key)
        with raises(KeyNotFoundError):
            await repository.purge(*key)
        assert await harness.messages(repository.bucket.name) == stored
        # A model's own key with that text lives beside it.
        assert raw_key != stored[0].raw_key
    await notes.save(Note(id="_a"))
    await pairs.save(Pair(a="_a", b="_b"))
    assert [one.raw_key for one in await harness.messages(bucket.name)] == ["_a", "=5Fa"]
    assert [one.raw_key for one in await harness.messages(pairs_bucket.name)] == ["_a.b", "=5Fa._b"]
    assert await listed(notes.keys()) == [("_a",)]
    assert await listed(pairs.keys(a="_a")) == [("_a", "_b")]
    assert await notes.count(id="_a") == 1
