"""Buckets as declared: made, shared, compared, changed. Public API of `design.md`, without a clause number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kvorm.bucket import Bucket
from kvorm.entry import CaughtUp, Entry
from kvorm.errors import (
    BucketMismatchError,
    BucketNotFoundError,
    Difference,
    InvalidKeyError,
    KeyNotFoundError,
    ModelError,
    StoreError,
    UnsupportedError,
)
from kvorm.model import Key, Mapping, Model
from kvorm.repository import Repository
from kvorm.store import Store
from kvorm.testing.contract.harness import Attempt, Harness, listed, raises
from kvorm.testing.contract.models import Note, Order, new_bucket, new_notes, notes_in
from kvorm.testing.contract.watching import latest, take, until_caught_up


async def api_models_share_a_bucket_by_prefix(harness: Harness) -> None:
    """Neither sees the other's entries, in any operation, though their keys are alike."""
    bank = new_bucket(harness, history=3)

    class Account(Model, bucket=bank, prefix="account"):
        id: Key[str]
        balance: int = 0

    class Branch(Model, bucket=bank, prefix="shop.branch"):
        id: Key[str]
        town: str = ""

    store = await harness.open()
    accounts, branches = store.repository(Account), store.repository(Branch)
    async with accounts.watch(updates_only=True) as watch:
        assert await take(watch, 1) == [CaughtUp(0)]
        await branches.save(Branch(id="1", town="Bern"))
        await accounts.save(Account(id="1", balance=5))
        (event,) = await take(watch, 1)
        assert isinstance(event, Entry)
        assert event.value == Account(id="1", balance=5)
    assert [one.raw_key for one in await harness.messages(bank.name)] == ["shop.branch.1", "account.1"]
    assert await branches.get("1") == Branch(id="1", town="Bern")
    await branches.save(Branch(id="2"))
    assert await listed(accounts.keys()) == [("1",)]
    assert sorted(await listed(branches.keys())) == [("1",), ("2",)]
    assert await listed(accounts.find()) == [Account(id="1", balance=5)]
    assert (await accounts.count(), await branches.count(), await accounts.count(id="2")) == (1, 2, 0)
    assert len(await until_caught_up(branches.watch())) == 3
    await accounts.purge("1")
    assert await branches.get_or_none("1") is not None
    assert await branches.history("1") != []
    with raises(KeyNotFoundError):
        await accounts.delete("2")


async def api_models_that_clash_are_refused(harness: Harness) -> None:
    """Equal prefixes in one bucket of one store, or one model without: ModelError, as are unlike declarations."""
    store = await harness.open()
    bucket = new_bucket(harness)
    store.repository(Note, mapping=Mapping(bucket, key=("id",), prefix="note"))
    store.repository(Note, mapping=Mapping(bucket, key=("id",), prefix="note"))
    clashing = [
        Mapping(bucket, key=("tenant", "id"), prefix="note"),
        Mapping(bucket, key=("tenant", "id")),
        Mapping(new_bucket(harness, history=2).renamed(bucket.name), key=("tenant", "id"), prefix="order"),
    ]
    for mapping in clashing:
        with raises(ModelError):
            store.repository(Order, mapping=mapping)
    store.repository(Order, mapping=Mapping(bucket, key=("tenant", "id"), prefix="order"))
    store.repository(Order, mapping=Mapping(new_bucket(harness), key=("tenant", "id")))


async def api_a_single_entry_has_no_key(harness: Harness) -> None:
    """A model with a prefix and no key field is one entry: every operation works without naming it."""
    bucket = new_bucket(harness, history=3)

    class Limits(Model, bucket=bucket, prefix="limits"):
        orders: int = 10

    class Flags(Model, bucket=bucket, prefix="flags.all"):
        on: bool = False

    store = await harness.open()
    limits, flags = store.repository(Limits), store.repository(Flags)
    assert await limits.get_or_none() is None
    first = await limits.save(Limits())
    await flags.save(Flags(on=True))
    assert [one.raw_key for one in await harness.messages(bucket.name)] == ["limits", "flags.all"]
    entry = await limits.entry()
    assert (entry.value, entry.key, entry.raw_key, entry.revision) == (Limits(), (), "limits", first)
    assert (await limits.update(apply=lambda one: one.model_copy(update={"orders": 11}))).orders == 11
    assert (await limits.get()).orders == 11
    assert (await limits.get(revision=first)).orders == 10
    assert len(await limits.history()) == 2
    assert await listed(limits.keys()) == [()]
    assert [one.orders async for one in limits.find()] == [11]
    assert await limits.get_many([()]) == [Limits(orders=11)]
    assert await limits.count() == 1
    assert len(latest(await until_caught_up(limits.watch()))) == 2
    await limits.restore(revision=first)
    await limits.delete()
    assert not await limits.exists()
    assert (await flags.get()).on
    with raises(InvalidKeyError):
        await limits.get("limits")


async def api_a_namespace_precedes_bucket_names(harness: Harness) -> None:
    """Stores with different namespaces share nothing; the full name is shown where a bucket is named."""
    declared = Note
    name = harness.new_name()
    plain = await harness.open()
    staging = await harness.open(namespace=f"{name}-staging-")
    bucket = Bucket("notes", replicas=harness.replicas)
    notes = notes_in(staging, bucket)
    assert notes.bucket.name == f"{name}-staging-notes"
    await notes.save(declared(id="a"))
    entry = await notes.entry("a")
    assert entry.bucket == f"{name}-staging-notes"
    with raises(KeyNotFoundError) as raised:
        await notes.get("b")
    assert raised.error.bucket == f"{name}-staging-notes"
    other = await harness.open(namespace=f"{name}-live-")
    assert await notes_in(other, bucket).get_or_none("a") is None
    assert await notes_in(plain, bucket.renamed(f"{name}-staging-notes")).get("a") == declared(id="a")
    for full in (f"{name}-staging-notes", f"{name}-live-notes"):
        await harness.delete(full)


async def api_a_repository_may_name_its_bucket(harness: Harness) -> None:
    """`bucket=` picks another bucket with the declared settings; what is in one is not in the other."""
    bucket = new_bucket(harness, history=4)

    class Memo(Model, bucket=bucket):
        id: Key[str]

    class Memos(Repository[Memo]):
        async def first(self) -> Memo:
            return await self.get("a")

    store = await harness.open()
    other = harness.new_name()
    memos, others = store.repository(Memo), store.repository(Memos, bucket=other)
    assert (memos.bucket.name, others.bucket.name, others.bucket.history) == (bucket.name, other, 4)
    await others.save(Memo(id="a"))
    assert await others.first() == Memo(id="a")
    assert await memos.get_or_none("a") is None
    assert (await others.entry("a")).bucket == other
    assert await Memos(Memo, store).count() == 0
    await store.ensure(others)


async def api_a_missing_bucket_is_made_at_first_use(harness: Harness) -> None:
    """By any operation, once, also when several clients come at the same moment."""
    uses: list[Callable[[Repository[Note]], Awaitable[Any]]] = [
        lambda notes: notes.get_or_none("a"),
        lambda notes: notes.count(),
        lambda notes: notes.save(Note(id="a")),
        lambda notes: notes.history("a"),
        lambda notes: until_caught_up(notes.watch()),
    ]
    for use in uses:
        notes = await new_notes(harness)
        await use(notes)
        await harness.messages(notes.bucket.name)
    bucket = new_bucket(harness)
    stores = [await harness.open() for _ in range(4)]
    await asyncio.gather(*(notes_in(store, bucket).save(Note(id=f"{at}")) for at, store in enumerate(stores)))
    assert await notes_in(stores[0], bucket).count() == len(stores)


async def api_create_buckets_can_be_turned_off(harness: Harness) -> None:
    """A missing bucket is then a BucketNotFoundError; `ensure` makes it on demand."""
    store = await harness.open(create_buckets=False)
    bucket = new_bucket(harness)
    notes = notes_in(store, bucket)
    attempts: list[Attempt] = [
        lambda: notes.get("a"),
        lambda: notes.get_or_none("a"),
        lambda: notes.save(Note(id="a")),
        notes.count,
        lambda: until_caught_up(notes.watch()),
    ]
    for attempt in attempts:
        with raises(BucketNotFoundError) as raised:
            await attempt()
        assert raised.error.bucket == bucket.name
    await store.ensure(notes)
    await notes.save(Note(id="a"))
    # A bucket that is there is all it takes.
    assert await notes_in(await harness.open(create_buckets=False), bucket).count() == 1


async def api_a_difference_is_told(harness: Harness) -> None:
    """An existing bucket that is not as declared: every difference is named, nothing is changed."""
    bucket = new_bucket(harness, history=3, max_value_bytes=5000, ttl=timedelta(minutes=5))
    await _make(harness, bucket)
    other = new_bucket(harness, history=5, max_value_bytes=6000, description="else", metadata={"team": "b"})
    declared = other.renamed(bucket.name)
    store = await harness.open()
    notes = notes_in(store, declared)
    attempts: list[Attempt] = [
        lambda: notes.get("a"),
        lambda: notes.save(Note(id="a")),
        lambda: store.ensure(notes),
        lambda: until_caught_up(notes.watch()),
    ]
    for attempt in attempts:
        with raises(BucketMismatchError) as raised:
            await attempt()
        assert raised.error.bucket == bucket.name
        assert raised.error.differences == {
            "history": Difference(5, 3),
            "max_value_bytes": Difference(6000, 5000),
            "ttl": Difference(None, timedelta(minutes=5)),
            "description": Difference("else", None),
            "metadata['team']": Difference("b", None),
        }
        assert "history" in str(raised.error)
    await _check_same(harness, bucket)


async def api_what_is_not_said_is_accepted(harness: Harness) -> None:
    """Settings that a declaration leaves open may be anything, and `ensure` leaves them."""
    bucket = new_bucket(
        harness, history=2, max_value_bytes=5000, max_bytes=10**6, description="theirs", metadata={"team": "a"}
    )
    await _make(harness, bucket)
    open_ = Bucket(bucket.name, history=2)
    store = await harness.open()
    notes = notes_in(store, open_)
    await notes.save(Note(id="b"))
    await store.ensure(notes, on_difference="update")
    await _check_same(harness, bucket)


async def api_a_difference_can_be_applied(harness: Harness) -> None:
    """`on_difference="update"` changes the bucket, keeps what is in it, and the new settings hold."""
    bucket = new_bucket(harness, history=1, metadata={"team": "a"})
    await _make(harness, bucket)
    declared = Bucket(
        bucket.name,
        replicas=harness.replicas,
        history=3,
        max_value_bytes=2000,
        description="mine",
        ttl=timedelta(hours=1),
        metadata={"by": "b"},
    )
    store = await harness.open()
    notes = notes_in(store, declared)
    with raises(BucketMismatchError):
        await notes.count()
    await store.ensure(notes, on_difference="update")
    assert await notes.count() == 1
    for _ in range(3):
        await notes.update("a", apply=lambda note: note.model_copy(update={"text": note.text + "."}))
    assert len(await notes.history("a")) == 3
    await _check_same(harness, replace(declared, metadata={"team": "a", "by": "b"}))
    await store.ensure(notes, on_difference="update")


async def api_what_cannot_be_changed_changes_nothing(harness: Harness) -> None:
    """One setting that the server cannot change is an UnsupportedError, and the others stay as they were, too."""
    bucket = new_bucket(harness, history=2, storage="memory")
    await _make(harness, bucket)
    declared = new_bucket(harness, history=5, storage="file").renamed(bucket.name)
    store = await harness.open()
    notes = notes_in(store, declared)
    with raises(UnsupportedError):
        await store.ensure(notes, on_difference="update")
    await _check_same(harness, bucket)
    with raises(BucketMismatchError) as raised:
        await store.ensure(notes)
    assert set(raised.error.differences) == {"history", "storage"}


async def api_a_full_bucket_refuses(harness: Harness) -> None:
    """Beyond `max_bytes` a write is refused and stored nowhere; after a purge there is room again."""
    notes = await new_notes(harness, max_bytes=20_000)
    for number in range(100):
        stored = await harness.messages(notes.bucket.name) if number else []
        try:
            await notes.save(Note(id=f"{number}", text="x" * 1000))
        except StoreError:
            assert 10 < number < 25
            assert await harness.messages(notes.bucket.name) == stored
            break
    else:
        raise AssertionError("100 notes of 1,000 bytes are more than 20,000")
    await notes.purge("0")
    await notes.save(Note(id="small"))


async def _make(harness: Harness, bucket: Bucket) -> None:
    await notes_in(await harness.open(), bucket).save(Note(id="a"))


async def _check_same(harness: Harness, bucket: Bucket) -> None:
    """Fail unless the bucket is exactly what is declared, seen by a store that never met it."""
    store: Store = await harness.open(create_buckets=False)
    await store.ensure(notes_in(store, bucket))
