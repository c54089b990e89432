"""Run the service once, on a server that kvorm starts: `python -m orders_service`."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from decimal import Decimal
from uuid import uuid4

import kvorm
from kvorm import NatsStore


async def main(url: str) -> None:
    """Create, pay and ship an order, and print what the service made of it."""
    async with kvorm.connect(url) as store:
        assert isinstance(store, NatsStore), "the service needs a server: local:DIR or nats://..."
        os.environ["NATS_URL"] = url_of(store)

        from orders_service.app import OrderKey, app, broker, kv
        from orders_service.models import AuditRecord, Bill, Order

        logging.disable(logging.INFO)
        await app.start()
        order = Order(tenant="acme", id=uuid4(), total=Decimal("9.90"))
        key = OrderKey(tenant=order.tenant, id=order.id)
        for subject, message in (("create", order), ("pay", key), ("ship", key)):
            await broker.publish(message, f"orders.{subject}", stream="COMMANDS")

        async with aclosing(kv.repository(AuditRecord).watch(order=order.id).values()) as trail:
            async for record in trail:
                print(f"revision {record.order_revision}: {record.what}")
                if record.what == "shipped":
                    break
        async with aclosing(kv.repository(Bill).watch(order=order.id).values()) as bills:
            bill = await anext(bills)
            print(f"billed {bill.total} for revision {bill.order_revision}")
        await app.stop()


def url_of(store: NatsStore) -> str:
    """Return the URL of a store's server, with the token that `local:` asks for."""
    options: Mapping[str, object] = store.client.options
    token, server = options.get("token"), store.client.connected_url
    assert server is not None
    return f"nats://{token}@{server.hostname}:{server.port}" if token else server.geturl()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "local:./data"))
