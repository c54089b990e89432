"""The real servers that tests run on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest

import kvorm
from kvorm import ANY, Bucket, Key, Mapping, Model
from kvorm.testing.servers import NatsCluster, NatsServer


class Thing(Model):
    id: Key[str]
    version: int


async def put(url: str | list[str], version: int, *, replicas: int = 1) -> int | None:
    """Store this version, which the server makes a bucket for; return the one that was there before."""
    async with kvorm.connect(url) as store:
        bucket = Bucket("b", replicas=replicas)
        things = store.repository(Thing, mapping=Mapping(bucket, key=("id",)))
        old = await things.get_or_none("k")
        await things.save(Thing(id="k", version=version), expect=ANY)
        return old.version if old else None


async def test_data_and_port_outlive_stop_and_kill(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "server") as server:
        url = server.url
        assert await put(url, 1) is None
        server.stop()
        assert not server.running
        server.start()
        assert await put(url, 2) == 1
        server.kill()
        server.start()
        server.start()
        assert server.url == url
        assert await put(url, 3) == 2
    assert not server.running


def greets(server: NatsServer) -> bool:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=0.5) as peer:
        try:
            return peer.recv(5) == b"INFO "
        except TimeoutError:
            return False


def test_a_paused_server_answers_nothing_and_goes_on(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        server.pause()
        assert server.running
        assert not greets(server)
        server.resume()
        assert greets(server)
        server.pause()


async def test_it_takes_configuration_and_a_port(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "first", config='authorization { token: "secret" }', jetstream=False) as server:
        await (await nats.connect(server.url, token="secret")).close()
        assert not (tmp_path / "first" / "jetstream").exists()
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(RuntimeError, match=r"(?s)does not come up.*address already in use"):
            NatsServer(tmp_path / "second", port=port).start()


def test_it_ends_with_its_object_and_with_the_test_process(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "first")
    server.start()
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    socket.create_connection(address).close()
    del server
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)

    code = f"""
from pathlib import Path
from kvorm.testing.servers import NatsServer
server = NatsServer(Path({str(tmp_path / "second")!r}))
server.start()
print(server.url.rpartition(":")[2], flush=True)
input()
"""
    tester = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert tester.stdout is not None
    address = ("127.0.0.1", int(tester.stdout.readline()))
    tester.send_signal(signal.SIGKILL)
    tester.communicate()
    deadline = time.monotonic() + 2
    while True:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_cluster_is_usable_after_every_start(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        assert len(set(cluster.urls)) == 3
        assert await put(cluster.urls, 1, replicas=3) is None
        cluster.nodes[0].kill()
        assert not cluster.running
        cluster.start()
        assert await put(cluster.urls[0], 2, replicas=3) == 1
        cluster.nodes[1].stop()
        cluster.nodes[2].kill()
        cluster.start()
        assert await put(cluster.urls[1], 3, replicas=3) == 2
    assert not any(node.running for node in cluster.nodes)
