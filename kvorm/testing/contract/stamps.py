"""W4 for objects: which revision they carry, how they keep it, and where it counts."""

from __future__ import annotations

import copy
import pickle

from pydantic import BaseModel

from kvorm.entry import Entry
from kvorm.errors import BucketNotFoundError, KeyExistsError, RevisionMismatchError
from kvorm.model import Key, Mapping, Model
from kvorm.stamp import revision_of
from kvorm.testing.contract.harness import Harness, listed, raises
from kvorm.testing.contract.models import (
    Frozen,
    Guarded,
    Note,
    Open,
    Order,
    elsewhere,
    new_bucket,
    new_notes,
    new_orders,
    notes_in,
    orders_in,
)


async def w4_every_read_stamps(harness: Harness) -> None:
    """Whatever hands out an object, it carries its revision; a save is checked against it."""
    orders = await new_orders(harness, history=3)
    first = await orders.save(Order(tenant="acme", id=1))
    second = await orders.save(Order(tenant="acme", id=1), expect=first)
    (many,) = await orders.get_many([("acme", 1)])
    (found,) = await listed(orders.find())
    history = [event.value for event in await orders.history("acme", 1) if isinstance(event, Entry)]
    async with orders.watch() as watch:
        values = watch.values()
        watched = await anext(values)
        if revision_of(watched) == first:
            # The consumer may sit at a replica that lags, and then tell of the newer one next.
            watched = await anext(values)
    latest = [
        await orders.get("acme", 1),
        await orders.get_or_none("acme", 1),
        (await orders.entry("acme", 1)).value,
        await orders.get_or_create(Order(tenant="acme", id=1)),
        many,
        found,
        history[-1],
        watched,
    ]
    for old in (await orders.get("acme", 1, revision=first), history[0]):
        assert revision_of(old) == first
        with raises(RevisionMismatchError):
            await orders.save(old)
    assert [revision_of(order) for order in latest if order is not None] == [second] * len(latest)
    winner = latest.pop()
    assert winner is not None
    await orders.save(winner)
    for late in latest:
        assert late is not None
        with raises(RevisionMismatchError):
            await orders.save(late)


async def w4_copies_keep_their_revision(harness: Harness) -> None:
    """Copied, pickled and validated-on-assignment objects save against what was read; so do frozen ones."""
    store = await harness.open()
    bucket = new_bucket(harness)
    for model in (Note, Guarded, Open, Frozen):
        repository = store.repository(model, mapping=Mapping(bucket, key=("id",), prefix=model.__name__))
        original = model(id="a", text="one")
        revision = await repository.save(original)
        copies: list[BaseModel] = [
            original,
            copy.copy(original),
            copy.deepcopy(original),
            original.model_copy(),
            original.model_copy(deep=True),
            original.model_copy(update={"text": "two"}),
            pickle.loads(pickle.dumps(original)),
            copy.deepcopy(pickle.loads(pickle.dumps(original.model_copy(deep=True)))),
        ]
        if model is not Frozen:
            assigned = original.model_copy()
            assigned.text = "three"
            copies.append(assigned)
        for one in copies:
            assert revision_of(one) == revision
        # The first save succeeds, all others are conflicts: they were read before it.
        winner = copies.pop()
        assert isinstance(winner, model)
        assert await repository.save(winner) > revision
        for one in copies:
            assert isinstance(one, model)
            with raises(RevisionMismatchError):
                await repository.save(one)
            assert revision_of(one) == revision


async def w4_assignment_keeps_an_object_clean(harness: Harness) -> None:
    """With `extra="allow"` and validated assignment the stamp becomes no field, and nothing of it is stored."""
    store = await harness.open()
    bucket = new_bucket(harness)
    repository = store.repository(Open, mapping=Mapping(bucket, key=("id",)))
    value = Open.model_validate({"id": "a", "more": 1})
    for text in ("one", "two"):
        await repository.save(value)
        value.text = text
        assert value.model_dump() == {"id": "a", "text": text, "more": 1}
        assert value.model_extra == {"more": 1}
    await repository.save(value)
    assert b"kvorm" not in (await harness.messages(bucket.name))[-1].data
    read = await repository.get("a")
    assert read == value
    read.text = "three"
    await repository.save(read)


async def w4_nothing_shows_the_stamp(harness: Harness) -> None:
    """Dumps, JSON, schemas, `==`, hash, repr, iteration and `model_fields_set` know nothing of it."""
    store = await harness.open()
    bucket = new_bucket(harness)
    for model in (Note, Guarded, Open, Frozen):
        repository = store.repository(model, mapping=Mapping(bucket, key=("id",), prefix=model.__name__))
        schema = model.model_json_schema()
        fresh, stamped = model(id="a"), model(id="a")
        await repository.save(stamped)
        read = await repository.get("a")
        assert revision_of(stamped) == revision_of(read) is not None
        for one in (stamped, read):
            assert one == fresh
            assert fresh == one
            assert repr(one) == repr(fresh)
            assert str(one) == str(fresh)
            assert one.model_dump() == fresh.model_dump()
            assert one.model_dump(mode="json", round_trip=True) == fresh.model_dump(mode="json", round_trip=True)
            assert one.model_dump_json() == fresh.model_dump_json()
            assert not one.model_extra
            assert dict(one) == dict(fresh)
        assert stamped.model_fields_set == fresh.model_fields_set
        assert model.model_json_schema() == schema
        assert model.model_json_schema(mode="serialization") == schema
        if model is Frozen:
            assert hash(stamped) == hash(read) == hash(fresh)


async def w4_a_parsed_object_counts_as_never_saved(harness: Harness) -> None:
    """It carries no revision: KeyExistsError says so, and what is stored stays."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1, note="stored"))
    read = await orders.get("acme", 1)
    for parsed in (Order.model_validate_json(read.model_dump_json()), Order(**read.model_dump())):
        assert revision_of(parsed) is None
        with raises(KeyExistsError):
            await orders.save(parsed)


async def w4_another_bucket_does_not_know_the_revision(harness: Harness) -> None:
    """An object read in one bucket overwrites nothing in another, though the key has the same revision there."""
    orders = await new_orders(harness)
    others = orders_in(await harness.open(), new_bucket(harness))
    mine, theirs = Order(tenant="acme", id=1, note="mine"), Order(tenant="acme", id=1, note="theirs")
    assert await orders.save(mine) == await others.save(theirs)
    for write in (others.save, others.delete, others.purge):
        with raises(KeyExistsError):
            await write(mine)
    assert (await others.get("acme", 1)).note == "theirs"
    assert await orders.save(mine)


async def w4_another_store_of_the_bucket_does(harness: Harness) -> None:
    """Another client of the same bucket is the same place: the object is checked against its revision there."""
    orders = await new_orders(harness)
    others = await elsewhere(harness, orders)
    order = Order(tenant="acme", id=1)
    first = await orders.save(order)
    stale = order.model_copy()
    assert await others.save(order) > first
    with raises(RevisionMismatchError):
        await orders.save(stale)


async def w4_a_changed_key_counts_as_never_saved(harness: Harness) -> None:
    """Under a changed key an object overwrites nothing; changed back, its revision counts again."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1, note="theirs"))
    mine = Order(tenant="acme", id=2, note="mine")
    await orders.save(mine)
    mine.id = 1
    for write in (orders.save, orders.delete, orders.purge):
        with raises(KeyExistsError):
            await write(mine)
    assert (await orders.get("acme", 1)).note == "theirs"
    mine.id = 2
    await orders.save(mine)
    moved = mine.model_copy(update={"id": 3})
    await orders.save(moved)
    assert await orders.count() == 3


async def w4_a_bucket_made_anew_does_not_know_the_revision(harness: Harness) -> None:
    """Behind the back of the very store that read the object: a conflict, though key and revision are the same."""
    for verb in ("save", "delete", "purge"):
        notes = await new_notes(harness)
        name = notes.bucket.name
        mine = Note(id="a", text="mine")
        revision = await notes.save(mine)
        await harness.delete(name)
        await harness.create(notes.bucket)
        assert await harness.write(name, "a", b'{"id":"a","text":"theirs"}') == revision
        stored = await harness.messages(name)
        write = {"save": notes.save, "delete": notes.delete, "purge": notes.purge}[verb]
        with raises(KeyExistsError):
            await write(mine)
        assert await harness.messages(name) == stored
        assert (await notes.get("a")).text == "theirs"


async def w4_a_new_store_of_a_bucket_made_anew_does_not_either(harness: Harness) -> None:
    """The same through a store that never knew the old bucket."""
    notes = await new_notes(harness)
    mine = Note(id="a", text="mine")
    revision = await notes.save(mine)
    await harness.delete(notes.bucket.name)
    others = notes_in(await harness.open(), notes.bucket)
    assert await others.save(Note(id="a", text="theirs")) == revision
    with raises(KeyExistsError):
        await others.save(mine)
    assert (await others.get("a")).text == "theirs"


async def w4_a_deleted_bucket_is_not_made_anew_by_the_way(harness: Harness) -> None:
    """A store whose bucket vanished says so; `ensure` makes it again, and what was read before is void."""
    notes = await new_notes(harness)
    mine = Note(id="a")
    await notes.save(mine)
    await harness.delete(notes.bucket.name)
    store = await harness.open()
    for attempt in (lambda: notes.save(mine), lambda: notes.get("a"), notes.count):
        with raises(BucketNotFoundError) as raised:
            await attempt()
        assert raised.error.bucket == notes.bucket.name
    await store.ensure(notes_in(store, notes.bucket))
    assert await notes.get_or_none("a") is None
    assert await notes.save(mine) == 1


class Keyed(Model):
    """All of it is key."""

    id: Key[str]


async def w4_a_model_of_keys_alone_is_stamped_too(harness: Harness) -> None:
    """There is nothing but key fields, and still each save is checked."""
    store = await harness.open()
    keyed = store.repository(Keyed, mapping=Mapping(new_bucket(harness), key=("id",)))
    value = Keyed(id="a")
    stale = value.model_copy()
    await keyed.save(value)
    await keyed.save(value)
    with raises(KeyExistsError):
        await keyed.save(stale)
