"""The first connection: one clear error within seconds, and no flood of log lines."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias

import nats.errors
from nats.aio.client import Client

from kvorm.backends.nats.direct import new_client
from kvorm.errors import PermissionDeniedError, StoreUnavailableError

_FIRST_CONNECT: Final = timedelta(seconds=2.5)
_REFUSED_LOGIN: Final = ("authorization violation", "authentication", "user authentication")
_CALLBACKS: Final = (
    "error_cb",
    "disconnected_cb",
    "reconnected_cb",
    "closed_cb",
    "discovered_server_cb",
    "lame_duck_mode_cb",
)
_DEFAULTS: Mapping[str, Any] = {
    "name": "kvorm",
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.25,
    # A half-open network and a dead read loop are noticed after three unanswered pings.
    "ping_interval": 1,
    "max_outstanding_pings": 2,
    "connect_timeout": 2,
}

Denied: TypeAlias = Callable[[str, str], bool]
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)
_log = logging.getLogger("kvorm")


async def connect(servers: Sequence[str], *, timeout: timedelta, options: Mapping[str, Any]) -> tuple[Client, Reports]:
    """Connect to the first server that answers; return the client and what reports its errors.

    `options` are those of nats-py and win over kvorm's own. Callbacks among them may raise: nats-py would lose its
    read loop over it (hazard H27), so that is caught here and logged.

    Raises:
        PermissionDeniedError: a server refused the login; said at once.
        StoreUnavailableError: none answered within 2.5 s, or within `timeout` if that is shorter.
    """
    given = {name: _guarded(callback) for name, callback in options.items() if name in _CALLBACKS}
    client = new_client()
    first = Reports(client, given)
    ours = {
        "error_cb": first.on_error,
        "disconnected_cb": first.on_disconnected,
        "reconnected_cb": first.on_reconnected,
    }
    complete: dict[str, Any] = {**_DEFAULTS, **options, **given, **ours}
    connecting = asyncio.ensure_future(client.connect(list(servers), **complete))
    refused = asyncio.ensure_future(first.refused.wait())
    try:
        await asyncio.wait(
            {connecting, refused},
            timeout=min(timeout, _FIRST_CONNECT).total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
            first.connected = True
            return client, first
        raise first.failure(servers, connecting)
    finally:
        refused.cancel()
        if not first.connected:
            connecting.cancel()
            await asyncio.wait({connecting})
            # nats-py cannot close a client whose options or URLs it refused, and 2.9 none that never connected.
            with suppress(AssertionError, AttributeError):
                await client.close()


class Reports:
    """What nats-py reports: while it tries first, why it fails; later, one log line an outage."""

    def __init__(self, client: Client, users: Mapping[str, Callable[..., Awaitable[None]]]) -> None:
        self._client = client
        self.connected = False
        self.refused = asyncio.Event()
        self.last_error: Exception | None = None
        self._users = users
        self._denied: list[Denied] = []

    def heed(self, denied: Denied) -> None:
        """Call `denied` with what may not be done, and with the subject in lower case; it says if that ended a call."""
        self._denied.append(denied)

    async def on_error(self, error: Exception) -> None:
        """Remember why the first connection failed; later tell the log."""
        if not self.refused.is_set():  # what follows a refused login is its consequence: the connection is reset
            self.last_error = error
        if not self.connected:
            if _is_refused_login(error):
                self.refused.set()
        elif violation := _VIOLATION.search(str(error)):
            ended = [denied(violation[1], violation[2]) for denied in self._denied]
            if not any(ended):
                _log.warning("NATS connection: %s; see kvorm.permissions()", error)
        elif isinstance(error, OSError):
            # One of many tries to reconnect; that the connection is lost has been told.
            _log.debug("NATS connection: %s", error)
        else:
            _log.warning("NATS connection: %s", error)
        await self._tell("error_cb", error)

    async def on_disconnected(self) -> None:
        """Tell the log that an outage began."""
        if self.connected and not self._client.is_closed:
            _log.warning("the connection to NATS is lost, trying again until it is back")
        await self._tell("disconnected_cb")

    async def on_reconnected(self) -> None:
        """Tell the log that it ended."""
        _log.info("the connection to NATS is back")
        await self._tell("reconnected_cb")

    async def _tell(self, name: str, *args: object) -> None:
        if name in self._users:
            await self._users[name](*args)

    def failure(self, servers: Sequence[str], connecting: asyncio.Future[None]) -> Exception:
        """Return the error that says why there is no connection."""
        cause = self.last_error
        if connecting.done() and not connecting.cancelled():
            raised = connecting.exception()
            if raised is not None and not isinstance(raised, OSError | nats.errors.Error):
                raise raised  # an option that nats-py does not know, or refuses
            cause = cause or raised
        where = ", ".join(_without_secret(server) for server in servers)
        error: Exception
        if cause is not None and _is_refused_login(cause):
            error = PermissionDeniedError(
                f"{where} refused the login: {cause}; check user, password, token or credentials"
            )
        else:
            error = StoreUnavailableError(
                f"no NATS server at {where}: {cause or 'no answer'}. Start one (nats-server -js), mend the URL, or use "
                f"'local:DIR' for a server that kvorm starts itself"
            )
        error.__cause__ = cause
        return error


def _is_refused_login(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, nats.errors.AuthorizationError) or any(words in text for words in _REFUSED_LOGIN)


def _without_secret(server: str) -> str:
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _guarded(callback: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def guarded(*args: Any) -> None:
        try:
            await callback(*args)
        except Exception:
            _log.exception("a callback given to kvorm.connect() raised")

    return guarded
