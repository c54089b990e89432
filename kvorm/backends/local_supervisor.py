"""The process that keeps one directory's nats-server: starts it, and stops it when nobody uses the directory.

`kvorm.backends.local` runs this file as a script, in the directory; it imports the standard library only, to be up at
once. All is told by `flock`s on files of the directory: the kernel frees them when their holder dies, however it dies,
and a child inherits them with the descriptor.

* `users.lock`: shared by every user; exclusive for this process once no user is left, until it is gone.
* `supervisor.lock`: taken by the user who starts this process, inherited by it. One supervisor per directory.
* `nats.lock`: inherited by nats-server. Never two servers on one store, even if a supervisor was killed.
* `server.json`: port and token; what it says is true as long as it is locked.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

USERS, SUPERVISOR, NATS = "users.lock", "supervisor.lock", "nats.lock"
ADDRESS, CONFIG, LOG, PID = "server.json", "server.conf", "server.log", "nats.pid"

POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
ORPHAN_SECONDS = 2.0

# Below the ports that systems hand out on their own: nobody's outgoing connection takes the port while the server is
# down, and a client that reconnects to it cannot meet itself.
PORTS = range(20000, 32000)

_PR_SET_PDEATHSIG = 1


def open_private(path: str | os.PathLike[str], flags: int = 0) -> int:
    """Return a descriptor of the file at `path`, made if missing, for nobody but its owner."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free now; it ends with the last copy of the descriptor."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(port: int) -> bool:
    """True if a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def free_ports(*wanted: int) -> Iterator[int]:
    """Yield ports that are free right now: those wanted, then random ones."""
    yield from filter(is_free, wanted)
    yield from filter(is_free, random.sample(PORTS, 100))


def answers(port: int, name: str) -> bool:
    """True if the server of this name greets on `port`: its JetStream is ready then."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as peer, peer.makefile("rb") as lines:
            verb, _, told = lines.readline().partition(b" ")
            return verb == b"INFO" and json.loads(told).get("server_name") == name
    except (OSError, ValueError):
        return False


def dying_with(parent: int) -> Callable[[], None] | None:
    """Return what a child of the process `parent` calls before exec, to be killed when it dies; None where none can.

    Linux kills the child when the *thread* that made it ends: call this in a main thread.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # a Python without libffi, or a static one
        return None

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return die_with_parent


def end(process: subprocess.Popen[bytes], *, seconds: float = STOP_SECONDS) -> None:
    """Ask the process to stop, and make it after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Supervisor:
    """One life of the server of the working directory.

    Attributes:
        binary: the nats-server to run.
        name: what this life's server is called, so that no other program on the port is taken for it.
    """

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.name = f"kvorm-{os.urandom(8).hex()}"
        self._nats = open_private(NATS)
        # Opened before `users.lock`: the kernel closes files in this order, and no user may find a dead server's
        # address locked.
        self._address = open_private(f"{ADDRESS}.new")
        self._users = open_private(USERS)

    def run(self) -> None:
        """Serve until nobody uses the directory, or nats-server ends; users who are left start another supervisor."""
        self._await_orphan()
        wanted, token = self._remembered()
        for port in free_ports(*wanted):
            server = self._start(port, token)
            try:
                if self._comes_up(server, port):
                    self._publish(port, token)
                    self._keep(server)
                    return
            finally:
                fcntl.flock(self._address, fcntl.LOCK_UN)
                end(server)
            if is_free(port) or self._unused():
                return
        _log("no free port")

    def _await_orphan(self) -> None:
        """Wait until an earlier server of this directory is gone; kill it where it did not die with its supervisor."""
        since = time.monotonic()
        while not try_lock(self._nats):
            if self._unused():
                sys.exit(0)
            if time.monotonic() - since > ORPHAN_SECONDS:
                os.kill(int(Path(PID).read_text("ascii")), signal.SIGKILL)
            time.sleep(0.02)

    def _remembered(self) -> tuple[list[int], str]:
        """Return port and token of the life before, so that clients can reconnect, or no port and a new token."""
        try:
            told = json.loads(Path(ADDRESS).read_text("utf-8"))
            port, token = int(told["port"]), str(told["token"])
            if port in PORTS and token.isalnum():
                return [port], token
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there was none, or somebody edited it
        return [], os.urandom(24).hex()

    def _start(self, port: int, token: str) -> subprocess.Popen[bytes]:
        # Everything is relative to the working directory: no path needs quoting.
        with os.fdopen(open_private(CONFIG), "w", encoding="utf-8") as file:
            file.truncate()
            file.write(
                f'server_name: "{self.name}"\nlisten: "127.0.0.1:{port}"\npid_file: "{PID}"\n'
                f'authorization {{ token: "{token}" }}\njetstream {{ store_dir: "." }}\n'
            )
        return subprocess.Popen(
            [self.binary, "-c", CONFIG],
            stdin=subprocess.DEVNULL,
            pass_fds=[self._nats],
            preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509  # this process has one thread
        )

    def _comes_up(self, server: subprocess.Popen[bytes], port: int) -> bool:
        while server.poll() is None and not self._unused():
            if answers(port, self.name):
                return True
            time.sleep(0.01)
        return False

    def _publish(self, port: int, token: str) -> None:
        """Tell the users where the server is."""
        os.ftruncate(self._address, 0)
        os.write(self._address, json.dumps({"port": port, "token": token}).encode())
        try_lock(self._address)
        Path(f"{ADDRESS}.new").replace(ADDRESS)

    def _keep(self, server: subprocess.Popen[bytes]) -> None:
        while server.poll() is None:
            if self._unused():
                _log("nobody uses the directory any more")
                return
            time.sleep(POLL_SECONDS)
        _log(f"nats-server ended with code {server.returncode}")

    def _unused(self) -> bool:
        """True if no user is left; none can come then before this process is gone."""
        return try_lock(self._users)


def _log(text: str) -> None:
    sys.stderr.write(f"kvorm: {text}\n")


def _leave(_signum: int, _frame: object) -> None:
    _log("asked to end")
    sys.exit(0)


def main() -> None:
    """Run as a daemon: `local_supervisor.py BINARY DIRECTORY`, the latter for the eyes of `ps`."""
    # The starter waits for this process and so has no zombie to reap later; its child has nothing to do with it.
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    # The starter may have blocked signals; a server that cannot hear would have to be killed.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGTERM, _leave)
    Supervisor(sys.argv[1]).run()


if __name__ == "__main__":
    main()
