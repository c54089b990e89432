"""S8: a view is like the bucket, and what it hands out belongs to whoever reads it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from pydantic import ConfigDict, Field

from kvorm.entry import ANY, Key
from kvorm.errors import (
    DecodeError,
    InvalidKeyError,
    KeyNotFoundError,
    RevisionMismatchError,
)
from kvorm.model import Key as KeyField
from kvorm.model import Mapping, Model
from kvorm.repository import Repository
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import PATIENCE, Harness, raises
from kvorm.testing.contract.models import (
    Note,
    Order,
    Rich,
    elsewhere,
    new_bucket,
    new_notes,
    new_orders,
    rich,
)
from kvorm.view import View

_SOON: Final = timedelta(seconds=3)
"""Twice what `wait_for` of a key that the view does not show may take."""


class Fixed(Model):
    """Deeply immutable."""

    model_config = ConfigDict(frozen=True)

    id: KeyField[str]
    words: tuple[str, ...] = ()


class Loose(Model):
    """Not frozen, and so are the values of its field."""

    id: KeyField[str]
    labels: list[str] = Field(default_factory=list[str])


async def held(orders: Repository[Order]) -> dict[Key, tuple[int | None, Order]]:
    """Return what a repository finds, with the revisions."""
    return {(order.tenant, order.id): (revision_of(order), order) async for order in orders.find()}


def shown(view: View[Order]) -> dict[Key, tuple[int | None, Order]]:
    """Return what a view shows, in the same form."""
    return {key: (revision_of(order), order) for key, order in view.items()}


def _changing(value: Rich) -> bool:
    """Say yes, and leave a trace: what a predicate sees is its own, too."""
    value.tags.add("from a predicate")
    return True


async def s8_a_view_follows_the_bucket(harness: Harness) -> None:
    """Whatever is written, it is in the view once `wait_for` returned; nothing else is."""
    orders = await new_orders(harness, history=3)
    others = await elsewhere(harness, orders)
    chance = random.Random(7)
    for id in range(3):
        await orders.save(Order(tenant="acme", id=id))
    async with orders.view() as view:
        assert (view.caught_up, view.revision) == (True, 3)
        assert shown(view) == await held(orders)
        for _ in range(15):
            revision = 0
            for _ in range(chance.randrange(6)):
                key = chance.choice(["acme", "b.b"]), chance.randrange(4)
                write = chance.choice([others.delete, others.purge, None, None])
                if write is None:
                    order = Order(tenant=key[0], id=key[1], note=f"{chance.random()}")
                    revision = await others.save(order, expect=ANY)
                elif await others.exists(*key):
                    revision = await write(*key)
            async with asyncio.timeout(PATIENCE.total_seconds()):
                await view.wait_for(revision)
            assert shown(view) == await held(orders)
            assert view.revision >= revision


async def s8_wait_for_returns_for_any_revision(harness: Harness) -> None:
    """Also for one of another tenant, of another model, of a purged key: soon, though nothing of it is shown."""
    bucket = new_bucket(harness)
    store = await harness.open()
    orders = store.repository(Order, mapping=Mapping(bucket, key=("tenant", "id"), prefix="order"))
    notes = store.repository(Note, mapping=Mapping(bucket, key=("id",), prefix="note"))
    await orders.save(Order(tenant="acme", id=1))
    async with orders.view(tenant="acme") as view:
        writes: list[Callable[[], Any]] = [
            lambda: orders.save(Order(tenant="other", id=1)),
            lambda: notes.save(Note(id="a")),
            lambda: notes.purge("a"),
            lambda: orders.purge("acme", 1),
            lambda: orders.save(Order(tenant="acme", id=2)),
            lambda: harness.write(bucket.name, "no.key.of.any.model", b""),
        ]
        revision = 0
        for write in writes:
            revision = await write()
            async with asyncio.timeout(_SOON.total_seconds()):
                await view.wait_for(revision)
            assert view.revision >= revision
        assert list(view) == [("acme", 2)]
        with raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await view.wait_for(revision + 1)
        wrong: list[Any] = [-1, None, "1", True]
        for value in wrong:
            with raises(ValueError):
                await view.wait_for(value)


async def s8_a_view_reads_as_a_mapping(harness: Harness) -> None:
    """`get`, `[]`, `in`, `len`, iteration; keys go through the validation of the key fields."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1, note="a"))
    await orders.save(Order(tenant="b", id=2))
    async with orders.view() as view:
        order = Order(tenant="acme", id=1, note="a")
        assert view.get("acme", 1) == view.get("acme", "1") == view.get(tenant="acme", id=1) == order
        assert view["acme", 1] == view["acme", "1"] == order
        assert view.get("acme", 2) is None
        assert ("acme", 1) in view
        assert ("acme", 2) not in view
        assert (len(view), sorted(view)) == (2, [("acme", 1), ("b", 2)])
        assert sorted(key for key, _ in view.items()) == sorted(view)
        assert [one.id for one in view.values()] == [1, 2]
        assert [one.id for one in view.where(lambda one: one.tenant == "b")] == [2]
        with raises(KeyNotFoundError) as missing:
            view["acme", 2]
        assert (missing.error.bucket, missing.error.key) == (orders.bucket.name, "acme.2")
        refused: list[Callable[[], object]] = [
            lambda: view.get("acme"),
            lambda: view.get("acme", "x"),
            lambda: view.get("acme", [1]),
            lambda: view.get(number=1),
            lambda: view["acme"],
            lambda: ("acme", None) in view,
        ]
        for refusal in refused:
            with raises(InvalidKeyError):
                refusal()
    notes = await new_notes(harness)
    await notes.save(Note(id="a"))
    async with notes.view() as texts:
        assert texts["a"] == texts["a",] == Note(id="a")
        assert "a" in texts
    with raises(InvalidKeyError):
        orders.view(id="one")


async def s8_what_a_view_hands_out_is_the_readers(harness: Harness) -> None:
    """Changing it, in whatever depth, changes nothing in the view; it can be saved, and the save is checked."""
    bucket = new_bucket(harness)
    store = await harness.open()
    names = ("text", "number", "truth", "uuid", "colour", "size", "day", "moment")
    riches: Repository[Rich] = store.repository(Rich, mapping=Mapping(bucket, key=names))
    value = rich()
    await riches.save(value)
    async with riches.view() as view:
        handed: list[Callable[[], Rich]] = [
            lambda: view[tuple(getattr(value, name) for name in names)],
            lambda: view.values()[0],
            lambda: view.items()[0][1],
            lambda: view.where(_changing)[0],
            lambda: view.by("number")[-7][0],
        ]
        for hand_out in handed:
            mine = hand_out()
            mine.tags.add("mine")
            mine.nested["home"][0].street = "mine"
            mine.nested["more"] = []
            assert mine.address is not None
            mine.address.street = "mine"
            mine.ratio = 7.0
            assert hand_out().model_copy(update={"tags": value.tags}) == value
            assert view.values() == [value]
        mine = view.values()[0]
        mine.ratio = 2.0
        revision = await riches.save(mine)
        await view.wait_for(revision)
        assert view.values() == [mine]
        assert revision_of(view.values()[0]) == revision
        with raises(RevisionMismatchError):
            await riches.save(value)


async def s8_immutable_objects_are_shared(harness: Harness) -> None:
    """Frozen, and all that they hold: every reader gets the same object. Others get their own."""
    bucket = new_bucket(harness)
    store = await harness.open()
    fixed = store.repository(Fixed, mapping=Mapping(bucket, key=("id",), prefix="fixed"))
    loose = store.repository(Loose, mapping=Mapping(bucket, key=("id",), prefix="loose"))
    await fixed.save(Fixed(id="a", words=("x", "y")))
    await loose.save(Loose(id="a"))
    async with fixed.view() as shared, loose.view() as copied:
        assert shared["a"] is shared["a"]
        assert shared["a"] == Fixed(id="a", words=("x", "y"))
        assert copied["a"] is not copied["a"]
        assert copied["a"] == Loose(id="a")


async def s8_a_view_looks_up_by_a_field(harness: Harness) -> None:
    """`by` follows every change; an unhashable value is a clear error as long as it is there."""
    orders = await new_orders(harness)
    for id, note in enumerate(["new", "paid", "new"]):
        await orders.save(Order(tenant="acme", id=id, note=note))
    async with orders.view() as view:
        by_note = view.by("note")
        assert [order.id for order in by_note["new"]] == [0, 2]
        assert ([*by_note], len(by_note), "new" in by_note, "gone" in by_note) == (["new", "paid"], 2, True, False)
        order = by_note["new"][0]
        order.note = "paid"
        await orders.save(order)
        await orders.delete("acme", 2)
        await view.wait_for(await orders.save(Order(tenant="b", id=9, note="late")))
        assert [order.id for order in by_note["paid"]] == [1, 0]
        assert by_note["new"] == []
        assert set(by_note) == {"late", "paid"}
        with raises(ValueError):
            view.by("number")
    store = await harness.open()
    loose = store.repository(Loose, mapping=Mapping(new_bucket(harness), key=("id",)))
    await loose.save(Loose(id="a"))
    async with loose.view() as lists:
        with raises(TypeError):
            _ = lists.by("labels")["x"]
        await lists.wait_for(await loose.delete("a"))
        assert len(lists.by("labels")) == 0


async def s8_r7_what_does_not_decode_sits_in_invalid(harness: Harness) -> None:
    """`get` of that key raises its error, the others are there, the view goes on, and a better value mends it."""
    notes = await new_notes(harness)
    await notes.save(Note(id="good"))
    bad = await harness.write(notes.bucket.name, "bad", b"\xff\x00")
    told: list[DecodeError] = []
    async with notes.view() as view, notes.view(on_invalid=told.append) as telling, notes.view(on_invalid="skip"):
        assert [error.revision for error in told] == [bad]
        assert len(telling) == 1
        assert (set(view), len(view), "bad" in view) == ({("good",)}, 1, False)
        assert {key: error.revision for key, error in view.invalid.items()} == {("bad",): bad}
        reads: list[Callable[[], object]] = [lambda: view.get("bad"), lambda: view["bad"]]
        for read in reads:
            with raises(DecodeError) as raised:
                read()
            assert (raised.error.revision, raised.error.data) == (bad, b"\xff\x00")
        await view.wait_for(await harness.write(notes.bucket.name, "good", b"{}"))
        assert (set(view.invalid), list(view)) == ({("good",), ("bad",)}, [])
        await notes.purge("good")
        await view.wait_for(await notes.save(Note(id="bad", text="mended"), expect=ANY))
        assert (view.invalid, view.values()) == ({}, [Note(id="bad", text="mended")])
        await harness.write(notes.bucket.name, "_kvorm", b"not of this model")
    with raises(DecodeError):
        await harness.write(notes.bucket.name, "bad", b"")
        await notes.view(on_invalid="raise").__aenter__()
