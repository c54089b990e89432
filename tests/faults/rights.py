"""A server with an admin, and a user whose rights a test may change while the server runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import kvorm
from kvorm import Permissions
from kvorm.store import Connecting
from kvorm.testing.servers import NatsServer

_RELOADED = "Reloaded server configuration"


def users(granted: Permissions) -> str:
    """Return the part of the server's configuration."""
    return f"authorization {{ users: [ {{ user: admin, password: a }}, {{ user: app, password: b, {granted} }} ] }}"


def as_admin(server: NatsServer, **options: Any) -> Connecting:
    return kvorm.connect(server.url, user="admin", password="a", **options)


def as_app(server: NatsServer, **options: Any) -> Connecting:
    return kvorm.connect(server.url, user="app", password="b", **options)


async def grant(server: NatsServer, granted: Permissions) -> None:
    """Give the user other rights; connections stay as they are."""
    path = server.directory / "nats.conf"
    head, _, _ = path.read_text().partition("authorization")
    path.write_text(f"{head}{users(granted)}\njetstream {{ store_dir: '.' }}\n")
    before = server.log.read_text().count(_RELOADED)
    os.kill(server.pid, signal.SIGHUP)
    await until(lambda: server.log.read_text().count(_RELOADED) > before)


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
