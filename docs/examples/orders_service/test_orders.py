"""The tests of the service: in memory, without a server."""

from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import pytest
from faststream.nats import TestNatsBroker

from orders_service.app import OrderKey, broker, kv
from orders_service.models import AuditRecord, Bill, Order

ORDER = Order(tenant="acme", id=UUID(int=7), total=Decimal("9.90"))
KEY = OrderKey(tenant="acme", id=ORDER.id)


@pytest.fixture(autouse=True)
async def service() -> AsyncIterator[None]:
    async with TestNatsBroker(broker):
        yield


async def status() -> str:
    return (await kv.repository(Order).get("acme", ORDER.id)).status


async def test_an_order_is_created_paid_and_shipped() -> None:
    await broker.publish(ORDER, "orders.create")
    assert await status() == "new"
    await broker.publish(KEY, "orders.pay")
    assert await status() == "paid"
    await broker.publish(KEY, "orders.ship")
    assert await status() == "shipped"


async def test_a_command_that_comes_twice_does_nothing_twice() -> None:
    for subject, message in (("create", ORDER), ("pay", KEY), ("ship", KEY)):
        for _ in range(2):
            await broker.publish(message, f"orders.{subject}")
    assert len(await kv.repository(Order).history("acme", ORDER.id)) == 3


async def test_what_is_not_paid_is_not_shipped() -> None:
    await broker.publish(ORDER, "orders.create")
    await broker.publish(KEY, "orders.ship")
    assert await status() == "new"


async def test_what_is_not_there_is_not_paid() -> None:
    await broker.publish(KEY, "orders.pay")
    assert not await kv.repository(Order).exists("acme", ORDER.id)


async def test_a_payment_is_billed_once() -> None:
    for subject, message in (("create", ORDER), ("pay", KEY), ("ship", KEY)):
        await broker.publish(message, f"orders.{subject}")
    (bill,) = [bill async for bill in kv.repository(Bill).find()]
    assert (bill.order, bill.order_revision, bill.total) == (ORDER.id, 2, Decimal("9.90"))


async def test_the_audit_trail_has_every_change() -> None:
    for subject, message in (("create", ORDER), ("pay", KEY), ("ship", KEY)):
        await broker.publish(message, f"orders.{subject}")
    await kv.repository(Order).delete("acme", ORDER.id)
    trail = [record async for record in kv.repository(AuditRecord).find(tenant="acme")]
    assert sorted((record.order_revision, record.what) for record in trail) == [
        (1, "new"),
        (2, "paid"),
        (3, "shipped"),
        (4, "deleted"),
    ]
