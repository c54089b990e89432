"""The fixtures as users have them, in test runs of their own: whichever plugin runs their async tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """
import asyncio, pytest
import kvorm
from kvorm import Bucket, Key, Model
from kvorm.testing.proxy import Direction


class Order(Model, bucket="orders"):
    id: Key[int]
    text: str = ""
"""

SYNC = """
def test_memory(kv_store):
    async def work():
        orders = kv_store.repository(Order)
        await orders.save(Order(id=1))
        assert await orders.count() == 1
    asyncio.run(work())


@pytest.mark.parametrize("time", [1, 2])
def test_each_test_has_a_server_of_its_own(nats_server, time):
    async def work():
        async with nats_server.connect() as store:
            assert await store.repository(Order).save(Order(id=1)) == 1
    asyncio.run(work())


def test_nothing_is_left(nats_server):
    async def work():
        async with kvorm.connect(nats_server.url) as store:
            answer = await store.client.request("$JS.API.STREAM.NAMES", b"{}")
            assert b"KV_" not in answer.data
    asyncio.run(work())
"""

ASYNC = """
async def test_memory(kv_store):
    await kv_store.repository(Order).save(Order(id=1))


@pytest.mark.parametrize("time", [1, 2])
async def test_each_test_has_a_server_of_its_own(nats_server, time):
    async with nats_server.connect() as store:
        assert await store.repository(Order).save(Order(id=1)) == 1


async def test_a_killed_server_is_there_again(nats_server):
    async with nats_server.connect() as store:
        await store.repository(Order).save(Order(id=1))
        nats_server.server.kill()


async def test_a_flaky_network(flaky_network):
    async with flaky_network.connect() as store:
        orders = store.repository(Order)
        order = Order(id=1)
        await orders.save(order)
        flaky_network.cut()
        order.text = "written over a new connection"
        assert await orders.save(order) == 2
        flaky_network.swallow(Direction.TO_CLIENT)
        saving = asyncio.create_task(orders.save(order))
        await asyncio.sleep(0.05)
        flaky_network.swallow()
        flaky_network.cut()
        assert await saving == 3
        assert await orders.count() == 1
"""

CLUSTER = """
class Copied(Model, bucket=Bucket("copied", replicas=3)):
    id: Key[int]


async def test_a_cluster(nats_cluster):
    async with nats_cluster.connect() as store:
        assert await store.repository(Copied).save(Copied(id=1)) == 1
"""

ANYIO = 'pytestmark = pytest.mark.anyio\n\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'


def run(directory: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_users.py").write_text(MODEL + text)
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error::pytest.PytestUnraisableExceptionWarning"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, str(directory)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    )


@pytest.mark.parametrize(
    ("text", "options", "passed"),
    [
        (SYNC, ("-p", "no:asyncio", "-p", "no:anyio"), 4),
        (ASYNC + CLUSTER, ("-o", "asyncio_mode=auto"), 6),
        ("pytestmark = pytest.mark.asyncio\n" + ASYNC, ("-o", "asyncio_mode=strict"), 5),
        (ANYIO + ASYNC, ("-p", "no:asyncio"), 5),
    ],
    ids=["sync", "pytest-asyncio auto", "pytest-asyncio strict", "anyio"],
)
def test_the_fixtures(tmp_path: Path, text: str, options: tuple[str, ...], passed: int) -> None:
    done = run(tmp_path, text, *options)
    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_without_a_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVORM_NATS_SERVER", str(tmp_path / "missing"))
    done = run(tmp_path, "def test_server(nats_server): ...\n")
    assert "1 error" in done.stdout
    assert "skipped" not in done.stdout
    assert str(tmp_path / "missing") in done.stdout or "kvorm[local]" in done.stdout


def test_loading_it_imports_no_test_tool() -> None:
    code = "import sys, kvorm.testing.plugin; assert not {'hypothesis', 'kvorm.testing.servers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
