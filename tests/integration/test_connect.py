"""Connecting: what is said when it does not work, how soon, and what a lost connection means for each operation."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import pytest

import kvorm
from kvorm import (
    Bucket,
    BucketNotFoundError,
    Key,
    Model,
    ModelError,
    NatsStore,
    PermissionDeniedError,
    Store,
    StoreClosedError,
    StoreUnavailableError,
    UnsupportedError,
    revision_of,
)
from kvorm.backends.local_supervisor import free_ports
from kvorm.testing.servers import NatsCluster, NatsServer

SECOND = timedelta(seconds=1)
LOGIN = 'authorization { user: "ada", password: "s3cret" }'
TOKEN = 'authorization { token: "s3cret" }'


class Note(Model, bucket=Bucket("connect-notes", history=5)):
    id: Key[str]
    text: str = ""


@contextmanager
def within(seconds: float, *, at_least: float = 0) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start < seconds


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


def closed_url() -> str:
    return f"nats://127.0.0.1:{next(iter(free_ports()))}"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that the test may end."""
    with NatsServer(tmp_path / "server") as server:
        yield server


# Nothing there


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("way", ["await", "async with"])
async def test_nothing_is_there(
    servers: int, way: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    urls = [closed_url() for _ in range(servers)]
    connecting = kvorm.connect(urls[0] if servers == 1 else urls)
    opening = connecting.__aenter__() if way == "async with" else connecting
    with within(3), pytest.raises(StoreUnavailableError, match=rf"^no NATS server at {', '.join(urls)}: .* Start one"):
        await opening
    said = [record for record in caplog.records if record.name.split(".")[0] in ("nats", "kvorm")]
    assert [record for record in said if record.levelno > logging.DEBUG] == []
    assert len(said) < 50
    assert tuple(capfd.readouterr()) == ("", "")
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_short_budget_holds_for_connecting_too() -> None:
    with within(1), pytest.raises(StoreUnavailableError):
        await kvorm.connect(closed_url(), timeout=timedelta(milliseconds=300))


async def test_a_server_that_says_nothing(own_server: NatsServer) -> None:
    own_server.pause()
    try:
        with within(3), pytest.raises(StoreUnavailableError):
            await kvorm.connect(own_server.url)
    finally:
        own_server.resume()


async def test_the_servers_that_are_there_are_enough(nats_server: NatsServer) -> None:
    async with kvorm.connect([closed_url(), nats_server.url]) as store:
        assert not await store.repository(Note).exists("no-such")
    async with kvorm.connect(f"{closed_url()}, {nats_server.url}") as store:
        assert not await store.repository(Note).exists("no-such")


# Refused


@pytest.mark.parametrize(
    ("config", "user", "options"),
    [
        (LOGIN, "ada:wrong@", {}),
        (LOGIN, "", {"user": "ada", "password": "wrong"}),
        (LOGIN, "", {}),
        (TOKEN, "", {"token": "wrong"}),
        (TOKEN, "wrong@", {}),
    ],
)
async def test_a_refused_login_is_said_at_once(
    config: str, user: str, options: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with NatsServer(tmp_path, config=config) as server:
        url = server.url.replace("nats://", f"nats://{user}")
        with within(1), pytest.raises(PermissionDeniedError, match=r"refused the login: .* check user, pass") as raised:
            await kvorm.connect(url, **options)
        assert "wrong" not in str(raised.value)
        assert raised.value.subject is None
        assert caplog.records == []


@pytest.mark.parametrize(
    ("config", "user", "options"),
    [
        (LOGIN, "ada:s3cret@", {}),
        (LOGIN, "", {"user": "ada", "password": "s3cret"}),
        (TOKEN, "", {"token": "s3cret"}),
        (TOKEN, "s3cret@", {}),
    ],
)
async def test_a_login(config: str, user: str, options: dict[str, str], tmp_path: Path) -> None:
    with NatsServer(tmp_path, config=config) as server:
        async with kvorm.connect(server.url.replace("nats://", f"nats://{user}"), **options) as store:
            assert await store.repository(Note).save(Note(id="a")) == 1


@pytest.mark.parametrize("jetstream", ["none", "not for this account"])
async def test_no_jetstream(jetstream: str, tmp_path: Path) -> None:
    accounts = 'accounts { A { users: [{ user: "a", password: "a" }] } }'
    config = accounts if jetstream == "not for this account" else ""
    with NatsServer(tmp_path, jetstream=bool(config), config=config) as server:
        url = server.url.replace("nats://", "nats://a:a@") if config else server.url
        with (
            within(1),
            pytest.raises(UnsupportedError, match=r"JetStream.*(start it with -js|not enabled for this acc)"),
        ):
            await kvorm.connect(url)


# What to connect to


async def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", None):
        monkeypatch.setenv("KVORM_URL", "") if value == "" else monkeypatch.delenv("KVORM_URL")
        with pytest.raises(
            StoreUnavailableError, match=r"\$KVORM_URL is not set: write kvorm.connect\('local:./data'\)"
        ):
            await kvorm.connect()


async def test_a_url_from_the_environment(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVORM_URL", nats_server.url)
    async with kvorm.connect() as store:
        assert isinstance(store, NatsStore)
        assert store.client.connected_url is not None
        assert store.client.connected_url.netloc in nats_server.url
    monkeypatch.setenv("KVORM_URL", "memory:")
    async with kvorm.connect() as store:
        assert await store.repository(Note).save(Note(id="a")) == 1


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4222",
        "http://127.0.0.1:4222",
        "memory",
        "memory://",
        "local:",
        "nats",
        "nats:127.0.0.1",
        "nats://",
        "nats://127.0.0.1:port",
        "nats://127.0.0.1:99999",
        [],
        ["nats://127.0.0.1:1", "memory:"],
        ["memory:", "memory:"],
        "nats://127.0.0.1:1,local:x",
    ],
)
async def test_bad_urls(url: str | list[str]) -> None:
    with within(3), pytest.raises(StoreUnavailableError):
        await kvorm.connect(url)


async def test_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"connect\(\) takes no option pasword, user_name"):
        kvorm.connect("nats://127.0.0.1:4222", pasword="x", user_name="y")


@pytest.mark.parametrize("timeout", [timedelta(0), -SECOND, 5, None])
async def test_a_budget_is_a_positive_timedelta(timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a positive timedelta, for example timedelta\(seconds=5\)"):
        kvorm.connect("memory:", timeout=timeout)


@pytest.mark.parametrize("namespace", ["a.b", "a b", "*", "ä", "a\n"])
async def test_a_namespace_is_part_of_a_name(namespace: str) -> None:
    with pytest.raises(ValueError, match="use letters, digits, '-' and '_' only"):
        kvorm.connect("memory:", namespace=namespace)


# Options


async def test_a_namespace_precedes_the_bucket(nats_server: NatsServer) -> None:
    async with kvorm.connect(nats_server.url, namespace="connect_1-") as store:
        assert isinstance(store, NatsStore)
        await store.repository(Note).save(Note(id="a"))
        entry = await (await store.client.jetstream().key_value("connect_1-connect-notes")).get("a")
        assert entry.value == b'{"id":"a","text":""}'


async def test_buckets_are_created_only_if_wished(nats_server: NatsServer) -> None:
    async with kvorm.connect(nats_server.url, namespace="connect_2-", create_buckets=False) as store:
        with pytest.raises(BucketNotFoundError, match="create_buckets is off"):
            await store.repository(Note).count()


async def test_options_of_the_client_pass_through(nats_server: NatsServer) -> None:
    async with kvorm.connect(nats_server.url, name="orders-service", inbox_prefix="_INBOX_orders") as store:
        assert isinstance(store, NatsStore)
        assert store.client.options["name"] == "orders-service"
        assert await store.repository(Note).count() == 0


async def test_a_domain(tmp_path: Path) -> None:
    config = "jetstream { domain: hub, store_dir: '.' }"
    with NatsServer(tmp_path, config=config, jetstream=False) as server:
        async with kvorm.connect(server.url, domain="hub") as store:
            notes = store.repository(Note)
            note = Note(id="a")
            await notes.save(note)
            note.text = "x"
            await notes.save(note)
            assert await notes.get("a") == note
            assert [change.revision for change in await notes.history("a")] == [1, 2]
            assert await notes.count() == 1
            async with notes.watch() as events:
                assert await asyncio.wait_for(anext(events), 5)
            await notes.purge(note)
            assert not await notes.exists("a")
        with pytest.raises(UnsupportedError, match="JetStream"):
            await kvorm.connect(server.url, domain="elsewhere")


async def test_callbacks_that_raise_break_nothing(own_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def raising(name: str) -> Callable[..., Awaitable[None]]:
        async def callback(*_: object) -> None:
            called.append(name)
            raise ZeroDivisionError(name)

        return callback

    names = ["error_cb", "disconnected_cb", "reconnected_cb", "closed_cb"]
    async with kvorm.connect(own_server.url, **{name: raising(name) for name in names}) as store:
        notes = store.repository(Note)
        await notes.save(Note(id="a"))
        own_server.stop()
        await eventually(lambda: is_in("disconnected_cb", called))
        own_server.start()
        await eventually(lambda: is_in("reconnected_cb", called))
        assert await notes.get("a") == Note(id="a")
        assert await notes.save(Note(id="b")) == 2
    assert "closed_cb" in called
    assert "a callback given to kvorm.connect() raised" in caplog.text


async def is_in(name: str, called: list[str]) -> bool:
    return name in called


# A connection that is the caller's


async def test_a_given_client_stays_open(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    try:
        before = len(client._subs)
        async with NatsStore(client, namespace="connect_3-") as store:
            await store.repository(Note).save(Note(id="a"))
            async with store.repository(Note).watch() as events:
                await anext(events)
        await store.close()
        assert client.is_connected
        assert len(client._subs) <= before + 1  # nats-py keeps the inbox of its requests
        with pytest.raises(StoreClosedError):
            await store.repository(Note).get("a")
        async with NatsStore(client, namespace="connect_3-") as store:
            assert await store.repository(Note).get("a") == Note(id="a")
    finally:
        await client.close()


async def test_a_given_client_that_was_closed(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    store = NatsStore(client, namespace="connect_4-")
    notes = store.repository(Note)
    await notes.save(Note(id="a"))
    await client.close()
    with within(1), pytest.raises(StoreClosedError):
        await notes.get("a")
    with within(1), pytest.raises(StoreClosedError):
        await notes.save(Note(id="b"))
    await store.close()


async def test_a_store_closes_its_own_connection(nats_server: NatsServer) -> None:
    async with kvorm.connect(nats_server.url) as store:
        assert isinstance(store, NatsStore)
        client = store.client
        await store.repository(Note).exists("a")
    assert client.is_closed
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    with pytest.raises(StoreClosedError):
        await store.repository(Note).exists("a")


# Lost connections


async def revisions(store: Store) -> list[int]:
    return [change.revision for change in await store.repository(Note).history("a")]


async def test_a_write_without_a_connection_stores_nothing(
    own_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with kvorm.connect(own_server.url, timeout=SECOND) as store:
        assert isinstance(store, NatsStore)
        notes = store.repository(Note)
        note = Note(id="a")
        await notes.save(note)
        own_server.kill()
        await eventually(lambda: is_lost(store))
        note.text = "lost"
        with within(1.5, at_least=0.9), pytest.raises(StoreUnavailableError, match=r"for 1 s; nothing was sent"):
            await notes.save(note)
        with within(1.5, at_least=0.9), pytest.raises(StoreUnavailableError):
            await notes.get("a")
        assert revision_of(note) == 1
        own_server.start()
        await eventually(lambda: is_found(store))
        assert (await notes.get("a")).text == ""
        # A write that had been kept by nats-py would have come before this one.
        assert await notes.save(note) == 2
        async with kvorm.connect(own_server.url) as other:
            assert await revisions(other) == [1, 2]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) < 5


async def is_lost(store: NatsStore) -> bool:
    return not store.client.is_connected


async def is_found(store: NatsStore) -> bool:
    return store.client.is_connected


async def test_a_write_waits_for_the_connection(own_server: NatsServer) -> None:
    async with kvorm.connect(own_server.url) as store:
        assert isinstance(store, NatsStore)
        notes = store.repository(Note)
        await notes.save(Note(id="a"))
        own_server.kill()
        await eventually(lambda: is_lost(store))
        saving = asyncio.create_task(notes.save(Note(id="b")))
        own_server.start()
        assert await saving == 2
        assert await notes.count() == 2


async def test_a_budget_of_a_repository(own_server: NatsServer) -> None:
    async with kvorm.connect(own_server.url) as store:
        assert isinstance(store, NatsStore)
        hasty = store.repository(Note, timeout=timedelta(milliseconds=300))
        await hasty.save(Note(id="a"))
        own_server.kill()
        await eventually(lambda: is_lost(store))
        with within(0.8, at_least=0.25), pytest.raises(StoreUnavailableError):
            await hasty.get("a")


# Clusters and several clients


async def test_a_cluster_wants_a_number_of_copies(nats_cluster: NatsCluster) -> None:
    class Copied(Model, bucket=Bucket("connect-copied", replicas=3)):
        id: Key[str]

    class Single(Model, bucket=Bucket("connect-single", replicas=1)):
        id: Key[str]

    async with kvorm.connect(nats_cluster.urls) as store:
        with pytest.raises(ModelError, match="on a cluster its number of copies must be said: say replicas=3, or 1 on"):
            await store.repository(Note).count()
        for model, copies in ((Copied, 3), (Single, 1)):
            await store.repository(model).save(model(id="a"))
            assert await store.repository(model).get("a") == model(id="a")
            client = store.client  # type: ignore[attr-defined]
            info = await client.jetstream().stream_info(f"KV_connect-{model.__name__.lower()}")
            assert info.config.num_replicas == copies


async def test_a_cluster_takes_what_exists(nats_cluster: NatsCluster) -> None:
    class Said(Model, bucket=Bucket("connect-exists", replicas=3)):
        id: Key[str]

    class Unsaid(Model, bucket=Bucket("connect-exists")):
        id: Key[str]

    async with kvorm.connect(nats_cluster.urls) as store, kvorm.connect(nats_cluster.urls[1]) as other:
        await store.ensure(Said)
        await other.repository(Unsaid).save(Unsaid(id="a"))
        assert await store.repository(Said).exists("a")


async def test_many_clients_create_one_bucket_at_once(nats_server: NatsServer) -> None:
    stores = [await kvorm.connect(nats_server.url, namespace="connect_5-") for _ in range(8)]
    try:
        results = await asyncio.gather(
            *(store.repository(Note).save(Note(id="a")) for store in stores for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in results) == ["KeyExistsError"] * 15 + ["int"]
        assert await stores[0].repository(Note).count() == 1
    finally:
        for store in stores:
            await store.close()


async def test_a_store_without_a_connection_is_closed(tmp_path: Path) -> None:
    """Also if the client has something left to send."""
    with NatsServer(tmp_path) as server:
        async with kvorm.connect(server.url) as store:
            assert isinstance(store, NatsStore)
            server.kill()
            while store.client.is_connected:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
            await store.client.publish("left", b"")
        assert store.client.is_closed
