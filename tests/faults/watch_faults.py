"""What happens to watches: on one server behind a hostile network, on a cluster, and to their bucket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kvorm import Bucket
from kvorm.testing.proxy import Direction, FlakyProxy
from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.observing import Scene
from tests.faults.watching import BUCKET, Raw, value

BLIND_SECONDS = 2
REPLICATED = Bucket(BUCKET.name, history=BUCKET.history, replicas=3)
UNSEEN = {"acme.1000": "DEL", "acme.1001": "PURGE"}
"""Keys that nobody else writes, and how they are erased."""


@asynccontextmanager
async def one_server(directory: Path) -> AsyncIterator[Scene]:
    """Yield a server whose watches connect through a proxy."""
    with NatsServer(directory) as server:
        async with FlakyProxy(server.url) as proxy:

            async def kill(_: Raw) -> None:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)

            async def stop(_: Raw) -> None:
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.start)

            async def pause_server(_: Raw) -> None:
                server.pause()
                await asyncio.sleep(BLIND_SECONDS)
                server.resume()

            async def pause_client(_: Raw) -> None:
                time.sleep(BLIND_SECONDS)  # noqa: ASYNC251 - as if this process were stopped

            async def cut(_: Raw) -> None:
                proxy.cut()

            async def half_open(_: Raw) -> None:
                async with blind(proxy):
                    pass

            async def delete_consumers(client: Raw) -> None:
                await client.delete_consumers(BUCKET.name)

            async def purge_unseen(client: Raw) -> None:
                await appear(client)
                async with blind(proxy):
                    await vanish(client)

            strikes = {
                "kill -9": kill,
                "SIGTERM": stop,
                "server paused": pause_server,
                "client paused": pause_client,
                "connection cut": cut,
                "half-open": half_open,
                "consumers deleted": delete_consumers,
                "purged unseen": purge_unseen,
            }
            yield Scene(server.url, proxy.url, BUCKET, strikes)


@asynccontextmanager
async def blind(proxy: FlakyProxy) -> AsyncIterator[None]:
    """Let nothing through, and cut in the end."""
    proxy.swallow(*Direction)
    try:
        yield
        await asyncio.sleep(BLIND_SECONDS)
    finally:
        proxy.cut()
        proxy.swallow()


async def appear(client: Raw) -> None:
    """Write the keys that will vanish, and let everybody see them."""
    for key in UNSEEN:
        await client.client.request(f"$KV.{BUCKET.name}.{key}", value(key), timeout=5)
    await asyncio.sleep(0.3)


async def vanish(client: Raw) -> None:
    """Delete and purge these keys, and take their markers off, so that no event ever tells."""
    for key, operation in UNSEEN.items():
        subject = f"$KV.{BUCKET.name}.{key}"
        await client.client.request(subject, b"", headers={"KV-Operation": operation}, timeout=5)
        answer = await client.call(f"STREAM.PURGE.KV_{BUCKET.name}", {"filter": subject})
        assert answer["purged"], answer


@asynccontextmanager
async def a_cluster(directory: Path) -> AsyncIterator[Scene]:
    """Yield three nodes whose leader goes."""
    with NatsCluster(directory) as cluster:

        async def leader(client: Raw) -> NatsServer:
            info = await client.call(f"STREAM.INFO.KV_{REPLICATED.name}")
            return next(node for node in cluster.nodes if node.name == info["cluster"]["leader"])

        async def kill(client: Raw) -> None:
            node = await leader(client)
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)

        async def stop(client: Raw) -> None:
            node = await leader(client)
            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)

        async def pause(client: Raw) -> None:
            node = await leader(client)
            node.pause()
            await asyncio.sleep(BLIND_SECONDS)
            node.resume()

        async def step_down(client: Raw) -> None:
            await client.call(f"STREAM.LEADER.STEPDOWN.KV_{REPLICATED.name}")

        strikes = {
            "leader stepped down": step_down,
            "leader paused": pause,
            "leader stopped": stop,
            "leader killed": kill,
        }
        yield Scene(cluster.urls, cluster.urls, REPLICATED, strikes)


@asynccontextmanager
async def another_bucket(directory: Path) -> AsyncIterator[Scene]:
    """Yield a server whose bucket is deleted and made anew."""
    with NatsServer(directory) as server:

        async def make_anew(client: Raw) -> None:
            await client.make_anew(BUCKET.name)

        yield Scene(server.url, server.url, BUCKET, {"bucket made anew": make_anew})
