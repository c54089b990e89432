"""The same annotations in FastAPI: HTTP routes, messages and changes of FastStream's router for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from faststream.exceptions import SetupError
from faststream.nats import TestNatsBroker
from faststream.nats.fastapi import NatsRouter
from faststream.specification import AsyncAPI
from httpx import ASGITransport, AsyncClient

from kvorm import Bucket, Key, MemoryStore, Model, Repository
from kvorm.faststream import KV, Change, Injected, Repo, changes
from tests.faststream.conftest import Place, until


class Order(Model, bucket=Bucket("orders", history=10)):
    id: Key[int]
    status: str = "new"


class Orders(Repository[Order]):
    async def pay(self, id: int) -> Order:
        return await self.update(id, apply=lambda order: order.model_copy(update={"status": "paid"}))


async def how_many(orders: Repo[Order]) -> int:
    return await orders.count()


class Service:
    def __init__(self, url: str) -> None:
        self.router = NatsRouter(url, logger=None)
        self.seen: list[Change[Order]] = []
        self.kv = KV(self.router.broker, models=[Order]).install(self.router)

        @self.router.post("/orders")
        async def create_by_http(order: Order, orders: Repo[Order]) -> int:
            return await orders.save(order)

        @self.router.post("/orders/{id}/pay")
        async def pay(id: int, orders: Injected[Orders]) -> Order:
            return await orders.pay(id)

        @self.router.get("/count")
        async def count(count: Annotated[int, Depends(how_many)]) -> int:
            return count

        @self.router.subscriber("orders.create")
        async def create(order: Order, orders: Repo[Order], count: Annotated[int, Depends(how_many)]) -> int:
            await orders.save(order)
            return count

        @changes(self.router, Order)
        async def follow(change: Change[Order], orders: Repo[Order]) -> None:
            assert isinstance(orders, Repository)
            self.seen.append(change)

        self.app = FastAPI()
        self.app.include_router(self.router)

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[AsyncClient]:
        async with (
            AsyncClient(transport=ASGITransport(self.app), base_url="http://test") as http,
            self._started(place),
        ):
            yield http

    @asynccontextmanager
    async def _started(self, place: Place) -> AsyncIterator[None]:
        if place.live:
            async with self.app.router.lifespan_context(self.app):
                yield
        else:
            async with TestNatsBroker(self.router.broker), self.app.router.lifespan_context(self.app):
                yield


@pytest.fixture
def service(place: Place) -> Service:
    return Service(place.url)


async def test_http_messages_and_changes(place: Place, service: Service) -> None:
    async with service.running(place) as http:
        assert (await http.post("/orders", json={"id": 1})).json() == 1
        answer = await service.router.broker.request(Order(id=2), "orders.create", timeout=20)
        assert await answer.decode() == 1
        assert (await http.post("/orders/2/pay")).json() == {"id": 2, "status": "paid"}
        assert (await http.get("/count")).json() == 2
        await until(lambda: [change.revision for change in service.seen][-1:] == [3])


async def test_dependency_overrides(place: Place, service: Service) -> None:
    service.app.dependency_overrides[how_many] = lambda: 42
    service.router.fastapi_config.dependency_overrides_provider = service.app
    async with service.running(place) as http:
        assert (await http.get("/count")).json() == 42
        answer = await service.router.broker.request(Order(id=2), "orders.create", timeout=20)
        assert await answer.decode() == 42


async def test_another_store(place: Place, service: Service) -> None:
    async with service.running(place) as http:
        with service.kv.using(MemoryStore()) as store:
            await http.post("/orders", json={"id": 1})
            assert await store.repository(Order).count() == 1
        assert (await http.get("/count")).json() == 0


def test_asyncapi_and_openapi(memory: Place) -> None:
    service = Service(memory.url)
    document = AsyncAPI(service.router.broker).to_specification().to_jsonable()
    payloads = [sent["payload"] for name, sent in document["components"]["messages"].items() if "Follow" in name]
    assert payloads == [{"$ref": "#/components/schemas/Order"}]
    assert "context__" not in str(service.app.openapi())


async def test_a_route_of_an_app_without_a_kv(memory: Place) -> None:
    app = FastAPI()

    @app.get("/count")
    async def count(orders: Repo[Order]) -> int:
        raise AssertionError

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        with pytest.raises(SetupError, match="no KV is installed"):
            await http.get("/count")
