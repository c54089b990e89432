"""What only a real server has: stream configurations, other libraries, connections."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from nats.js.errors import NotFoundError

from kvorm.errors import KeyNotFoundError, StoreClosedError, UnsupportedError, ValueTooLargeError
from kvorm.store import NatsStore
from kvorm.testing.contract.harness import PATIENCE, ServerHarness, eventually, listed, raises
from kvorm.testing.contract.marks import reason
from kvorm.testing.contract.models import Note, new_bucket, new_notes, note_of_size, notes_in
from kvorm.testing.contract.watching import caught_up

_SECOND = 10**9


async def i1_a_created_bucket_is_a_plain_kv_bucket(harness: ServerHarness) -> None:
    """Its stream is what ADR-8 says, with what kvorm promises on top, as far as the server knows it."""
    client = await harness.connect()
    version = client.connected_server_version
    known = (version.major, version.minor)
    plain = new_bucket(harness)
    full = new_bucket(
        harness,
        history=7,
        ttl=timedelta(seconds=10),
        marker_ttl=timedelta(seconds=5),
        storage="memory",
        max_value_bytes=1000,
        max_bytes=10**6,
        description="orders",
        metadata={"team": "a"},
    )
    store = await harness.open()
    await store.ensure(notes_in(store, plain), notes_in(store, full))
    wanted: dict[str, Any] = {
        "retention": "limits",
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "deny_purge": False,
        "num_replicas": harness.replicas or 1,
        "max_msgs": -1,
        "max_consumers": -1,
    }
    if known >= (2, 12):
        wanted["allow_atomic"] = True
    if known >= (2, 14):
        wanted["allow_batched"] = True
    for bucket, own in (
        (
            plain,
            {
                "max_msgs_per_subject": 1,
                "max_age": 0,
                "duplicate_window": 30 * _SECOND,
                "max_msg_size": -1,
                "max_bytes": -1,
                "storage": "file",
                "compression": "none",
            },
        ),
        (
            full,
            {
                "max_msgs_per_subject": 7,
                "max_age": 10 * _SECOND,
                "duplicate_window": 10 * _SECOND,
                "subject_delete_marker_ttl": 5 * _SECOND,
                "allow_msg_ttl": True,
                "max_msg_size": 1000 + 256,
                "max_bytes": 10**6,
                "storage": "memory",
                "description": "orders",
            },
        ),
    ):
        info = await harness.call(f"STREAM.INFO.KV_{bucket.name}")
        config: dict[str, Any] = info["config"]
        assert config["subjects"] == [f"$KV.{bucket.name}.>"]
        assert {name: config.get(name, False) for name in {**wanted, **own}} == {**wanted, **own}
        assert config["metadata"]["kvorm.layout"] == "1"
        assert {name: text for name, text in config["metadata"].items() if not name.startswith(("_nats", "kvorm"))} == (
            bucket.metadata
        )
        status = await (await client.jetstream().key_value(bucket.name)).status()
        assert status.history == bucket.history


async def i1_a_higher_layout_is_unsupported(harness: ServerHarness) -> None:
    """A bucket that a newer kvorm laid out is not touched, whatever is asked."""
    notes = await new_notes(harness)
    await notes.save(Note(id="a"))
    name = notes.bucket.name
    config = (await harness.call(f"STREAM.INFO.KV_{name}"))["config"]
    config["metadata"]["kvorm.layout"] = "2"
    assert "error" not in await harness.call(f"STREAM.UPDATE.KV_{name}", config)
    stored = await harness.messages(name)
    store = await harness.open()
    others = notes_in(store, notes.bucket)
    for attempt in (
        lambda: others.get("a"),
        lambda: others.save(Note(id="b")),
        lambda: store.ensure(others),
        lambda: store.ensure(others, on_difference="update"),
    ):
        with raises(UnsupportedError) as raised:
            await attempt()
        assert name in str(raised.error)
    assert await harness.messages(name) == stored


async def i1_nats_py_and_kvorm_understand_each_other(harness: ServerHarness) -> None:
    """Values, deletes and purges of nats-py's own KV client, and the reverse."""
    notes = await new_notes(harness, history=5)
    await notes.count()
    kv = await (await harness.connect()).jetstream().key_value(notes.bucket.name)
    first = await kv.put("a", b'{"id": "a", "text": "theirs"}')
    note = await notes.get("a")
    assert note.text == "theirs"
    note.text = "mine"
    second = await notes.save(note)
    assert (await kv.get("a")).value == b'{"id":"a","text":"mine"}'
    assert (await kv.get("a")).revision == second
    assert (await kv.get("a", revision=first)).value == b'{"id": "a", "text": "theirs"}'
    third = await kv.update("a", b'{"id": "a"}', last=second)
    assert (await notes.entry("a")).revision == third

    await notes.delete("a")
    with raises(NotFoundError):
        await kv.get("a")
    await kv.put("a", b'{"id": "a"}')
    await kv.delete("a")
    with raises(KeyNotFoundError) as raised:
        await notes.get("a")
    assert raised.error.marker is not None
    assert raised.error.marker.reason == "deleted"
    await notes.save(Note(id="a"))
    await kv.purge("a")
    assert [reason(event) for event in await notes.history("a")] == ["purged"]
    await notes.save(Note(id="a"))
    await notes.purge("a")
    with raises(NotFoundError):
        await kv.get("a")
    await notes.save(Note(id="a/b_-1"))
    assert (await kv.get("a/b_-1")).value == b'{"id":"a/b_-1","text":""}'


async def c2_a_store_closes_only_its_own_connection(harness: ServerHarness) -> None:
    """One that it was given stays open, without a subscription more than before; one that it made is closed."""
    client = await harness.connect()
    bucket = new_bucket(harness)
    # The first request makes the client subscribe to its own inbox, once.
    await client.jetstream().account_info()
    before = subscriptions(client)
    store = NatsStore(client)
    assert store.client is client
    notes = notes_in(store, bucket)
    await notes.save(Note(id="a"))
    watch = notes.watch()
    await caught_up(watch)
    await store.close()
    with raises(StoreClosedError):
        await anext(watch)
    assert client.is_connected
    await eventually(lambda: _is(client, before))
    await eventually(lambda: _no_consumers(harness, bucket.name))
    again = NatsStore(client)
    assert await notes_in(again, bucket).count() == 1
    await again.close()
    own = await harness.open()
    assert isinstance(own, NatsStore)
    assert own.client.is_connected
    await own.close()
    assert own.client.is_closed


async def s7_losing_the_connection_for_good_ends_watches(harness: ServerHarness) -> None:
    """A connection that its owner closes ends watches and operations with StoreClosedError."""
    client = await harness.connect()
    store = NatsStore(client)
    notes = notes_in(store, new_bucket(harness))
    await notes.save(Note(id="a"))
    watch = notes.watch()
    await caught_up(watch)
    await client.close()
    with raises(StoreClosedError):
        await anext(watch)
    with raises(StoreClosedError):
        await notes.get("a")
    await store.close()


async def s7_losing_the_connection_for_good_ends_views(harness: ServerHarness) -> None:
    """Each read of the view raises StoreClosedError from then on, and so does whoever waits for a revision."""
    client = await harness.connect()
    store = NatsStore(client)
    notes = notes_in(store, new_bucket(harness))
    await notes.save(Note(id="a"))
    async with notes.view() as view, asyncio.timeout(PATIENCE.total_seconds()):
        waiting = asyncio.create_task(view.wait_for(1000))
        await asyncio.sleep(0)
        await client.close()
        with raises(StoreClosedError):
            await waiting
        with raises(StoreClosedError):
            view.get("a")
    await store.close()


async def s3_a_view_notices_what_went_while_it_was_blind(harness: ServerHarness) -> None:
    """Deleted, and the marker erased from the server, while the view had no consumer: the key leaves the view."""
    notes = await new_notes(harness)
    stream = f"KV_{notes.bucket.name}"
    await notes.save_many([Note(id="a"), Note(id="b")])
    async with notes.view() as view:
        for consumer in (await harness.call(f"CONSUMER.NAMES.{stream}"))["consumers"]:
            await harness.call(f"CONSUMER.DELETE.{stream}.{consumer}")
        revision = await notes.delete("a")
        await harness.call(f"STREAM.PURGE.{stream}", {"filter": f"$KV.{notes.bucket.name}.a"})
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await view.wait_for(revision)
        assert list(view) == [("b",)]


async def w8_an_oversize_write_leaves_the_connection(harness: ServerHarness) -> None:
    """Neither a value nor a key that is too large makes the server hang up: nothing of it was sent."""
    client = await harness.connect()
    notes = notes_in(NatsStore(client), new_bucket(harness))
    reconnects, refused = client.stats["reconnects"], list[int]()
    for size in range(client.max_payload - 300, client.max_payload + 2):
        if size % 10 in (0, client.max_payload % 10):
            try:
                await notes.save(note_of_size(size))
                await notes.purge("n")
            except ValueTooLargeError as error:
                refused.append(error.size)
    assert client.is_connected
    assert client.stats["reconnects"] == reconnects
    assert 0 < len(refused) < 40
    assert await notes.count() == 0


async def c3_reads_leave_no_consumer(harness: ServerHarness) -> None:
    """Lists, histories and bulk reads need no state on the server, and leave no subscription."""
    notes = await new_notes(harness, history=3)
    await notes.save_many([Note(id=f"{number}") for number in range(20)])
    store = await harness.open()
    assert isinstance(store, NatsStore)
    others = notes_in(store, notes.bucket)
    await others.get("1")
    before = subscriptions(store.client)
    for _ in range(20):
        await others.count()
        await others.history("1")
        await others.get_many([("1",), ("2",)])
        assert len(await listed(others.find())) == 20
        async for _ in others.find():
            break
    assert await harness.consumers(notes.bucket.name) == 0
    await eventually(lambda: _is(store.client, before))


def subscriptions(client: Any) -> int:
    """Return how many subscriptions a client has; it shows them under no public name."""
    return len(getattr(client, "_subs"))  # noqa: B009


async def _is(client: Any, number: int) -> bool:
    return subscriptions(client) == number


async def _no_consumers(harness: ServerHarness, bucket: str) -> bool:
    return await harness.consumers(bucket) == 0
