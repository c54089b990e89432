"""What injection costs a message: a handler with `Repo[Order]` beside the same handler without, on one server.

`python -m benchmarks.faststream`. Messages go through `process_message`, so that the network has no part in it; each
number is the best of interleaved repeats. FastStream's own ways to inject stand beside it.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from faststream import Context, Depends
from faststream.nats import NatsBroker
from nats.aio.msg import Msg

from kvorm import Key, Model, Repository
from kvorm.faststream import KV, Repo
from kvorm.testing.servers import NatsServer

REPEATS = 15
MESSAGES = 1000


class Order(Model, bucket="orders"):
    id: Key[int]


def order() -> Msg:
    nobody: Any = None
    return Msg(nobody, subject="orders", data=b'{"id": 1}', _ackd=True)


async def once(process: Callable[[Msg], Awaitable[object]]) -> float:
    """Return the seconds for one message."""
    start = time.perf_counter()
    for _ in range(MESSAGES):
        await process(order())
    return (time.perf_counter() - start) / MESSAGES


def subscribers(broker: NatsBroker) -> dict[str, Callable[[Msg], Awaitable[object]]]:
    """Return the same handler with repositories from several hands."""
    made: dict[str, Callable[[Msg], Awaitable[object]]] = {}

    def provide() -> Repository[Order]:
        orders: Repository[Order] = broker.context.get("orders")
        return orders

    async def bare(order: Order) -> None: ...

    async def injected(order: Order, orders: Repo[Order]) -> None: ...

    async def twice(order: Order, orders: Repo[Order], again: Repo[Order]) -> None: ...

    async def context(order: Order, orders: Annotated[Any, Context("orders")]) -> None: ...

    async def depends(order: Order, orders: Annotated[Any, Depends(provide)]) -> None: ...

    for handler in (bare, injected, twice, context, depends):
        subscriber = broker.subscriber(handler.__name__)
        subscriber(handler)
        made[handler.__name__] = subscriber.process_message
    return made


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        broker = NatsBroker(server.url, logger=None)
        kv = KV(broker, models=[Order])
        ways = subscribers(broker)
        async with broker:
            await broker.start()
            broker.context.set_global("orders", kv.repository(Order))
            best = dict.fromkeys(ways, float("inf"))
            for _ in range(REPEATS):
                for name, process in ways.items():
                    best[name] = min(best[name], await once(process))
    print(f"{'a message without injection':<40}{best['bare'] * 1e6:>8.0f} us")
    for name, told in {
        "injected": "Repo[Order]",
        "twice": "Repo[Order], twice",
        "context": "FastStream's Context",
        "depends": "FastStream's Depends, not async",
    }.items():
        print(f"{'+ ' + told:<40}{(best[name] - best['bare']) * 1e6:>8.0f} us")


if __name__ == "__main__":
    asyncio.run(main())
