"""The two places where an app of FastStream runs: on a real server, and in memory under TestNatsBroker."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from faststream.nats import NatsBroker, TestNatsBroker

from kvorm.testing.servers import NatsServer

WAIT_SECONDS = 30.0


async def until(is_so: Callable[[], bool]) -> None:
    """Wait, bounded, for what other tasks bring about."""

    async def ask() -> bool:
        return is_so()

    await until_told(ask)


async def until_told(ask: Callable[[], Awaitable[bool]]) -> None:
    """Wait, bounded, until the answer is yes."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await ask():
                return
            await asyncio.sleep(0.01)


class Place:
    """Where an app runs."""

    def __init__(self, url: str | None) -> None:
        self.live = url is not None
        self.url = url or "nats://127.0.0.1:1"

    def broker(self, **options: Any) -> NatsBroker:
        """Return a broker for this place; nothing is connected yet."""
        return NatsBroker(self.url, logger=None, **options)

    @asynccontextmanager
    async def running(self, broker: NatsBroker, app: Any = None) -> AsyncIterator[None]:
        """Run an app, or a broker alone."""
        if self.live:
            async with _started(app or broker):
                yield
        else:
            async with TestNatsBroker(broker, connect_only=app is not None), _started(app):
                yield


@asynccontextmanager
async def _started(what: Any) -> AsyncIterator[None]:
    if what is None:
        yield
        return
    await what.start()
    try:
        yield
    finally:
        await what.stop()


@contextmanager
def workers(directory: Path, app: str, *options: str, url: str, log: Path) -> Iterator[None]:
    """Run an app as the command line does."""
    command = [sys.executable, "-m", "faststream", "run", app, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, "NATS_URL": url}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert code in {0, -signal.SIGTERM}, log.read_text()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of the test's own."""
    with NatsServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(params=["live", "memory"])
def place(request: pytest.FixtureRequest) -> Place:
    """One place after the other."""
    return Place(request.getfixturevalue("server").url if request.param == "live" else None)


@pytest.fixture
def live(server: NatsServer) -> Place:
    """The real server alone."""
    return Place(server.url)


@pytest.fixture
def memory() -> Place:
    """Memory alone."""
    return Place(None)
