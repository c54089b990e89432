"""The example service under load: two worker processes, and a server that is killed once in the midst of it.

`KVORM_LOAD_MESSAGES=2000` is the long form; the short one runs always.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import nats
import nats.errors
from nats.js import JetStreamContext
from orders_service.models import AuditRecord, Bill, Order

import kvorm
from kvorm import Entry, Store
from kvorm.testing.servers import NatsServer
from tests.faststream.conftest import workers

SERVICE = Path(__file__).parents[2] / "docs/examples"
MESSAGES = int(os.environ.get("KVORM_LOAD_MESSAGES", "200"))
SECONDS = 60 + MESSAGES * 0.2


@asynccontextmanager
async def commands(url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    yield client.jetstream()
    await client.close()


async def send(stream: JetStreamContext, subject: str, id: UUID, message: str) -> None:
    """Send a command until the server has it; it stores none twice."""
    while True:
        try:
            await stream.publish(subject, message.encode(), headers={"Nats-Msg-Id": f"{subject}/{id}"}, timeout=2)
        except nats.errors.Error:
            await asyncio.sleep(0.1)
        else:
            return


async def reach(bills: kvorm.Repository[Bill], count: int) -> None:
    while await bills.count() < count:  # noqa: ASYNC110  a count is no event
        await asyncio.sleep(0.1)


async def audited(store: Store, ids: list[UUID]) -> None:
    """Wait until the trail has every revision of every order."""
    orders, trail = store.repository(Order), store.repository(AuditRecord)
    wanted = {(id, event.revision) for id in ids for event in await orders.history("acme", id)}
    found: set[tuple[UUID, int]] = set()
    while found != wanted:
        await asyncio.sleep(0.1)
        found = {(record.order, record.order_revision) async for record in trail.find()}


async def test_each_order_is_billed_once_and_the_trail_is_complete(server: NatsServer, tmp_path: Path) -> None:
    ids = [UUID(int=number) for number in range(MESSAGES // 2)]
    async with (
        asyncio.timeout(SECONDS),
        kvorm.connect(server.url, timeout=timedelta(seconds=30), reconnect_time_wait=0.1) as store,
        commands(server.url) as stream,
    ):
        with workers(SERVICE, "orders_service.app:app", "--workers", "2", url=server.url, log=tmp_path / "log"):
            bills = store.repository(Bill)
            for number, id in enumerate(ids):
                if number == len(ids) // 2:
                    server.kill()
                    server.start()
                order = Order(tenant="acme", id=id, total=Decimal("9.90"))
                await send(stream, "orders.create", id, order.model_dump_json())
                await send(stream, "orders.pay", id, f'{{"tenant": "acme", "id": "{id}"}}')
            await reach(bills, len(ids))
            await audited(store, ids)
        for id in ids:
            history = await store.repository(Order).history("acme", id)
            paid = [event.revision for event in history if isinstance(event, Entry) and event.value.status == "paid"]
            billed = [bill async for bill in bills.find(order=id)]
            assert [bill.order_revision for bill in billed] == paid
            assert len(paid) == 1
            assert len(await bills.history("acme", id, paid[0])) == 1
