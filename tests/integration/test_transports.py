"""The same work over each way to a server: TCP, TLS, a web socket, and a nats-py that looks otherwise inside."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from nats.aio.client import Client

import kvorm
from kvorm import Bucket, CaughtUp, Key, Model, Store
from kvorm.backends.local_supervisor import free_ports
from kvorm.backends.nats import direct
from kvorm.testing.servers import NatsServer

MANY = 300
# nats-py hands aiohttp an option in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")


class Parcel(Model, bucket=Bucket("parcels")):
    id: Key[int]
    content: str = ""


@pytest.fixture(params=["tcp", "tls", "websocket", "other nats-py"])
async def reached(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Store, NatsServer]]:
    """A store, and the server it is on."""
    options: dict[str, Any] = {}
    config = ""
    scheme = "nats"
    if request.param == "tls":
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        config = f"tls {{ cert_file: '{tmp_path / 'cert.pem'}', key_file: '{tmp_path / 'key.pem'}' }}"
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        options["tls"] = trusting
        scheme = "tls"
    elif request.param == "websocket":
        port = next(iter(free_ports()))
        config = f"websocket {{ listen: '127.0.0.1:{port}', no_tls: true }}"
    elif request.param == "other nats-py":
        monkeypatch.setattr(direct, "_PROCESS", ["self", "message"])
    with NatsServer(tmp_path / "server", config=config) as server:
        url = f"ws://127.0.0.1:{port}" if request.param == "websocket" else server.url.replace("nats:", f"{scheme}:")
        async with kvorm.connect(url, timeout=timedelta(seconds=20), **options) as store:
            yield store, server


async def test_much_at_once_then_large_then_after_a_restart(reached: tuple[Store, NatsServer]) -> None:
    store, server = reached
    parcels = store.repository(Parcel)
    sent = [Parcel(id=id, content="x" * id) for id in range(MANY)]
    revisions = await asyncio.gather(*(parcels.save(parcel) for parcel in sent))
    assert sorted(revisions) == list(range(1, MANY + 1))
    assert await asyncio.gather(*(parcels.get(id) for id in range(MANY))) == sent
    large = Parcel(id=MANY, content="y" * 900_000)
    await parcels.save(large)
    assert await parcels.get(MANY) == large
    async with parcels.watch() as watch:
        seen = [event async for event in _until_caught_up(watch)]
        assert len(seen) == MANY + 1
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    large.content = "z"
    await parcels.save(large)
    assert (await parcels.get(MANY)).content == "z"
    assert store.client is not None
    assert (type(store.client) is Client) == (direct._PROCESS == ["self", "message"])


async def _until_caught_up(watch: kvorm.Watch[Parcel]) -> AsyncIterator[object]:
    async for event in watch:
        if isinstance(event, CaughtUp):
            return
        yield event
