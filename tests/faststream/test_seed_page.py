"""FastStream's own page on Key-Value storage, ported to today's FastStream, beside kvorm on one bucket."""

from __future__ import annotations

from typing import Annotated

from faststream import Context, FastStream
from faststream.nats import NatsBroker
from nats.js.kv import KeyValue

from kvorm import Key, Model
from kvorm.faststream import KV, Repo
from tests.faststream.conftest import Place

RawBucket = Annotated[KeyValue, Context("kv")]


class Order(Model, bucket="orders"):
    id: Key[int]
    status: str = "new"


async def test_the_page_reads_what_kvorm_wrote_and_the_reverse(live: Place) -> None:
    broker = NatsBroker(live.url, logger=None)
    app = FastStream(broker)
    read: list[bytes | None] = []

    # The page, but for `broker.stream.create_key_value`, which is gone.
    @broker.subscriber("read")
    async def handler(key: str, kv: RawBucket) -> None:
        read.append((await kv.get(key)).value)
        await kv.put("2", b'{"id": 2, "status": "from the page"}')

    @app.on_startup
    async def setup_broker() -> None:
        await broker.connect()
        kv = await broker.key_value(bucket="orders", declare=False)
        app.context.set_global("kv", kv)

    # kvorm beside it.
    @broker.subscriber("write")
    async def write(order: Order, orders: Repo[Order]) -> int:
        return await orders.save(order)

    ours = KV(broker, models=[Order])
    await ours.start()
    ours.install(app)
    async with live.running(broker, app):
        await broker.request(Order(id=1), "write", timeout=20)
        await broker.request("1", "read", timeout=20)
        assert read == [b'{"id":1,"status":"new"}']
        assert (await ours.repository(Order).get(2)).status == "from the page"
