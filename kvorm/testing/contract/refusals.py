"""W8 and W10: what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

from kvorm.entry import ABSENT, ANY
from kvorm.errors import (
    EncodeError,
    InvalidKeyError,
    RevisionMismatchError,
    ValueTooLargeError,
)
from kvorm.model import Mapping
from kvorm.testing.contract.harness import Attempt, Harness, listed, raises
from kvorm.testing.contract.models import (
    Folded,
    Mute,
    Note,
    Order,
    new_bucket,
    new_notes,
    new_orders,
    note_of_size,
)

SERVER_MAX_PAYLOAD: Final = 1024 * 1024
"""Bytes of one message, headers included: the default of the server."""

MAX_RAW_KEY_BYTES: Final = 1024


def unchanged(order: Order) -> Order:
    """Change nothing."""
    return order


def always(order: Order) -> Callable[[Order], Order]:
    """Return a change that makes everything this order."""
    return lambda _: order


async def w8_a_declared_size_holds_to_the_byte(harness: Harness) -> None:
    """`max_value_bytes` counts the value alone, whatever headers go with it."""
    limit = 1000
    notes = await new_notes(harness, max_value_bytes=limit)
    for size in (limit - 1, limit):
        note = note_of_size(size)
        for expect in (ANY, None):
            await (notes.save(note) if expect is None else notes.save(note, expect=expect))
            assert len((await harness.messages(notes.bucket.name))[-1].data) == size
    stored = await harness.messages(notes.bucket.name)
    too_large = note_of_size(limit + 1)
    attempts: list[Attempt] = [
        lambda: notes.save(too_large),
        lambda: notes.save(too_large, expect=ANY),
        lambda: notes.get_or_create(note_of_size(limit + 1, id="m")),
        lambda: notes.update("n", apply=lambda _: too_large),
    ]
    for attempt in attempts:
        with raises(ValueTooLargeError) as raised:
            await attempt()
        assert (raised.error.size, raised.error.limit) == (limit + 1, limit)
    assert await harness.messages(notes.bucket.name) == stored


async def w8_the_servers_size_holds_to_the_byte(harness: Harness) -> None:
    """A message is refused before the server would close the connection over it, and not earlier; headers count."""
    notes = await new_notes(harness)
    with raises(ValueTooLargeError) as raised:
        await notes.save(note_of_size(2 * SERVER_MAX_PAYLOAD))
    for expect in (ABSENT, ANY, 1):
        with raises(ValueTooLargeError) as raised:
            await notes.save(note_of_size(2 * SERVER_MAX_PAYLOAD), expect=expect)
        limit = raised.error.limit
        assert SERVER_MAX_PAYLOAD - 256 <= limit <= SERVER_MAX_PAYLOAD
        with raises(ValueTooLargeError):
            await notes.save(note_of_size(limit + 1), expect=expect)
        assert await notes.get_or_none("n") is None
        if expect == 1:
            with raises(RevisionMismatchError):
                await notes.save(note_of_size(limit), expect=expect)
        else:
            for size in (limit - 1, limit):
                await notes.save(note_of_size(size), expect=expect)
                assert await notes.get("n") == note_of_size(size)
                await notes.purge("n")
    await notes.save(Note(id="small"))
    assert await notes.get_or_none("small") == Note(id="small")


async def w8_a_raw_key_has_at_most_1024_bytes(harness: Harness) -> None:
    """A key of 1,024 bytes works everywhere, one of 1,025 is refused everywhere; escaped bytes count."""
    notes = await new_notes(harness, history=2)
    for id in ("k" * MAX_RAW_KEY_BYTES, "é" * (MAX_RAW_KEY_BYTES // 6) + "kkkk"):
        note = Note(id=id)
        revision = await notes.save(note)
        assert await notes.get(id) == note
        assert await notes.get_many([(id,)]) == [note]
        assert await listed(notes.find(id=id)) == [note]
        assert [event.revision for event in await notes.history(id)] == [revision]
        longer = Note(id=id + "k")
        attempts: list[Attempt] = [
            partial(notes.save, longer),
            partial(notes.get, longer.id),
            partial(notes.get_many, [(longer.id,)]),
            partial(notes.delete, longer.id),
            partial(notes.history, longer.id),
            partial(notes.get_or_create, longer),
        ]
        for attempt in attempts:
            with raises(InvalidKeyError):
                await attempt()
        await notes.delete(note)
    assert await notes.count() == 0


async def w8_a_key_that_cannot_be_formed_is_refused(harness: Harness) -> None:
    """Too few, too many, unknown, doubled or refused values, and text without UTF-8: before anything is sent."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    stored = await harness.messages(orders.bucket.name)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        (("acme",), {}),
        (("acme", 1, 2), {}),
        ((("acme", 1),), {}),
        (("acme",), {"tenant": "acme"}),
        (("acme",), {"number": 1}),
        (("acme", "one"), {}),
        (("acme", None), {}),
        (("acme\ud800", 1), {}),
    ]
    for key, fields in wrong:
        attempts: list[Attempt] = [
            partial(orders.get, *key, **fields),
            partial(orders.get_or_none, *key, **fields),
            partial(orders.exists, *key, **fields),
            partial(orders.history, *key, **fields),
            partial(orders.delete, *key, **fields),
            partial(orders.purge, *key, **fields),
            partial(orders.update, *key, apply=unchanged, **fields),
            partial(orders.restore, *key, revision=1, **fields),
        ]
        for attempt in attempts:
            with raises(InvalidKeyError):
                await attempt()
    with raises(InvalidKeyError):
        await orders.save(Order(tenant="\ud800", id=1))
    assert await harness.messages(orders.bucket.name) == stored


async def w8_a_value_that_cannot_be_encoded_is_refused(harness: Harness) -> None:
    """An object whose own serializer fails is an EncodeError; nothing is sent."""
    store = await harness.open()
    bucket = new_bucket(harness)
    mutes = store.repository(Mute, mapping=Mapping(bucket, key=("id",)))
    assert await mutes.count() == 0
    with raises(EncodeError) as raised:
        await mutes.save(Mute(id="a"))
    assert (raised.error.bucket, raised.error.key) == (bucket.name, "a")
    with raises(EncodeError):
        await mutes.get_or_create(Mute(id="a"))
    assert await harness.messages(bucket.name) == []


async def w10_nothing_is_stored_that_does_not_read_back(harness: Harness) -> None:
    """An object bent around its own validation is an EncodeError on every way into the store."""
    orders = await new_orders(harness)
    good = Order(tenant="acme", id=1)
    await orders.save(good)
    stored = await harness.messages(orders.bucket.name)
    assigned: Any = Order(tenant="acme", id=1)
    assigned.note = 5
    bents: list[Order] = [
        good.model_copy(update={"total": "many"}),
        good.model_copy(update={"total": Decimal("NaN")}),
        good.model_copy(update={"note": None}),
        Order.model_construct(tenant="acme", id=1, total=object()),
        assigned,
    ]
    for bent in bents:
        attempts: list[Attempt] = [
            partial(orders.save, bent),
            partial(orders.save, bent, expect=ANY),
            partial(orders.get_or_create, bent),
            partial(orders.update, "acme", 1, apply=always(bent)),
        ]
        for attempt in attempts:
            with raises(EncodeError) as raised:
                await attempt()
            assert (raised.error.bucket, raised.error.key) == (orders.bucket.name, "acme.1")
    other: Any = Note(id="a")
    with raises(EncodeError):
        await orders.save(other)
    assert await harness.messages(orders.bucket.name) == stored


async def w10_nothing_is_stored_that_reads_back_under_another_key(harness: Harness) -> None:
    """A key field that its own validation would change on reading is an EncodeError."""
    store = await harness.open()
    bucket = new_bucket(harness)
    folded = store.repository(Folded, mapping=Mapping(bucket, key=("id",)))
    await folded.save(Folded(id="ABC"))
    assert (await folded.get("Abc")).id == "abc"
    stored = await harness.messages(bucket.name)
    assert [one.raw_key for one in stored] == ["abc"]
    with raises(EncodeError):
        await folded.save(Folded.model_construct(id="ABC"))
    assert await harness.messages(bucket.name) == stored
