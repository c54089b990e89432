"""W1, W2 and W4 to W7: one object is stored, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

from kvorm.entry import ABSENT, ANY, Entry, Marker
from kvorm.errors import (
    ConflictError,
    DecodeError,
    KeyExistsError,
    RevisionMismatchError,
)
from kvorm.stamp import STAMP, revision_of
from kvorm.testing.contract.harness import Attempt, Harness, raises
from kvorm.testing.contract.models import (
    Order,
    elsewhere,
    new_orders,
)


async def w1_a_write_that_returned_is_stored_once(harness: Harness) -> None:
    """Each call adds one message, at the revision that it returned."""
    orders = await new_orders(harness, history=64)
    order = Order(tenant="acme", id=1)
    fresh = Order(tenant="acme", id=2)
    writes: list[Callable[[], Awaitable[object]]] = [
        partial(orders.save, order),
        partial(orders.save, order),
        partial(orders.save, Order(tenant="acme", id=1), expect=ANY),
        partial(orders.update, "acme", 1, apply=lambda _: None),
        partial(orders.get_or_create, fresh),
        partial(orders.restore, "acme", 1, revision=1),
        partial(orders.delete, fresh),
        partial(orders.save_many, [Order(tenant="acme", id=3)]),
        partial(orders.delete_many, [("acme", 3)]),
    ]
    for number, write in enumerate(writes, 1):
        told = await write()
        messages = await harness.messages(orders.bucket.name)
        assert len(messages) == number
        revision = revision_of(told) if isinstance(told, Order) else told
        assert revision in (messages[-1].revision, [messages[-1].revision])
    assert await orders.load([Order(tenant="acme", id=4)]) == 1
    assert len(await harness.messages(orders.bucket.name)) == len(writes) + 1


async def w2_a_refused_write_stores_nothing(harness: Harness) -> None:
    """Value, revision and history stay as they were, whatever was refused."""
    orders = await new_orders(harness, history=5)
    order = Order(tenant="acme", id=1)
    await orders.save(order)
    stale = order.model_copy(update={"note": "stale"})
    order.note = "newer"
    await orders.save(order)
    stored, history = await harness.messages(orders.bucket.name), await orders.history("acme", 1)
    attempts: list[Attempt] = [
        lambda: orders.save(stale),
        lambda: orders.save(stale, expect=ABSENT),
        lambda: orders.save(order, expect=999_999),
        lambda: orders.save(Order(tenant="acme", id=1)),
        lambda: orders.delete(stale),
        lambda: orders.purge(stale),
        lambda: orders.delete(Order(tenant="acme", id=1)),
        lambda: orders.purge(Order(tenant="acme", id=1)),
    ]
    for attempt in attempts:
        with raises(ConflictError):
            await attempt()
    assert await harness.messages(orders.bucket.name) == stored
    assert await orders.history("acme", 1) == history
    assert (await orders.get("acme", 1)).note == "newer"


async def w4_a_revision_must_be_the_latest(harness: Harness) -> None:
    """Neither an older revision is accepted, nor one to come, nor another key's."""
    orders = await new_orders(harness)
    first = await orders.save(Order(tenant="acme", id=1))
    other = await orders.save(Order(tenant="acme", id=2))
    second = await orders.save(Order(tenant="acme", id=1, note="2"), expect=first)
    for wrong in (first, other, second + 1):
        with raises(RevisionMismatchError):
            await orders.save(Order(tenant="acme", id=1, note="wrong"), expect=wrong)
    assert await orders.save(Order(tenant="acme", id=1, note="3"), expect=second) > second
    assert (await orders.get("acme", 1)).note == "3"


async def w4_absent_means_no_live_value(harness: Harness) -> None:
    """A key never written, deleted or purged is absent; a live one is not."""
    orders = await new_orders(harness, history=3)
    for clear in (None, orders.delete, orders.purge):
        if clear is not None:
            await clear("acme", 1)
        revision = await orders.save(Order(tenant="acme", id=1), expect=ABSENT)
        assert (await orders.entry("acme", 1)).revision == revision
        with raises(KeyExistsError):
            await orders.save(Order(tenant="acme", id=1), expect=ABSENT)


async def w4_absent_counts_foreign_markers(harness: Harness) -> None:
    """A marker of another client counts as absent, whichever it is, and each time anew."""
    orders = await new_orders(harness, history=3)
    name = orders.bucket.name
    await orders.save(Order(tenant="acme", id=1))
    for headers in ({"KV-Operation": "DEL"}, {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}):
        marker = await harness.write(name, "acme.1", b"", headers)
        order = Order(tenant="acme", id=1)
        assert await orders.save(order) > marker
        assert await orders.save(order) > marker


async def w4_one_of_many_creators_wins(harness: Harness) -> None:
    """Of those who create one key at once, over nothing or over a marker, exactly one does."""
    orders = await new_orders(harness)
    others = await elsewhere(harness, orders)
    for over_marker in (False, True):
        if over_marker:
            await orders.delete("acme", 1)
        attempts = [
            repository.save(Order(tenant="acme", id=1, note=f"{number}"))
            for number in range(10)
            for repository in (orders, others)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        revisions = [result for result in results if isinstance(result, int)]
        assert [(await orders.entry("acme", 1)).revision] == revisions
        assert all(isinstance(result, int | KeyExistsError) for result in results), results


async def w4_any_always_stores(harness: Harness) -> None:
    """With ANY the last writer wins: over nothing, a value, a newer value, a marker."""
    orders = await new_orders(harness, history=3)
    mine = Order(tenant="acme", id=1, note="mine")
    last = await orders.save(mine, expect=ANY)
    await orders.save(Order(tenant="acme", id=1, note="theirs"), expect=ANY)
    for clear in (None, orders.delete, orders.purge):
        if clear is not None:
            await clear("acme", 1)
        revision = await orders.save(mine, expect=ANY)
        assert revision > last
        assert await orders.get("acme", 1) == mine
        assert revision_of(mine) == revision
        last = revision


async def w4_expect_is_any_absent_or_a_revision(harness: Harness) -> None:
    """Nothing else is taken for a condition, and nothing is sent."""
    orders = await new_orders(harness)
    order = Order(tenant="acme", id=1)
    await orders.save(order)
    stored = await harness.messages(orders.bucket.name)
    wrong: list[Any] = [0, None, True, False, "x", -1, 1.0]
    for expect in wrong:
        with raises(ValueError):
            await orders.save(order, expect=expect)
        with raises(ValueError):
            await orders.save_many([order], expect=expect)
    for revision in wrong:
        with raises(ValueError):
            await orders.restore("acme", 1, revision=revision)
        if revision is not None:
            with raises(ValueError):
                await orders.get("acme", 1, revision=revision)
    assert await harness.messages(orders.bucket.name) == stored


async def w5_a_conflict_says_what_was_expected(harness: Harness) -> None:
    """KeyExistsError where ABSENT was expected, RevisionMismatchError where a revision was."""
    orders = await new_orders(harness)
    order = Order(tenant="acme", id=1)
    first = await orders.save(order)
    stale = order.model_copy()
    second = await orders.save(order)
    unread: list[Attempt] = [
        lambda: orders.save(Order(tenant="acme", id=1)),
        lambda: orders.save(order, expect=ABSENT),
        lambda: orders.delete(Order(tenant="acme", id=1)),
        lambda: orders.purge(Order(tenant="acme", id=1)),
    ]
    outdated: list[Attempt] = [
        lambda: orders.save(stale),
        lambda: orders.save(order, expect=first),
        lambda: orders.delete(stale),
        lambda: orders.purge(stale),
    ]
    for attempts, kind, expected in (
        (unread, KeyExistsError, ABSENT),
        (outdated, RevisionMismatchError, first),
    ):
        for attempt in attempts:
            with raises(ConflictError) as raised:
                await attempt()
            error = raised.error
            assert type(error) is kind
            assert (error.bucket, error.key, error.expected) == (orders.bucket.name, "acme.1", expected)
            assert isinstance(error.current, Entry)
            assert (error.current.revision, error.current.value) == (second, order)
            assert f"{orders.bucket.name}/acme.1" in str(error)


async def w5_a_conflict_carries_what_is_there(harness: Harness) -> None:
    """An entry to go on from, a marker, bytes that do not decode, or None."""
    orders = await new_orders(harness, history=2)
    name = orders.bucket.name
    order = Order(tenant="acme", id=1, note="mine")
    await orders.save(order)
    others = await elsewhere(harness, orders)
    theirs = await others.get("acme", 1)
    await others.save(theirs)

    with raises(RevisionMismatchError) as raised:
        await orders.save(order)
    assert isinstance(raised.error.current, Entry)
    # What the error carries can be changed and saved.
    assert await orders.save(raised.error.current.value) > raised.error.current.revision

    marker = await others.delete("acme", 1)
    with raises(RevisionMismatchError) as raised:
        await orders.save(order)
    assert isinstance(raised.error.current, Marker)
    assert (raised.error.current.revision, raised.error.current.reason) == (marker, "deleted")
    assert raised.error.current.key == ("acme", 1)

    revision = await harness.write(name, "acme.1", b"no json")
    for value in (order, Order(tenant="acme", id=1)):
        with raises(ConflictError) as conflict:
            await orders.save(value)
        current = conflict.error.current
        assert isinstance(current, DecodeError)
        assert (current.revision, current.data) == (revision, b"no json")

    with raises(RevisionMismatchError) as raised:
        await orders.save(Order(tenant="acme", id=2), expect=revision)
    assert raised.error.current is None


async def w5_one_of_many_writers_wins_and_the_others_learn_of_it(harness: Harness) -> None:
    """A conflict never tells the revision that was expected: what was on its way has been waited for."""
    orders = await new_orders(harness)
    others = await elsewhere(harness, orders)
    for id in range(15):
        order = Order(tenant="acme", id=id)
        await orders.save(order)
        racing = [order.model_copy(update={"note": f"{number}"}) for number in range(8)]
        saving = [(orders, others)[number % 2].save(one) for number, one in enumerate(racing)]
        ended = await asyncio.gather(*saving, return_exceptions=True)
        (won,) = [revision for revision in ended if isinstance(revision, int)]
        for error in ended:
            if error != won:
                assert isinstance(error, RevisionMismatchError)
                assert isinstance(error.current, Entry)
                assert error.current.revision == won


async def w5_racing_restores_conflict(harness: Harness) -> None:
    """Restores that race either store one revision or raise RevisionMismatchError."""
    orders = await new_orders(harness, history=64)
    order = Order(tenant="acme", id=1, note="first")
    first = await orders.save(order)
    await orders.save(order)
    before = len(await harness.messages(orders.bucket.name))
    results = await asyncio.gather(
        *(orders.restore("acme", 1, revision=first) for _ in range(16)), return_exceptions=True
    )
    assert all(isinstance(result, int | RevisionMismatchError) for result in results), results
    revisions = [result for result in results if isinstance(result, int)]
    assert 1 <= len(revisions) < len(results)
    assert len(await harness.messages(orders.bucket.name)) == before + len(revisions)
    assert (await orders.entry("acme", 1)).revision == max(revisions)


async def w6_a_failed_write_leaves_the_object(harness: Harness) -> None:
    """After any refusal the object is what it was, the revision that it carries included."""
    orders = await new_orders(harness, max_value_bytes=1000)
    order = Order(tenant="acme", id=1, note="mine")
    await orders.save(order)
    await (await elsewhere(harness, orders)).save(Order(tenant="acme", id=1, note="theirs"), expect=ANY)
    unread = Order(tenant="acme", id=1)
    large = order.model_copy(update={"note": "x" * 1000})
    bent = order.model_copy(update={"total": "many"})
    unkeyable = order.model_copy(update={"tenant": "x" * 2000})
    attempts: list[tuple[BaseModel, Attempt]] = [
        (order, lambda: orders.save(order)),
        (order, lambda: orders.delete(order)),
        (order, lambda: orders.purge(order)),
        (unread, lambda: orders.save(unread)),
        (unread, lambda: orders.delete(unread)),
        (large, lambda: orders.save(large)),
        (bent, lambda: orders.save(bent)),
        (unkeyable, lambda: orders.save(unkeyable)),
        (order, lambda: orders.save_many([order])),
    ]
    for value, attempt in attempts:
        before = dict(vars(value)), set(value.model_fields_set)
        with raises(Exception):
            await attempt()
        assert (dict(vars(value)), value.model_fields_set) == before


async def w6_a_successful_write_changes_the_stamp_alone(harness: Harness) -> None:
    """The object carries the returned revision; its fields, and which of them were set, stay."""
    orders = await new_orders(harness)
    order = Order(tenant="acme", id=1)
    assert revision_of(order) is None

    def content() -> object:
        return {name: value for name, value in vars(order).items() if name != STAMP}, set(order.model_fields_set)

    before = content()
    writes: list[Callable[[], Awaitable[int]]] = [
        lambda: orders.save(order),
        lambda: orders.save(order),
        lambda: orders.save(order, expect=ANY),
        lambda: orders.delete(order),
        lambda: orders.save(order, expect=ABSENT),
        lambda: orders.purge(order),
    ]
    last = 0
    for write in writes:
        revision = await write()
        assert revision > last
        assert revision_of(order) == revision
        assert content() == before
        last = revision


async def w7_checked_saves_add_up(harness: Harness) -> None:
    """The same with get, save and a loop of one's own."""
    orders = await new_orders(harness)
    await orders.save(Order(tenant="acme", id=1))
    workers, increments = 3, 10

    async def work() -> None:
        mine = await elsewhere(harness, orders)
        done = 0
        while done < increments:
            order = await mine.get("acme", 1)
            order.total += 1
            try:
                await mine.save(order)
            except RevisionMismatchError:
                continue
            done += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    assert (await orders.get("acme", 1)).total == workers * increments
