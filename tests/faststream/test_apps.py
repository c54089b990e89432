"""The life of an app: what is there before the first message, restarts, ASGI, several brokers, middlewares, the CLI."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from faststream import Context, FastStream
from faststream.asgi import AsgiFastStream
from faststream.exceptions import SetupError
from faststream.nats import NatsBroker
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from faststream.nats.prometheus import NatsPrometheusMiddleware
from httpx import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

import kvorm
from kvorm import Bucket, BucketMismatchError, BucketNotFoundError, Key, Model, StoreUnavailableError
from kvorm.faststream import KV, Change, Repo, changes
from kvorm.testing.servers import NatsServer
from tests.faststream.conftest import Place, until, until_told, workers


class Order(Model, bucket=Bucket("orders", history=7)):
    id: Key[int]
    status: str = "new"


class Customer(Model, bucket="customers"):
    id: Key[int]


def app_of(broker: NatsBroker, **options: Any) -> tuple[FastStream, KV]:
    @broker.subscriber("orders.create")
    async def create(order: Order, orders: Repo[Order]) -> int:
        return await orders.save(order)

    app = FastStream(broker)
    return app, KV(broker, models=[Order], **options).install(app)


async def create(broker: NatsBroker, id: int) -> object:
    return await (await broker.request(Order(id=id), "orders.create", timeout=20)).decode()


async def test_buckets_are_as_declared_before_the_first_message(live: Place) -> None:
    broker = live.broker()
    app, kv = app_of(broker)
    found: list[int | None] = []

    @app.on_startup
    async def look() -> None:
        stream = await kv.broker.config.broker_config.connection_state.stream.stream_info("KV_orders")
        found.append(stream.config.max_msgs_per_subject)

    async with live.running(broker, app):
        assert found == [7]
        assert (await kv.store.health()).ok


async def test_a_bucket_that_is_not_as_declared_stops_the_start(live: Place) -> None:
    async with kvorm.connect(live.url) as store:
        await store.ensure(Order)

    class Other(Model, bucket=Bucket("orders", history=3)):
        id: Key[int]

    broker = live.broker()
    app = FastStream(broker)
    KV(broker, models=[Other]).install(app)
    with pytest.raises(BucketMismatchError, match="history is 7, declared 3"):
        async with live.running(broker, app):
            raise AssertionError
    await broker.stop()


async def test_a_bucket_that_may_not_be_made_stops_the_start(live: Place) -> None:
    broker = live.broker()
    app, _ = app_of(broker, create_buckets=False)
    with pytest.raises(BucketNotFoundError, match="create_buckets is off"):
        async with live.running(broker, app):
            raise AssertionError
    await broker.stop()


async def test_restarts_in_one_process(live: Place) -> None:
    broker = live.broker()
    app, kv = app_of(broker)
    for id in range(3):
        async with live.running(broker, app):
            orders = kv.repository(Order)
            assert await create(broker, id) == id + 1
        with pytest.raises(StoreUnavailableError, match="KV: the broker is not connected"):
            kv.repository(Order)
        with pytest.raises(kvorm.StoreClosedError):
            await orders.count()


async def test_without_an_app(place: Place) -> None:
    broker = place.broker()

    @broker.subscriber("orders.create")
    async def handle(order: Order, orders: Repo[Order]) -> int:
        return await orders.save(order)

    seen: list[Change[Order]] = []

    @changes(broker, Order)
    async def on_change(change: Change[Order]) -> None:
        seen.append(change)

    KV(broker, models=[Order])
    async with place.running(broker):
        assert await create(broker, 1) == 1
        await until(lambda: len(seen) == 1)


async def test_two_brokers_have_a_store_each(server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    with NatsServer(tmp_path_factory.mktemp("other")) as other:
        brokers = [Place(server.url).broker(), Place(other.url).broker()]
        app = FastStream(brokers[0])
        if hasattr(app, "add_broker"):  # from FastStream 0.7 on
            app.add_broker(brokers[1])
        kvs = [KV(broker, models=[Order]).install(app) for broker in brokers]
        told: dict[NatsBroker, list[object]] = {broker: [] for broker in brokers}
        for broker in brokers:

            @broker.subscriber("orders.create")
            async def handle(order: Order, orders: Repo[Order]) -> int:
                return await orders.save(order)

            @changes(broker, Order)
            async def follow(change: Change[Order], mine: Annotated[NatsBroker, Context("broker")]) -> None:
                told[mine].append(change.key)

        await app.start()
        if not hasattr(app, "add_broker"):
            await brokers[1].start()
        assert await create(brokers[0], 1) == 1
        assert await create(brokers[1], 2) == 1
        assert [[order.id async for order in kv.repository(Order).find()] for kv in kvs] == [[1], [2]]
        await until(lambda: list(told.values()) == [[(1,)], [(2,)]])
        await app.stop()
        await brokers[1].stop()


async def test_hooks_find_the_kv_that_knows_the_model(live: Place) -> None:
    brokers = [live.broker(), live.broker()]
    app = FastStream(brokers[0])
    KV(brokers[0], models=[Order]).install(app)
    KV(brokers[1], models=[Customer]).install(app)
    counts: list[int] = []

    @app.after_startup
    async def count(orders: Repo[Order], customers: Repo[Customer]) -> None:
        counts.extend([await orders.count(), await customers.count()])

    async with live.running(brokers[0], app):
        assert counts == [0, 0]
    await brokers[1].stop()


async def test_hooks_that_could_mean_two_kvs(live: Place) -> None:
    brokers = [live.broker(), live.broker()]
    app = FastStream(brokers[0])
    for broker in brokers:
        KV(broker, models=[Order]).install(app)

    @app.after_startup
    async def count(orders: Repo[Order]) -> None:
        raise AssertionError

    with pytest.raises(SetupError, match=r"more than one KV knows Order.*call kv\.repository\(Order\)"):
        async with live.running(brokers[0], app):
            raise AssertionError
    for broker in brokers:
        await broker.stop()


# ASGI


@pytest.mark.parametrize("made", ["directly", "from an app"])
async def test_an_asgi_app(live: Place, made: str) -> None:
    broker = live.broker()
    if made == "directly":
        app = AsgiFastStream(broker)
        KV(broker, models=[Order]).install(app)
        broker.subscriber("orders.create")(_create)
    else:
        app = app_of(broker)[0].as_asgi()
    async with live.running(broker, app):
        assert await create(broker, 1) == 1


async def _create(order: Order, orders: Repo[Order]) -> int:
    return await orders.save(order)


async def test_try_it_out_writes_to_the_server(live: Place) -> None:
    pytest.importorskip("faststream.asgi.factories.asyncapi.try_it_out", reason="from FastStream 0.6.4 or so on")
    # It puts a fake producer beside the live broker. (In FastStream 0.7.8 no subscriber of the app runs afterwards.)
    broker = live.broker()
    app = AsgiFastStream(broker, asyncapi_path="/asyncapi", logger=None)
    KV(broker, models=[Order]).install(app)
    broker.subscriber("orders.create")(_create)
    async with (
        live.running(broker, app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as http,
    ):
        tried = {"channelName": "orders.create:Create", "message": {"message": {"id": 1}}, "options": {}}
        answer = await http.post("/asyncapi/try", json=tried)
        assert answer.status_code == 200, answer.text
        async with kvorm.connect(live.url) as store:
            assert await store.repository(Order).count() == 1


# Middlewares


async def test_prometheus_and_opentelemetry_see_change_handlers(place: Place) -> None:
    registry, exporter, tracers = CollectorRegistry(), InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    broker = place.broker(
        middlewares=[NatsPrometheusMiddleware(registry=registry), NatsTelemetryMiddleware(tracer_provider=tracers)]
    )
    handled: list[str] = []

    @changes(broker, Order)
    async def follow(change: Change[Order]) -> None:
        handled.append("followed")

    @changes(broker, Order, durable="billing")
    async def work(change: Change[Order], orders: Repo[Order]) -> None:
        handled.append("worked")

    app = FastStream(broker)
    kv = KV(broker, models=[Order]).install(app)
    async with place.running(broker, app):
        await kv.repository(Order).save(Order(id=1))
        await until(lambda: len(handled) == 2)
        labels = {"app_name": "faststream", "broker": "nats", "handler": "$KV.orders.*", "status": "acked"}
        name = "faststream_received_processed_messages_total"
        await until(lambda: registry.get_sample_value(name, labels) == 2)
        await until(lambda: bool(exporter.get_finished_spans()))
        spans = {span.name for span in exporter.get_finished_spans()}
        assert "$KV.orders.* process" in spans


# The command line


APP = """
import os
from faststream import FastStream
from faststream.nats import NatsBroker
from kvorm import Key, Model
from kvorm.faststream import KV, Change, Repo, changes


class Order(Model, bucket="orders"):
    id: Key[int]


class Seen(Model, bucket="seen"):
    process: Key[int]


broker = NatsBroker(os.environ["NATS_URL"])


@changes(broker, Order)
async def on_change(change: Change[Order], seen: Repo[Seen]) -> None:
    await seen.get_or_create(Seen(process=os.getpid()))


app = FastStream(broker)
kv = KV(broker, models=[Order, Seen]).install(app)
"""


class Event(Model, bucket="orders"):
    id: Key[int]


class Seen(Model, bucket="seen"):
    process: Key[int]


@pytest.mark.parametrize("options", [["--workers", "2"], ["--reload"]], ids=["workers", "reload"])
async def test_the_command_line(live: Place, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "service.py").write_text(APP)
    with workers(tmp_path, "service:app", *options, url=live.url, log=tmp_path / "log"):
        async with kvorm.connect(live.url, timeout=timedelta(seconds=20)) as store:
            await store.repository(Event).save(Event(id=1))
            processes = 2 if "--workers" in options else 1

            async def all_told() -> bool:
                return await store.repository(Seen).count() == processes

            await until_told(all_told)


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(APP)
    environment = {**os.environ, "NATS_URL": "nats://127.0.0.1:1"}
    subprocess.run([sys.executable, "-W", "error", "-c", "import service"], cwd=tmp_path, env=environment, check=True)


def test_fastapi_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ImportError('not installed')\n")
    (tmp_path / "service.py").write_text(APP)
    environment = {**os.environ, "NATS_URL": "nats://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", "import service"], cwd=tmp_path, env=environment, check=True)


def test_without_faststream_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "faststream.py").write_text("raise ImportError('not installed')\n")
    command = [sys.executable, "-c", "import kvorm.faststream"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "pip install 'kvorm[faststream]'" in done.stderr.splitlines()[-1]


def test_the_example_runs_with_one_command(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "orders_service", f"local:{tmp_path}/data"]
    examples = Path(__file__).parents[2] / "docs/examples"
    done = subprocess.run(command, cwd=examples, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "revision 1: new",
        "revision 2: paid",
        "revision 3: shipped",
        "billed 9.90 for revision 2",
    ], done.stderr
