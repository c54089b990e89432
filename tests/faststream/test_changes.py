"""Change handlers: what they get, on a server and in memory; and what only a server has."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from faststream import FastStream
from faststream.exceptions import SetupError
from faststream.nats import NatsBroker, NatsRouter
from faststream.specification import AsyncAPI
from nats.aio.client import Client

from kvorm import Bucket, Entry, InvalidKeyError, Key, Marker, Model
from kvorm.faststream import KV, Change, Repo, changes
from kvorm.testing.servers import NatsServer
from tests.faststream.conftest import Place, until, until_told

QUICK = timedelta(seconds=1)


class Order(Model, bucket=Bucket("orders", history=10)):
    tenant: Key[str]
    id: Key[int]
    status: str = "new"


class Session(Model, bucket=Bucket("sessions", ttl=timedelta(seconds=2), marker_ttl=timedelta(minutes=1))):
    id: Key[int]


class Audit(Model, bucket=Bucket("orders", history=10), prefix="audit"):
    id: Key[int]


Seen = list[tuple[Any, ...]]


def told(change: Change[Order]) -> tuple[Any, ...]:
    match change:
        case Entry(value=order, revision=revision):
            return order.id, order.status, revision
        case Marker(key=key, reason=reason, revision=revision):
            return key[1], reason, revision


def app_of(broker: NatsBroker, **options: Any) -> tuple[FastStream, KV, Seen]:
    """Return an app whose change handler writes down what it is told."""
    seen: Seen = []

    @changes(broker, Order, **options)
    async def on_change(change: Change[Order], orders: Repo[Order]) -> None:
        assert orders.model is Order
        seen.append(told(change))

    app = FastStream(broker)
    return app, KV(broker, models=[Order]).install(app), seen


@pytest.mark.parametrize("options", [{}, {"durable": "billing"}], ids=["every process", "group"])
async def test_puts_deletes_and_purges(place: Place, options: dict[str, Any]) -> None:
    broker = place.broker()
    app, kv, seen = app_of(broker, **options)
    async with place.running(broker, app):
        orders = kv.repository(Order)
        order = Order(tenant="acme", id=7)
        await orders.save(order)
        order.status = "paid"
        await orders.save(order)
        await orders.restore("acme", 7, revision=1)
        await orders.delete("acme", 7)
        await orders.purge("acme", 7)
        everything = [(7, "new", 1), (7, "paid", 2), (7, "new", 3), (7, "deleted", 4), (7, "purged", 5)]
        await until(lambda: (7, "purged", 5) in seen)
        # Who follows may be told of the latest alone; in memory nothing is left out.
        assert seen == everything if not place.live else set(seen) <= set(everything)


@pytest.mark.parametrize("options", [{}, {"durable": "billing"}], ids=["every process", "group"])
async def test_a_filter_of_keys(place: Place, options: dict[str, Any]) -> None:
    broker = place.broker()
    app, kv, seen = app_of(broker, tenant="acme", **options)
    async with place.running(broker, app):
        await kv.repository(Order).save_many([Order(tenant=tenant, id=1) for tenant in ("other", "acme.x", "acme")])
        # Who follows begins with the latest change of each key, so that one must be told before the next.
        await until(lambda: bool(seen))
        await kv.repository(Order).delete("other", 1)
        await kv.repository(Order).delete("acme", 1)
        await until(lambda: len(seen) >= 2)
        assert [what[:2] for what in seen] == [(1, "new"), (1, "deleted")]


async def test_models_that_share_a_bucket(place: Place) -> None:
    broker = place.broker()
    seen: list[Change[Audit]] = []
    kv = KV(broker, models=[Audit])

    @kv.changes(Audit)
    async def on_change(change: Change[Audit]) -> None:
        seen.append(change)

    app = FastStream(broker)
    kv.install(app)
    async with place.running(broker, app):
        await kv.repository(Audit).save(Audit(id=1))
        await until(lambda: bool(seen))
        assert [change.raw_key for change in seen] == ["audit.1"]


async def test_a_handler_may_write(place: Place) -> None:
    broker = place.broker()

    @changes(broker, Order)
    async def ship(change: Change[Order], orders: Repo[Order]) -> None:
        if isinstance(change, Entry) and change.value.status == "paid":
            change.value.status = "shipped"
            await orders.save(change.value)

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        orders = kv.repository(Order)
        await orders.save(Order(tenant="acme", id=7, status="paid"))

        async def shipped() -> bool:
            return (await orders.get("acme", 7)).status == "shipped"

        await until_told(shipped)


async def test_in_memory_an_error_of_a_handler_comes_out_of_the_save(memory: Place) -> None:
    broker = memory.broker()

    @changes(broker, Order)
    async def refuse(change: Change[Order]) -> None:
        raise RuntimeError("no")

    kv = KV(broker, models=[Order])
    async with memory.running(broker):
        with pytest.raises(RuntimeError, match="no"):
            await kv.repository(Order).save(Order(tenant="acme", id=7))


@pytest.mark.parametrize("included", ["router", "include_router"])
@pytest.mark.parametrize("options", [{}, {"durable": "billing"}], ids=["every process", "group"])
async def test_a_router_with_a_prefix_is_refused(place: Place, included: str, options: dict[str, Any]) -> None:
    broker = place.broker()
    router = NatsRouter(prefix="shop." if included == "router" else "")

    @changes(router, Order, **options)
    async def on_change(change: Change[Order]) -> None:
        raise AssertionError

    broker.include_router(router, prefix="shop." if included == "include_router" else "")
    app = FastStream(broker)
    KV(broker, models=[Order]).install(app)
    with pytest.raises(SetupError, match=r"KV: changes\(Order\) stands on a router with the prefix 'shop\.'"):
        async with place.running(broker, app):
            raise AssertionError


async def test_two_handlers_of_one_group_are_refused(place: Place) -> None:
    broker = place.broker()
    app_of(broker, durable="billing")
    app, _, _ = app_of(broker, durable="billing", tenant="acme")
    with pytest.raises(SetupError, match="KV: two change handlers on bucket 'orders' say durable='billing'"):
        async with place.running(broker, app):
            raise AssertionError


def test_what_cannot_be_a_filter(memory: Place) -> None:
    with pytest.raises(InvalidKeyError, match="'nobody' is none of them"):
        changes(memory.broker(), Order, nobody=1)
    with pytest.raises(SetupError, match="KV hands out repositories of models"):
        changes(memory.broker(), int)


@pytest.mark.parametrize(
    "options",
    [
        *({"durable": name} for name in ("", "a b", "a.b", "*", "\u00fc", "a\n", 7)),
        *({"durable": "billing", "ack_wait": wait} for wait in (timedelta(0), -QUICK, 5, None)),
    ],
    ids=repr,
)
def test_what_cannot_be_a_group(memory: Place, options: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=r"KV: (durable=.* is no name of a work group|ack_wait=.* must be a positive)"):
        changes(memory.broker(), Order, **options)


@pytest.mark.parametrize("options", [{}, {"durable": "billing"}], ids=["every process", "group"])
def test_asyncapi_shows_the_model(memory: Place, options: dict[str, Any]) -> None:
    broker = memory.broker()
    app_of(broker, **options)
    document = AsyncAPI(broker).to_specification().to_jsonable()
    (sent,) = document["components"]["messages"].values()
    assert sent["payload"] == {"$ref": "#/components/schemas/Order"}
    assert set(document["components"]["schemas"]["Order"]["properties"]) == {"tenant", "id", "status"}


# On a server


async def test_expiry(live: Place) -> None:
    broker = live.broker()
    seen: list[Change[Session]] = []

    @changes(broker, Session, durable="sessions")
    async def on_change(change: Change[Session]) -> None:
        seen.append(change)

    app = FastStream(broker)
    kv = KV(broker, models=[Session]).install(app)
    async with live.running(broker, app):
        await kv.repository(Session).save(Session(id=1))
        await until(lambda: len(seen) == 2)
        assert isinstance(seen[0], Entry)
        assert isinstance(seen[1], Marker)
        assert (seen[1].key, seen[1].reason) == ((1,), "expired")


async def test_every_process_gets_the_current_state_first(live: Place) -> None:
    brokers = [live.broker(), live.broker()]
    (first, kv, seen), (second, _, seen_too) = app_of(brokers[0]), app_of(brokers[1])
    async with live.running(brokers[0], first):
        for id in (1, 2):
            await kv.repository(Order).save(Order(tenant="acme", id=id))
        async with live.running(brokers[1], second):
            await kv.repository(Order).save(Order(tenant="acme", id=3))
            await until(lambda: len(seen) == len(seen_too) == 3)
            assert seen == seen_too == [(1, "new", 1), (2, "new", 2), (3, "new", 3)]


@pytest.mark.parametrize("durable", [None, "billing"])
async def test_updates_only(live: Place, durable: str | None) -> None:
    brokers = [live.broker(), live.broker()]
    _, kv, _ = app_of(brokers[0])
    app, _, seen = app_of(brokers[1], durable=durable, updates_only=True)
    async with live.running(brokers[0]):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        async with live.running(brokers[1], app):
            ids = itertools.count(2)

            # A watch has no sign that it has begun.
            async def write() -> bool:
                await kv.repository(Order).save(Order(tenant="acme", id=next(ids)))
                return bool(seen)

            await until_told(write)
            assert all(what[0] >= 2 for what in seen)


async def test_every_process_goes_on_after_a_handler_that_raises(live: Place) -> None:
    broker = live.broker()
    seen: Seen = []

    @changes(broker, Order)
    async def on_change(change: Change[Order]) -> None:
        seen.append(told(change))
        raise RuntimeError("no")

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with live.running(broker, app):
        for id in (1, 2):
            await kv.repository(Order).save(Order(tenant="acme", id=id))
        await until(lambda: len(seen) == 2)
        assert [id for id, *_ in seen] == [1, 2]


async def test_a_change_goes_to_one_member_of_a_group(live: Place) -> None:
    parts = [(broker := live.broker(), *app_of(broker, durable="billing")) for _ in range(2)]
    async with AsyncExitStack() as stack:
        for broker, app, *_ in parts:
            await stack.enter_async_context(live.running(broker, app))
        (_, _, kv, first), (_, _, _, second) = parts
        await kv.repository(Order).save_many([Order(tenant="acme", id=id) for id in range(50)])
        await until(lambda: len(first) + len(second) >= 50)
        assert sorted(id for id, *_ in first + second) == list(range(50))
        assert first
        assert second


async def test_a_group_gets_what_failed_again_after_a_pause(live: Place) -> None:
    broker = live.broker()
    tries: list[float] = []

    @changes(broker, Order, durable="billing")
    async def on_change(change: Change[Order]) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 4:
            raise RuntimeError("not yet")

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with live.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await until(lambda: len(tries) == 4)
        await until_acknowledged(broker, "billing")
    assert [tries[2] - tries[1] >= 0.2, tries[3] - tries[2] >= 0.4] == [True, True]


async def test_a_group_goes_on_where_it_was(live: Place) -> None:
    broker = live.broker()
    app, kv, seen = app_of(broker, durable="billing")
    async with live.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await until(lambda: len(seen) == 1)
        await until_acknowledged(broker, "billing")
    other = live.broker()
    async with other:
        await KV(other, models=[Order]).repository(Order).save(Order(tenant="acme", id=2))
    async with live.running(broker, app):
        await until(lambda: len(seen) == 2)
        assert [id for id, *_ in seen] == [1, 2]


@pytest.mark.parametrize("updates_only", [False, True])
async def test_where_a_group_begins_counts_when_it_is_new(live: Place, updates_only: bool) -> None:
    """Afterwards it goes on where it was, with what else is said about it now."""
    for id, options in enumerate(
        ({"updates_only": updates_only}, {"updates_only": not updates_only, "ack_wait": QUICK, "tenant": "acme"}), 1
    ):
        broker = live.broker()
        app, kv, seen = app_of(broker, durable="billing", **options)
        async with live.running(broker, app):
            await kv.repository(Order).save(Order(tenant="acme", id=id))
            await until(lambda seen=seen: len(seen) == 1)
            await until_acknowledged(broker, "billing")
            assert [what[0] for what in seen] == [id]
            group = await client(broker).jetstream().consumer_info("KV_orders", "billing")
    assert (group.config.ack_wait, group.config.filter_subject) == (1, "$KV.orders.acme.*")


async def test_a_change_that_a_member_took_along_goes_to_another(live: Place) -> None:
    slow, quick = live.broker(), live.broker()
    taken = asyncio.Event()

    @changes(slow, Order, durable="billing", ack_wait=QUICK)
    async def never(change: Change[Order]) -> None:
        taken.set()
        await asyncio.Event().wait()

    slow.config.broker_config.graceful_timeout = 0.01
    first = FastStream(slow)
    kv = KV(slow, models=[Order]).install(first)
    second, _, seen = app_of(quick, durable="billing", ack_wait=QUICK)
    async with live.running(slow, first):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await taken.wait()
        async with live.running(quick, second):
            await until(lambda: len(seen) == 1)


@pytest.mark.parametrize("durable", [None, "billing"])
async def test_a_value_that_does_not_decode_is_told_once_and_set_aside(
    live: Place, durable: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    broker = live.broker()
    app, kv, seen = app_of(broker, durable=durable)
    with caplog.at_level(logging.ERROR, logger="kvorm"):
        async with live.running(broker, app):
            await client(broker).publish("$KV.orders.acme.1", b"no order")
            await client(broker).publish("$KV.orders.not-a-key-of-the-model", b"no order")
            await kv.repository(Order).save(Order(tenant="acme", id=2))
            await until(lambda: len(seen) == 1)
            if durable:
                await until_acknowledged(broker, durable)
    assert seen == [(2, "new", 3)]
    (record,) = caplog.records
    assert "KV: a change is set aside" in record.getMessage()
    assert "orders/acme.1 at revision 1" in record.getMessage()


@pytest.mark.parametrize("durable", [None, "billing"])
async def test_a_killed_server(live: Place, server: NatsServer, durable: str | None) -> None:
    broker = live.broker(reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    app, kv, seen = app_of(broker, durable=durable, ack_wait=QUICK)
    async with live.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await until(lambda: len(seen) == 1)
        server.kill()
        server.start()
        await kv.repository(Order).save(Order(tenant="acme", id=2))
        await until(lambda: 2 in {id for id, *_ in seen})


@pytest.mark.parametrize("durable", [None, "billing"])
async def test_a_consumer_deleted_on_the_server(live: Place, durable: str | None) -> None:
    broker = live.broker()
    app, kv, seen = app_of(broker, durable=durable)
    async with live.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await until(lambda: len(seen) == 1)
        stream = client(broker).jetstream()
        for consumer in await stream.consumers_info("KV_orders"):
            await stream.delete_consumer("KV_orders", consumer.name)
        await kv.repository(Order).save(Order(tenant="acme", id=2))
        await until(lambda: 2 in {id for id, *_ in seen})


async def test_a_namespace(live: Place) -> None:
    broker = live.broker()
    seen: dict[str, Seen] = {"followed": [], "worked": []}

    @changes(broker, Order)
    async def follow(change: Change[Order]) -> None:
        seen["followed"].append((change.bucket, *told(change)))

    @changes(broker, Order, durable="billing")
    async def work(change: Change[Order]) -> None:
        seen["worked"].append((change.bucket, *told(change)))

    app = FastStream(broker)
    kv = KV(broker, models=[Order], namespace="staging-").install(app)
    async with live.running(broker, app):
        await kv.repository(Order).save(Order(tenant="acme", id=1))
        await until(lambda: all(seen.values()))
    assert seen == {"followed": [("staging-orders", 1, "new", 1)], "worked": [("staging-orders", 1, "new", 1)]}


async def test_nothing_stays_behind(live: Place) -> None:
    broker = live.broker()
    app, _, _ = app_of(broker)
    before = asyncio.all_tasks()
    async with live.running(broker, app):
        pass
    await until(lambda: asyncio.all_tasks() == before)
    other = live.broker()
    async with other:
        assert await client(other).jetstream().consumers_info("KV_orders") == []


def client(broker: NatsBroker) -> Client:
    return broker.config.broker_config.connection_state.connection


async def until_acknowledged(broker: NatsBroker, durable: str) -> None:
    async def all_done() -> bool:
        info = await client(broker).jetstream().consumer_info("KV_orders", durable)
        return not info.num_ack_pending and not info.num_pending

    await until_told(all_done)
