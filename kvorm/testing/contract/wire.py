"""I1 to I3: what lies on the wire, for kvorm and for others."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from typing import Any
from uuid import UUID

from kvorm.entry import ABSENT, ANY, Entry
from kvorm.errors import InvalidKeyError, KeyNotFoundError
from kvorm.model import Mapping
from kvorm.repository import Repository
from kvorm.testing.contract.harness import Harness, listed, raises
from kvorm.testing.contract.marks import reason
from kvorm.testing.contract.models import (
    Address,
    Colour,
    KnownAddress,
    Note,
    Order,
    Rich,
    new_bucket,
    new_notes,
    new_orders,
    notes_in,
    rich,
)

RICH_KEY = ("text", "number", "truth", "uuid", "colour", "size", "day", "moment")

_SENT = {"Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence", "KV-Operation", "Nats-Rollup"}


async def i1_values_are_plain_json(harness: Harness) -> None:
    """Any client can read them: the model's own JSON by alias, under the dotted key, in a plain message."""
    store = await harness.open()
    bucket = new_bucket(harness)
    riches = store.repository(Rich, mapping=Mapping(bucket, key=RICH_KEY))
    value = rich()
    await riches.save(value)
    (stored,) = await harness.messages(bucket.name)
    assert json.loads(stored.data) == value.model_dump(mode="json", by_alias=True, round_trip=True)
    assert stored.raw_key == (
        "a=2Eb=20=2A=3E=3D_/-=C3=A9=E2=82=AC=F0=9F=98=80.-7.true.12345678-1234-5678-1234-567812345678"
        ".r=2Ee=20d.3.2026-02-28.2026-02-28T12=3A30=3A15=2E250000Z"
    )


async def i1_the_headers_are_a_closed_set(harness: Harness) -> None:
    """A checked save carries an operation id of its own, an unchecked one nothing; markers are those of ADR-8."""
    orders = await new_orders(harness, history=10)
    order = Order(tenant="acme", id=1)
    await orders.save(order)
    await orders.save(order)
    await orders.save(order, expect=ANY)
    await orders.delete(order)
    stored = await harness.messages(orders.bucket.name)
    ids = [one.headers.get("Nats-Msg-Id") for one in stored]
    assert ids[2] is None
    assert len({ids[0], ids[1], ids[3]} - {None}) == 3
    assert all(set(one.headers) <= _SENT for one in stored)
    assert [one.headers.get("KV-Operation") for one in stored] == [None, None, None, "DEL"]
    assert stored[3].data == b""
    await orders.purge("acme", 1)
    (marker,) = await harness.messages(orders.bucket.name)
    assert (marker.data, marker.headers["KV-Operation"], marker.headers["Nats-Rollup"]) == (b"", "PURGE", "sub")
    assert set(marker.headers) <= _SENT


async def i1_values_of_others_are_read(harness: Harness) -> None:
    """Whatever the class itself reads: other order, spaces, field names for aliases, defaults left out."""
    store = await harness.open()
    bucket = new_bucket(harness, history=2)
    riches = store.repository(Rich, mapping=Mapping(bucket, key=RICH_KEY))
    await riches.save(rich(aliased=0))
    (stored,) = await harness.messages(bucket.name)
    content: dict[str, Any] = json.loads(stored.data)
    content["aliased"] = content.pop("wireName") + 1
    content["unknown"] = "ignored"
    del content["nested"]
    turned = json.dumps(dict(reversed(content.items())), indent=3, ensure_ascii=True).encode()
    revision = await harness.write(bucket.name, stored.raw_key, turned)
    (found,) = await listed(riches.find())
    assert found == rich(wireName=content["aliased"], nested={})
    found.price += 1
    assert await riches.save(found) > revision


async def i1_markers_of_others_are_understood(harness: Harness) -> None:
    """A delete and a purge of another client mean the same as kvorm's own."""
    orders = await new_orders(harness, history=5)
    name = orders.bucket.name
    order = Order(tenant="acme", id=1)
    first = await orders.save(order)
    deleted = await harness.write(name, "acme.1", b"", {"KV-Operation": "DEL"})
    assert [(one.revision, reason(one)) for one in await orders.history("acme", 1)] == [
        (first, "stored"),
        (deleted, "deleted"),
    ]
    with raises(KeyNotFoundError) as raised:
        await orders.get("acme", 1)
    assert raised.error.marker is not None
    assert raised.error.marker.reason == "deleted"
    purged = await harness.write(name, "acme.1", b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})
    assert [(one.revision, reason(one)) for one in await orders.history("acme", 1)] == [(purged, "purged")]
    assert await orders.count() == 0
    with raises(KeyNotFoundError):
        await orders.delete("acme", 1)
    assert await orders.save(order, expect=ABSENT) > purged


async def i1_any_bucket_of_a_kv_client_will_do(harness: Harness) -> None:
    """A bucket that another client made is used as it is, its settings compared with the declared ones."""
    store = await harness.open()
    bucket = new_bucket(harness, history=3)
    await harness.create(bucket)
    await harness.write(bucket.name, "a", b'{"id":"a"}')
    notes = notes_in(store, bucket)
    note = await notes.get("a")
    note.text = "changed"
    await notes.save(note)
    assert len(await notes.history("a")) == 2
    await notes.delete(note)
    assert await notes.count() == 0


async def i2_hostile_keys_stay_themselves(harness: Harness) -> None:
    """Different tuples have different raw keys, and no value acts as a wildcard or leaves its place."""
    orders = await new_orders(harness)
    texts = [
        "", ".", "..", "*", ">", "a.b", "a.*", "a b", " ", "=", "==", "=20", "=2E", "a=", "_", "__", "$KV", "$JS.API",
        "a/b", "/", "-", "é", "e\u0301", "É", "\x00", "\n", "\r\n", "\t", "\x7f", "😀", "a", "A", "%2E", "\\",
        "'\"", "None",
    ]  # fmt: skip
    await orders.save_many([Order(tenant=text, id=1, note=repr(text)) for text in texts])
    stored = await harness.messages(orders.bucket.name)
    assert len({one.raw_key for one in stored}) == len(texts)
    assert all(one.raw_key.count(".") == 1 for one in stored)
    assert set(await listed(orders.keys())) == {(text, 1) for text in texts}
    for text in texts:
        assert (await orders.get(text, 1)).note == repr(text)
        assert [order.tenant async for order in orders.find(tenant=text)] == [text]
        assert await orders.count(tenant=text, id=1) == 1
    for text in ("*", ">", "..", "a.*", "", "_", "$JS.API"):
        await orders.delete(text, 1)
        await orders.purge(text, 1)
    assert await orders.count() == len(texts) - 7
    assert await orders.save_many([await orders.get("a", 1)])


async def i2_one_key_has_one_spelling(harness: Harness) -> None:
    """Whatever a key field's validation takes for the same value is the same key; what it refuses is none."""
    store = await harness.open()
    bucket = new_bucket(harness)
    riches = store.repository(Rich, mapping=Mapping(bucket, key=RICH_KEY))
    value = rich()
    await riches.save(value)
    (key,) = await listed(riches.keys())
    assert key == tuple(getattr(value, name) for name in RICH_KEY)
    there = value.moment.astimezone(timezone(timedelta(hours=-5, minutes=-30)))
    spellings: list[dict[str, Any]] = [
        {"number": "-7"},
        {"truth": "yes"},
        {"uuid": str(value.uuid)},
        {"uuid": value.uuid.hex.upper()},
        {"colour": "r.e d"},
        {"day": "2026-02-28"},
        {"moment": there},
        {"moment": there.isoformat()},
    ]
    own = dict(zip(RICH_KEY, key, strict=True))
    for spelling in spellings:
        assert (await riches.entry(**{**own, **spelling})).raw_key == (await riches.entry(*key)).raw_key
        assert await riches.count(**spelling) == 1
    others: list[dict[str, Any]] = [
        {"number": 7},
        {"truth": False},
        {"uuid": UUID(int=0)},
        {"colour": Colour.BLUE},
        {"size": "S"},
        {"moment": value.moment + timedelta(microseconds=1)},
    ]
    for other in others:
        assert await riches.get_or_none(**{**own, **other}) is None
        assert await riches.count(**other) == 0
    refused: list[dict[str, Any]] = [
        {"moment": value.moment.replace(tzinfo=None)},
        {"size": "3"},
        {"size": "L"},
        {"colour": "green"},
        {"uuid": "*"},
        {"number": "*"},
        {"number": 1.5},
        {"truth": None},
    ]
    for one in refused:
        with raises(InvalidKeyError):
            await riches.get_or_none(**{**own, **one})
        with raises(InvalidKeyError):
            await riches.count(**one)


async def i2_a_prefix_is_not_left(harness: Harness) -> None:
    """Keys under a prefix reach neither those beside it nor those below another one."""
    store = await harness.open()
    bucket = new_bucket(harness)
    short = store.repository(Note, mapping=Mapping(bucket, key=("id",), prefix="a"))
    long = store.repository(Order, mapping=Mapping(bucket, key=("tenant", "id"), prefix="b.c"))
    await short.save(Note(id="c.x.1"))
    await short.save(Note(id=">"))
    await long.save(Order(tenant="*", id=1))
    assert sorted(one.raw_key for one in await harness.messages(bucket.name)) == [
        "a.=3E",
        "a.c=2Ex=2E1",
        "b.c.=2A.1",
    ]
    assert sorted(await listed(short.keys())) == [(">",), ("c.x.1",)]
    assert await listed(long.keys()) == [("*", 1)]
    assert await short.get_or_none("*") is None


async def i3_a_model_comes_back_as_it_was(harness: Harness) -> None:
    """Every kind of field; an excluded one as its default, a subclass's instance as the field's own class."""
    store = await harness.open()
    riches = store.repository(Rich, mapping=Mapping(new_bucket(harness, history=2), key=RICH_KEY))
    for value in (rich(), Rich(**{name: getattr(rich(), name) for name in RICH_KEY})):
        await riches.save(value, expect=ANY)
        for read in (await riches.get(*[getattr(value, name) for name in RICH_KEY]), (await _all(riches))[-1]):
            assert read == value
            assert {name: type(one) for name, one in read} == {name: type(one) for name, one in value}
    changed = rich(hidden="not stored", address=KnownAddress(street="Main", postCode="1", secret="x"))
    await riches.save(changed, expect=ANY)
    (read, *_) = await listed(riches.find())
    assert read.hidden == "default"
    assert type(read.address) is Address
    assert read == rich(address=Address(street="Main", postCode="1"))
    assert b"s3cret" not in (await harness.messages(riches.bucket.name))[-1].data


async def _all(riches: Repository[Rich]) -> list[Rich]:
    return [
        event.value
        for event in await riches.history(*[getattr(rich(), name) for name in RICH_KEY])
        if isinstance(event, Entry)
    ]


async def i3_notes_of_any_text_come_back(harness: Harness) -> None:
    """Control characters, combining marks, long lines, what looks like JSON or like a header."""
    notes = await new_notes(harness)
    texts = ["", "\x00", "\r\nKV-Operation: DEL\r\n", '{"a": 1}', "null", "😀" * 1000, "e\u0301", "\u2028", "\\", '"']
    for text in texts:
        await notes.save(Note(id="a", text=text), expect=ANY)
        assert (await notes.get("a")).text == text
