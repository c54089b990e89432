"""The service: commands come from a stream, changes of orders from the bucket itself."""

import os
from datetime import timedelta
from uuid import UUID

from faststream import FastStream
from faststream.exceptions import NackMessage
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.subscriber.usecases import PullStreamSubscriber
from nats.js.api import ConsumerConfig
from pydantic import BaseModel

from kvorm import Entry
from kvorm.faststream import KV, Change, Repo
from orders_service.models import AuditRecord, Bill, Order

COMMANDS = JStream("COMMANDS", subjects=["orders.>"])
PATIENCE = timedelta(seconds=5)
"""How long a worker may take for one message, before another worker gets it."""
broker = NatsBroker(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
app = FastStream(broker)
kv = KV(broker, models=[Order, Bill, AuditRecord]).install(app)


class OrderKey(BaseModel):
    """Names an order."""

    tenant: str
    id: UUID


def command(name: str) -> PullStreamSubscriber:
    """Subscribe all workers together to a command; what fails comes again."""
    return broker.subscriber(
        f"orders.{name}",
        stream=COMMANDS,
        durable=name,
        pull_sub=PullSub(batch_size=1),
        config=ConsumerConfig(ack_wait=PATIENCE.total_seconds()),
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )


def not_yet() -> NackMessage:
    """Let a message come again that overtook the one it builds on, as happens with several workers."""
    return NackMessage(delay=0.2)


@command("create")
async def create(order: Order, orders: Repo[Order]) -> None:
    """Store a new order. A message that comes twice stores nothing twice."""
    await orders.get_or_create(order)


@command("pay")
async def pay(key: OrderKey, orders: Repo[Order]) -> None:
    """Mark an order as paid."""
    order = await orders.get_or_none(key.tenant, key.id)
    if order is None:
        raise not_yet()
    if order.status == "new":
        order.status = "paid"
        await orders.save(order)  # a conflict is an error: the message comes again, and looks again


@command("ship")
async def ship(key: OrderKey, orders: Repo[Order]) -> None:
    """Ship an order that is paid."""
    order = await orders.get_or_none(key.tenant, key.id)
    if order is None or order.status == "new":
        raise not_yet()
    if order.status == "paid":
        order.status = "shipped"
        await orders.save(order)


@kv.changes(Order, durable="audit", ack_wait=PATIENCE)
async def audit(change: Change[Order], trail: Repo[AuditRecord]) -> None:
    """Write down each change: one of the workers does, until it is done."""
    tenant, order = change.key
    what = change.value.status if isinstance(change, Entry) else change.reason
    await trail.get_or_create(
        AuditRecord(tenant=tenant, order=order, order_revision=change.revision, what=what, when=change.written)
    )


@kv.changes(Order, durable="billing", ack_wait=PATIENCE)
async def bill(change: Change[Order], bills: Repo[Bill]) -> None:
    """Bill each payment; a change that comes twice is billed once."""
    if isinstance(change, Entry) and change.value.status == "paid":
        order = change.value
        await bills.get_or_create(
            Bill(tenant=order.tenant, order=order.id, order_revision=change.revision, total=order.total)
        )
