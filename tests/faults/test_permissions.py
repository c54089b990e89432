"""What `kvorm.permissions()` says is enough for a repository, each of it is needed, and nothing else is allowed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

import kvorm
from kvorm import (
    ANY,
    Bucket,
    CaughtUp,
    Key,
    KeyExistsError,
    KvormError,
    Model,
    PermissionDeniedError,
    Permissions,
    Repository,
    Reset,
    RevisionMismatchError,
    Store,
)
from kvorm.backends.local_supervisor import free_ports
from kvorm.testing.contract.harness import eventually
from kvorm.testing.servers import NatsServer
from tests.faults.rights import as_admin, as_app, grant, until, users

AT_ONCE = 0.1
INBOX = "_INBOX_app"
BANK = Bucket("bank", history=5)


class Order(Model, bucket=Bucket("orders", history=5)):
    tenant: Key[str]
    number: Key[int]
    text: str = ""


class Account(Model, bucket=BANK, prefix="account"):
    id: Key[str]
    text: str = ""


class Secret(Model, bucket=BANK, prefix="secret"):
    id: Key[str]
    text: str = ""


class Settings(Model, bucket=BANK, prefix="settings"):
    text: str = ""


def without(granted: Permissions, subject: str) -> Permissions:
    publish, subscribe = (tuple(one for one in each if one != subject) for each in (granted.publish, granted.subscribe))
    return Permissions(publish, subscribe or ("nothing",))


async def reads(orders: Repository[Order], store: Store, revision: int) -> None:
    """Everything that reads; order 1 of acme is there, at a revision of its first value."""
    order = await orders.get("acme", 1)
    assert await orders.get("acme", 1, revision=revision)
    assert await orders.get_or_none("acme", 404) is None
    assert await orders.exists("acme", 1)
    assert len(await orders.history("acme", 1)) > 1
    assert await orders.get_many([("acme", 1), ("acme", 404)]) == [order, None]
    assert order in [one async for one in orders.find(tenant="acme")]
    assert ("acme", 1) in [key async for key in orders.keys(tenant="acme")]
    assert await orders.count(tenant="acme")
    async with asyncio.timeout(5):
        async for event in orders.watch():
            if isinstance(event, CaughtUp):
                break
    health = await store.health()
    assert health.ok, health.warnings


async def writes(orders: Repository[Order]) -> None:
    """Everything that writes; refused and doubtful writes read from the leader."""
    number = time.time_ns()
    order = Order(tenant="own", number=number)
    await orders.save(order)
    with pytest.raises(KeyExistsError):
        await orders.save(Order(tenant="own", number=number))
    with pytest.raises(RevisionMismatchError):
        await orders.save(order, expect=10**9)
    await orders.save(order, expect=ANY)
    await orders.get_or_create(Order(tenant="own", number=number + 1))
    first = kvorm.revision_of(order)
    await orders.update("own", number, apply=lambda one: one.model_copy(update={"text": "new"}))
    assert first is not None
    await orders.restore("own", number, revision=first)
    await orders.delete("own", number)
    await orders.save_many([Order(tenant="own", number=number + n) for n in range(2, 5)])
    await orders.purge("own", number)
    await orders.delete("own", number + 1)


async def watches_much(orders: Repository[Order], theirs: Repository[Order]) -> None:
    """More than the server sends before it asks whether the reader keeps up."""
    much = [Order(tenant="much", number=number, text="x" * 100_000) for number in range(30)]
    await theirs.save_many(much, expect=ANY)
    async with asyncio.timeout(5):
        async for event in orders.watch(tenant="much"):
            if isinstance(event, CaughtUp):
                break


async def no_consumer_stays(orders: Repository[Order], admin: Store) -> None:
    """A watch that ended leaves nothing on the server."""
    async with asyncio.timeout(5):
        async for _ in orders.watch():
            break
    assert isinstance(admin, kvorm.NatsStore)
    stream = f"KV_{orders.bucket.name}"
    # Not asyncio.timeout: nats-py's requests can swallow its cancellation on Python 3.11.
    end = time.monotonic() + 1
    while (await admin.client.jetstream().stream_info(stream)).state.consumer_count:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def a_new_bucket_is_noticed(orders: Repository[Order], admin: Store) -> None:
    """An entry of the old bucket is none of the new one; a watch that goes on after it starts over."""
    entry = await orders.entry("acme", 1)
    assert isinstance(admin, kvorm.NatsStore)
    await admin.client.jetstream().delete_key_value(orders.bucket.name)
    theirs = admin.repository(Order)
    await admin.ensure(Order)
    while await theirs.save(Order(tenant="acme", number=1, text="theirs"), expect=ANY) <= entry.revision:
        pass
    assert (await orders.entry("acme", 1)).incarnation != entry.incarnation
    async with asyncio.timeout(5), orders.watch(since=entry) as watch:
        assert isinstance(await anext(watch), Reset)


@dataclass
class Case:
    """What a user is for, and where."""

    write: bool
    manage: bool = False
    namespace: str = ""

    def granted(self) -> Permissions:
        return kvorm.permissions(
            Order, write=self.write, manage=self.manage, namespace=self.namespace, inbox_prefix=INBOX
        )


CASES = {
    "read-only": Case(write=False),
    "write": Case(write=True),
    "manage": Case(write=True, manage=True),
    "namespace": Case(write=True, manage=True, namespace="staging-"),
}


async def everything(case: Case, server: NatsServer) -> None:
    """Do all that a user of this kind may."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(as_admin(server, namespace=case.namespace))
        name = case.namespace + "orders"
        assert isinstance(admin, kvorm.NatsStore)
        await drop(admin, name)
        if not case.manage:
            await admin.ensure(Order)
        store = await stack.enter_async_context(as_app(server, inbox_prefix=INBOX, namespace=case.namespace))
        orders = store.repository(Order)
        if case.manage:
            await store.ensure(Order)
            await change(admin, name, max_msgs_per_subject=4)
            await store.ensure(Order, on_difference="update")
        theirs = admin.repository(Order)
        order = Order(tenant="acme", number=1)
        revision = await theirs.save(order, expect=ANY)
        await theirs.save(order, expect=ANY)
        await reads(orders, store, revision)
        if case.write:
            await writes(orders)
        await watches_much(orders, theirs)
        await no_consumer_stays(orders, admin)
        async with as_app(server, inbox_prefix=INBOX, namespace=case.namespace) as another:
            # A bucket of another client may have direct gets off: the leader is asked then, as with several replicas.
            await change(admin, name, allow_direct=False)
            await reads(another.repository(Order), another, revision)
            await change(admin, name, allow_direct=True)
        await a_new_bucket_is_noticed(orders, admin)


async def drop(admin: kvorm.NatsStore, name: str) -> None:
    jetstream = admin.client.jetstream()
    if f"KV_{name}" in [info.config.name for info in await jetstream.streams_info()]:
        await jetstream.delete_key_value(name)


async def change(admin: kvorm.NatsStore, name: str, **settings: object) -> None:
    """Make a bucket differ from its declaration."""
    jetstream = admin.client.jetstream()
    await jetstream.update_stream((await jetstream.stream_info(f"KV_{name}")).config, **settings)


@pytest.mark.parametrize("kind", CASES)
async def test_what_is_granted_is_enough_and_all_of_it_is_needed(tmp_path: Path, kind: str) -> None:
    case = CASES[kind]
    granted = case.granted()
    with NatsServer(tmp_path, config=users(granted)) as server:
        await everything(case, server)
        superfluous = []
        for subject in (*granted.publish, *granted.subscribe):
            await grant(server, without(granted, subject))
            try:
                await everything(case, server)
            except (KvormError, TimeoutError, AssertionError, pytest.fail.Exception):
                continue
            superfluous.append(subject)
        assert not superfluous


@asynccontextmanager
async def app(directory: Path, granted: Permissions, **options: Any) -> AsyncIterator[tuple[Store, Store]]:
    """Yield the stores of an admin, who has made the buckets, and of a user with these rights."""
    with NatsServer(directory, config=users(granted)) as server:
        async with as_admin(server) as admin, as_app(server, inbox_prefix=INBOX, **options) as store:
            await admin.ensure(Order, Account, Secret, Settings)
            await admin.repository(Account).save(Account(id="a"))
            await admin.repository(Secret).save(Secret(id="a"))
            yield admin, store


async def refused(attempt: Callable[[], Awaitable[object]], subject: str) -> None:
    start = time.monotonic()
    with pytest.raises(PermissionDeniedError) as raised:
        await attempt()
    assert time.monotonic() - start < AT_ONCE
    assert raised.value.subject == subject
    assert subject in str(raised.value)


async def test_a_reader_may_not_write(tmp_path: Path) -> None:
    async with app(tmp_path, kvorm.permissions(Order, write=False, inbox_prefix=INBOX)) as (admin, store):
        orders = store.repository(Order)
        order = Order(tenant="acme", number=1)
        await refused(lambda: orders.save(order), "$KV.orders.acme.1")
        await refused(lambda: orders.save(order, expect=ANY), "$KV.orders.acme.1")
        await refused(lambda: orders.get_or_create(order), "$KV.orders.acme.1")
        await admin.repository(Order).save(order)
        await refused(lambda: orders.delete("acme", 1), "$KV.orders.acme.1")
        await refused(lambda: orders.purge("acme", 1), "$KV.orders.acme.1")
        await refused(lambda: orders.restore("acme", 1, revision=1), "$KV.orders.acme.1")
        await refused(lambda: orders.update("acme", 1, apply=lambda one: one), "$KV.orders.acme.1")
        with pytest.raises(kvorm.BulkError) as raised:
            await orders.save_many([order])
        assert isinstance(raised.value.failed[0], PermissionDeniedError)
        assert [event.revision for event in await orders.history("acme", 1)] == [1]


async def test_who_may_write_may_not_make_or_change_buckets(tmp_path: Path) -> None:
    async with app(tmp_path, kvorm.permissions(Order, inbox_prefix=INBOX)) as (admin, store):
        assert isinstance(admin, kvorm.NatsStore)
        await change(admin, "orders", max_msgs_per_subject=4)
        await refused(lambda: store.ensure(Order, on_difference="update"), "$JS.API.STREAM.UPDATE.KV_orders")
        await drop(admin, "orders")
        await refused(lambda: store.ensure(Order), "$JS.API.STREAM.CREATE.KV_orders")


async def test_other_buckets_are_out_of_reach(tmp_path: Path) -> None:
    async with app(tmp_path, kvorm.permissions(Order, manage=True, inbox_prefix=INBOX)) as (_, store):
        assert await store.repository(Order).count() == 0
        await refused(lambda: store.repository(Account).get("a"), "$JS.API.STREAM.INFO.KV_bank")
        await refused(lambda: store.ensure(Account), "$JS.API.STREAM.INFO.KV_bank")


async def test_a_namespace_is_out_of_reach_of_another(tmp_path: Path) -> None:
    granted = kvorm.permissions(Order, manage=True, namespace="staging-", inbox_prefix=INBOX)
    async with app(tmp_path, granted, namespace="live-") as (_, store):
        await refused(lambda: store.repository(Order).count(), "$JS.API.STREAM.INFO.KV_live-orders")


async def test_a_prefix_confines_writes_in_a_shared_bucket(tmp_path: Path) -> None:
    granted = kvorm.permissions(Account, Settings, inbox_prefix=INBOX)
    async with app(tmp_path, granted) as (admin, store):
        accounts, settings, secrets = (store.repository(model) for model in (Account, Settings, Secret))
        account = await accounts.get("a")
        await accounts.save(account)
        await settings.save(Settings(text="dark"))
        assert (await settings.get()).text == "dark"
        await settings.delete()
        assert await accounts.count() == 1
        await refused(lambda: secrets.save(Secret(id="b")), "$KV.bank.secret.b")
        await refused(lambda: secrets.delete("a"), "$KV.bank.secret.a")
        # Reading is by the bucket: the server has no rights to a part of it.
        assert await secrets.get("a") == await admin.repository(Secret).get("a")


async def test_an_inbox_of_ones_own_keeps_answers_private(tmp_path: Path) -> None:
    """A user with `_INBOX.>` could read the answers of all others; one with a prefix cannot."""
    async with app(tmp_path, kvorm.permissions(Order, inbox_prefix=INBOX)) as (_, store):
        assert isinstance(store, kvorm.NatsStore)
        assert store.client.new_inbox().startswith(f"{INBOX}.")
        subscription = await store.client.subscribe("_INBOX.>")
        async with asyncio.timeout(5):
            while "_inbox.>" not in str(store.client.last_error):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await subscription.unsubscribe()
        assert await store.repository(Order).count() == 0


async def all_of_it(store: Store) -> None:
    orders = store.repository(Order)
    order = Order(tenant="acme", number=1)
    revision = await orders.save(order)
    await orders.save(order)
    await reads(orders, store, revision)
    await writes(orders)


async def test_on_a_server_of_the_domain(tmp_path: Path) -> None:
    granted = kvorm.permissions(Order, inbox_prefix=INBOX)
    domain = "jetstream { domain: hub, store_dir: '.' }\n"
    with NatsServer(tmp_path, config=domain + users(granted), jetstream=False) as server:
        async with as_admin(server) as admin, as_app(server, inbox_prefix=INBOX, domain="hub") as store:
            await refused(lambda: store.ensure(Order), "$JS.hub.API.STREAM.CREATE.KV_orders")
            await admin.ensure(Order)
            await all_of_it(store)


async def test_from_outside_of_the_domain(tmp_path: Path) -> None:
    granted = kvorm.permissions(Order, domain="hub", inbox_prefix=INBOX)
    port = next(iter(free_ports()))
    hub_config = f"jetstream {{ domain: hub, store_dir: '.' }}\nleafnodes {{ listen: '127.0.0.1:{port}' }}\n"
    leaf_config = f"leafnodes {{ remotes: [ {{ url: 'nats-leaf://127.0.0.1:{port}' }} ] }}\n"
    with (
        NatsServer(tmp_path / "hub", config=hub_config, jetstream=False) as hub,
        NatsServer(tmp_path / "leaf", config=leaf_config + users(granted), jetstream=False) as leaf,
    ):
        await until(lambda: "Leafnode connection created" in leaf.log.read_text())
        async with kvorm.connect(hub.url) as admin:
            await admin.ensure(Order)
        # It takes a moment more until the leaf knows that somebody answers for JetStream on the other side.
        await eventually(lambda: _is_reached(leaf))
        async with as_app(leaf, inbox_prefix=INBOX, domain="hub") as store:
            await all_of_it(store)


async def _is_reached(leaf: NatsServer) -> bool:
    try:
        async with as_app(leaf, inbox_prefix=INBOX, domain="hub"):
            return True
    except kvorm.UnsupportedError:
        return False


def test_the_block_for_the_configuration() -> None:
    granted = kvorm.permissions(Order, write=False, inbox_prefix=f"_INBOX_{token_hex(2)}")
    assert str(granted).startswith('permissions: { publish: { allow: ["$JS.API.INFO", ')
    assert not any(subject.startswith("$KV") for subject in granted.publish)
