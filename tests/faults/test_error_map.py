"""The error map of docs/errors.md, row by row on a real server: one typed error each, in time; the store works on."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

import kvorm
from kvorm import (
    ANY,
    Bucket,
    BucketNotFoundError,
    InvalidKeyError,
    Key,
    KeyExistsError,
    Mapping,
    Model,
    NatsStore,
    PermissionDeniedError,
    Repository,
    Store,
    StoreClosedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from kvorm.testing.proxy import FlakyProxy
from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.rights import as_admin, as_app, grant, until, users

# It takes some milliseconds. An answer that does not come would take the whole budget, which is ten seconds.
AT_ONCE = 0.5
SHORT, LONG = timedelta(seconds=1), timedelta(seconds=60)


class Note(Model, bucket=Bucket("error-notes", history=5)):
    id: Key[str]
    text: str = ""


Attempt = Callable[[], Awaitable[object]]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


async def works(notes: Repository[Note]) -> None:
    """A get and a save, as if nothing had been."""
    note = Note(id=token_hex(4), text="as before")
    await notes.save(note)
    assert await notes.get(note.id) == note


async def listed(notes: Repository[Note]) -> list[Note]:
    return [note async for note in notes.find()]


async def first_event(notes: Repository[Note]) -> object:
    return await anext(aiter(notes.watch()))


@pytest.fixture
async def store(nats_server: NatsServer) -> AsyncIterator[Store]:
    async with kvorm.connect(nats_server.url) as store:
        yield store


def notes_of(store: Store, **settings: Any) -> Repository[Note]:
    """Notes in a bucket of their own."""
    bucket = Bucket(f"e-{token_hex(6)}", history=2, **settings)
    return store.repository(Note, mapping=Mapping(bucket, key=("id",)))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with an admin, and a user who may do what the file says."""
    with NatsServer(tmp_path, config=users(kvorm.permissions(Note, manage=True))) as server:
        yield server


# Too large


async def test_a_value_larger_than_declared(store: Store) -> None:
    notes = notes_of(store, max_value_bytes=200)
    await works(notes)
    with within(AT_ONCE), pytest.raises(ValueTooLargeError) as raised:
        await notes.save(Note(id="a", text="x" * 200))
    assert (raised.value.bucket, raised.value.key, raised.value.limit) == (notes.bucket.name, "a", 200)
    assert raised.value.size > 200
    assert await notes.get_or_none("a") is None
    await works(notes)


@pytest.mark.parametrize("id", ["a", "k" * 1024])
async def test_a_value_larger_than_the_server_takes(store: Store, id: str) -> None:
    """Headers count, the subject does not: to the byte, and the connection lives."""
    notes = notes_of(store)
    await works(notes)
    with within(AT_ONCE), pytest.raises(ValueTooLargeError) as raised:
        await notes.save(Note(id=id, text="x" * 2**20))
    frame = len(Note(id=id).model_dump_json())
    with within(AT_ONCE), pytest.raises(ValueTooLargeError):
        await notes.save(Note(id=id, text="x" * (raised.value.limit - frame + 1)))
    assert await notes.get_or_none(id) is None
    await notes.save(Note(id=id, text="x" * (raised.value.limit - frame)))
    await works(notes)


async def test_a_key_that_is_too_long(store: Store) -> None:
    notes = notes_of(store)
    await works(notes)
    attempts: list[Attempt] = [
        lambda: notes.save(Note(id="k" * 1025)),
        lambda: notes.get("k" * 1025),
        lambda: notes.delete("é" * 200),
        lambda: notes.history("k" * 5000),
    ]
    for attempt in attempts:
        with within(AT_ONCE), pytest.raises(InvalidKeyError) as raised:
            await attempt()
        assert raised.value.key
    await works(notes)


async def test_a_full_bucket(store: Store) -> None:
    notes = notes_of(store, max_bytes=5_000)
    await works(notes)
    note = Note(id="a", text="x" * 5_000)
    with within(AT_ONCE), pytest.raises(StoreError, match="full, nothing was stored") as raised:
        await notes.save(note)
    assert type(raised.value) is StoreError
    assert await notes.get_or_none("a") is None
    assert kvorm.revision_of(note) is None
    await works(notes)


# Denied


@pytest.mark.parametrize(
    ("denied", "attempt"),
    [
        ("$KV.error-notes.*", lambda notes: notes.save(Note(id="a"))),
        ("$KV.error-notes.*", lambda notes: notes.save(Note(id="a"), expect=ANY)),
        ("$KV.error-notes.*", lambda notes: notes.delete("stored")),
        ("$JS.API.DIRECT.GET.KV_error-notes.>", lambda notes: notes.get("stored")),
        ("$JS.API.DIRECT.GET.KV_error-notes", lambda notes: notes.get("stored", revision=1)),
        ("$JS.API.DIRECT.GET.KV_error-notes", lambda notes: notes.history("stored")),
        ("$JS.API.DIRECT.GET.KV_error-notes", listed),
        ("$JS.API.CONSUMER.CREATE.KV_error-notes.*", first_event),
        ("$JS.API.STREAM.INFO.KV_error-notes", lambda notes: notes.count()),
    ],
)
async def test_a_denied_subject(
    guarded: NatsServer, denied: str, attempt: Callable[[Repository[Note]], Awaitable[object]]
) -> None:
    async with as_admin(guarded) as admin:
        # A list of few is read one by one, which takes other rights.
        await admin.repository(Note).save_many([Note(id=id) for id in ("stored", "b", "c", "d")])
        allowed = kvorm.permissions(Note, manage=True)
        less = kvorm.Permissions(tuple(one for one in allowed.publish if one != denied), allowed.subscribe)
        async with as_app(guarded) as app:
            notes = app.repository(Note)
            await works(notes)
            await grant(guarded, less)
            before = await admin.repository(Note).count()
            with within(AT_ONCE), pytest.raises(PermissionDeniedError) as raised:
                await attempt(notes)
            assert raised.value.subject is not None
            assert matches(denied, raised.value.subject)
            assert raised.value.subject in str(raised.value)
            assert await admin.repository(Note).count() == before
            await grant(guarded, allowed)
            await works(notes)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is among those of a pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and matches(".".join(wanted[:-1]), ".".join(given[: len(wanted) - 1]))
    return len(wanted) == len(given) and all(a in ("*", b) for a, b in zip(wanted, given, strict=True))


async def test_creating_a_bucket_is_denied(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config=users(kvorm.permissions(Note))) as server:
        async with as_app(server) as app, as_admin(server) as admin:
            with within(AT_ONCE), pytest.raises(PermissionDeniedError) as raised:
                await app.repository(Note).save(Note(id="a"))
            assert raised.value.subject == "$JS.API.STREAM.CREATE.KV_error-notes"
            await admin.ensure(Note)
            await works(app.repository(Note))


async def test_an_inbox_that_may_not_be_subscribed(tmp_path: Path) -> None:
    own = kvorm.permissions(Note, manage=True, inbox_prefix="_INBOX_app")
    with NatsServer(tmp_path, config=users(own)) as server:
        with within(2 * AT_ONCE), pytest.raises(PermissionDeniedError, match="inbox_prefix") as raised:
            await as_app(server)
        assert raised.value.subject is not None
        assert raised.value.subject.startswith("_INBOX.")
        async with as_app(server, inbox_prefix="_INBOX_app") as app:
            await works(app.repository(Note))


@pytest.mark.parametrize("lands", [True, False])
async def test_an_inbox_lost_during_a_write(guarded: NatsServer, lands: bool) -> None:
    """The write may have landed; the object's next save by somebody with rights does not conflict with itself."""
    allowed = kvorm.permissions(Note, manage=True)
    publish = allowed.publish if lands else tuple(one for one in allowed.publish if not one.startswith("$KV"))
    async with AsyncExitStack() as stack:
        admin = (await stack.enter_async_context(as_admin(guarded))).repository(Note)
        await admin.save(Note(id="other"))
        proxy = await stack.enter_async_context(FlakyProxy(guarded.url))
        app = await stack.enter_async_context(kvorm.connect(proxy.url, user="app", password="b"))
        note = Note(id="a", text="mine")
        assert not await app.repository(Note).exists("a")
        proxy.delay = 0.3
        saving = asyncio.create_task(app.repository(Note).save(note))
        await asyncio.sleep(0.1)  # it is on its way, and the rights change before it arrives
        await grant(guarded, kvorm.Permissions(publish, ("elsewhere.>",)))
        with pytest.raises(PermissionDeniedError):
            await saving
        await asyncio.sleep(0 if lands else 0.3)
        assert await admin.exists("a") is lands
        note.text = "mine, again"
        await admin.save(note)
        assert (await admin.get("a")).text == "mine, again"
        with pytest.raises(KeyExistsError):
            await admin.save(Note(id="a"))
        await works(admin)


async def test_a_client_of_ones_own_does_not_tell_what_is_denied(tmp_path: Path) -> None:
    """Its reports go to its owner's `error_cb`: kvorm can only wait."""

    async def ignore(error: Exception) -> None:
        del error

    with NatsServer(tmp_path, config=users(kvorm.permissions(Note, write=False))) as server:
        async with as_admin(server) as admin:
            await admin.ensure(Note)
        client = await nats.connect(server.url, user="app", password="b", error_cb=ignore)
        async with NatsStore(client, timeout=SHORT) as app:
            with within(1.5), pytest.raises(StoreTimeoutError):
                await app.repository(Note).save(Note(id="a"))
            assert await app.repository(Note).count() == 0
        await client.close()


# Connecting


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ('authorization { user: "ada", password: "s3cret" }', {"user": "ada", "password": "wrong"}),
        ('authorization { token: "s3cret" }', {"token": "wrong"}),
        ('authorization { token: "s3cret" }', {}),
    ],
)
async def test_a_refused_login(tmp_path: Path, config: str, options: dict[str, Any]) -> None:
    with NatsServer(tmp_path, config=config) as server:
        with within(2 * AT_ONCE), pytest.raises(PermissionDeniedError, match="refused the login") as raised:
            await kvorm.connect(server.url, **options)
        assert raised.value.subject is None
        assert "s3cret" not in str(raised.value)


NO_JETSTREAM = """
accounts {
  with: { jetstream: enabled, users: [ { user: a, password: a } ] }
  without: { users: [ { user: b, password: b } ] }
}
"""


@pytest.mark.parametrize("where", ["server", "account"])
async def test_no_jetstream(tmp_path: Path, where: str) -> None:
    with NatsServer(
        tmp_path, jetstream=where == "account", config=NO_JETSTREAM if where == "account" else ""
    ) as server:
        options = {"user": "b", "password": "b"} if where == "account" else {}
        with within(2 * AT_ONCE), pytest.raises(UnsupportedError, match="JetStream"):
            await kvorm.connect(server.url, **options)


# The bucket


@contextmanager
def no_directory(server: NatsServer) -> Iterator[None]:
    """The server cannot make the directory of a stream.

    For a moment it cannot while the account's last stream is removed: the directory above goes, too.
    """
    directory = server.directory / "jetstream"
    away = directory.rename(server.directory / "away")
    directory.touch()
    yield
    directory.unlink()
    away.rename(directory)


async def test_a_bucket_that_the_server_cannot_make_now(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url) as store:
            notes = notes_of(store)
            with no_directory(server):
                saving = asyncio.create_task(notes.save(Note(id="a")))
                await until(lambda: "Stream create failed" in server.log.read_text())
            assert await saving == 1


async def test_a_bucket_that_the_server_cannot_make(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url, timeout=SHORT) as store:
            notes = notes_of(store)
            with (
                no_directory(server),
                within(2 * SHORT.total_seconds()),
                pytest.raises(StoreUnavailableError, match="error creating store"),
            ):
                await notes.save(Note(id="a"))
            await works(notes)


async def test_a_bucket_whose_nodes_are_not_all_there(nats_cluster: NatsCluster) -> None:
    """Server 2.11 refuses to make it until it has heard of them all; 2.15 makes it, and the last node joins later."""
    asked = asyncio.Event()

    async def ask(advisory: Msg) -> None:
        if b"$JS.API.STREAM.CREATE" in advisory.data:
            asked.set()

    async with kvorm.connect(nats_cluster.urls[0], timeout=LONG) as store:
        nats_cluster.nodes[2].stop()
        await store.client.subscribe("$JS.EVENT.ADVISORY.API", cb=ask)
        saving = asyncio.create_task(notes_of(store, replicas=3).save(Note(id="a")))
        await asyncio.wait_for(asked.wait(), LONG.total_seconds())
        await asyncio.to_thread(nats_cluster.start)
        assert await saving == 1


async def test_a_bucket_deleted_under_us(store: Store, nats_server: NatsServer) -> None:
    notes = notes_of(store)
    await works(notes)
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_key_value(notes.bucket.name)
    await client.close()
    attempts: list[Attempt] = [
        lambda: notes.get("a"),
        lambda: notes.save(Note(id="a")),
        lambda: notes.save(Note(id="a"), expect=ANY),
        lambda: notes.delete("a"),
        lambda: notes.history("a"),
        lambda: listed(notes),
        lambda: notes.get_many([("a",)]),
        lambda: first_event(notes),
    ]
    for attempt in attempts:
        with within(2 * AT_ONCE), pytest.raises(BucketNotFoundError) as raised:
            await attempt()
        assert raised.value.bucket == notes.bucket.name
    await store.ensure(notes)
    await works(notes)
    assert len(await listed(notes)) == 1


@pytest.mark.parametrize("answer", [b"me too", b"{}", b'{"stream": "OTHER"}'])
async def test_somebody_else_answers_writes(store: Store, nats_server: NatsServer, answer: bytes) -> None:
    """What JetStream did counts, not what a stranger says."""
    notes = notes_of(store)
    await works(notes)
    async with AsyncExitStack() as stack:
        stranger = await nats.connect(nats_server.url)
        stack.push_async_callback(stranger.close)

        async def interfere(message: Any) -> None:
            await message.respond(answer)

        await stranger.subscribe(f"$KV.{notes.bucket.name}.>", cb=interfere)
        await stranger.flush()
        for number in range(50):
            note = Note(id=f"n{number}")
            revision = await notes.save(note)
            assert (await notes.entry(note.id)).revision == revision
            await notes.save(note)
        for number in range(50):
            assert len(await notes.history(f"n{number}")) == 2
    await works(notes)


# The connection


@pytest.mark.parametrize("end", ["closed", "drained", "store"])
async def test_a_connection_closed_by_its_owner(nats_server: NatsServer, end: str) -> None:
    client = await nats.connect(nats_server.url)
    store = NatsStore(client)
    notes = notes_of(store)
    await works(notes)
    watch = aiter(notes.watch(updates_only=True))
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await {"closed": client.close, "drained": client.drain, "store": store.close}[end]()
    attempts: list[Attempt] = [
        partial(notes.get, "a"),
        partial(notes.save, Note(id="a")),
        partial(notes.history, "a"),
        partial(notes.count),
    ]
    for attempt in attempts:
        with within(AT_ONCE), pytest.raises(StoreClosedError):
            await attempt()
    with pytest.raises(StoreClosedError):
        await waiting
    await store.close()
    await client.close()


async def test_a_lost_quorum(nats_cluster: NatsCluster) -> None:
    """Two of three nodes are gone: said at the budget; what was not sent does not arrive when they are back."""
    client = await nats.connect(nats_cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    async with NatsStore(client, timeout=timedelta(seconds=10)) as store:
        notes = notes_of(store, replicas=3)
        kept = Note(id="kept")
        await notes.save(kept)
        assert client.connected_url is not None
        others = [node for node in nats_cluster.nodes if node.url.rpartition(":")[2] != str(client.connected_url.port)]
        hasty = Repository(Note, store, mapping=Mapping(notes.bucket, key=("id",)), timeout=SHORT)
        told: dict[str, Exception] = {}
        try:
            await asyncio.gather(*(asyncio.to_thread(node.kill) for node in others))
            for id, expect in (("a", kvorm.ABSENT), ("b", kvorm.ABSENT), ("c", ANY)):
                with within(SHORT.total_seconds() + 0.5):
                    try:
                        await hasty.save(Note(id=id), expect=expect)
                    except (StoreUnavailableError, StoreTimeoutError) as error:
                        told[id] = error
            with within(SHORT.total_seconds() + 0.5), pytest.raises((StoreUnavailableError, StoreTimeoutError)):
                await hasty.save(kept)
        finally:
            await asyncio.gather(*(asyncio.to_thread(node.start) for node in others))
            await asyncio.to_thread(nats_cluster.wait_healthy)
        assert set(told) == {"a", "b", "c"}
        for id, error in told.items():
            if isinstance(error, StoreUnavailableError):
                assert not await notes.exists(id)
        await notes.save(kept)
        await works(notes)
    await client.close()


def test_the_page_names_errors_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    named = set(re.findall(r"\b[A-Z][A-Za-z]+Error\b", page)) - {"AssertionError", "TypeError", "ValueError"}
    assert named == {name for name in vars(kvorm) if name.endswith("Error")}
