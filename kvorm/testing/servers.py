"""Real servers for tests: one nats-server, or a cluster of three, on loopback, each in a directory of its own.

The calls block, for 0.05 s to start one server and some seconds for a cluster. What a test leaves running ends with its
object or with the test process.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from kvorm.backends.local import find_nats_server
from kvorm.backends.local_supervisor import answers, dying_with, end, free_ports

START_SECONDS = 20.0
_POLL_SECONDS = 0.01


class NatsServer:
    """One nats-server; a context manager that starts and stops it. Its data stay when it is started again.

    Attributes:
        directory: where its configuration, its log and its data are; made if missing.
        name: its `server_name`.
        log: the file it logs to.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        config: str = "",
        jetstream: bool = True,
        port: int | None = None,
    ) -> None:
        """Describe a server; nothing runs yet.

        Args:
            directory: of this server only.
            binary: the nats-server to run; by default `$KVORM_NATS_SERVER`, the one beside this Python or on PATH.
            config: what else stands in its configuration file; not `server_name`, `listen` or `jetstream`.
            jetstream: whether it has JetStream, with its data in `directory`.
            port: where it listens; a free port by default.
        """
        self.directory = directory
        self.name = f"test-{os.urandom(6).hex()}"
        self.log = directory / "nats.log"
        self._binary = binary
        self._config = config + ("\njetstream { store_dir: '.' }\n" if jetstream else "\n")
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, the same after every start. It has none before the first."""
        if self._port is None:
            raise RuntimeError("the server has no port before its first start()")
        return f"nats://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """True if the process lives, be it paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Start it, on the same port as before; it takes connections when this returns. Nothing if it runs.

        Raises:
            RuntimeError: it ended at once or did not come up; the message has the end of its log.
        """
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for port in free_ports() if self._port is None else [self._port]:
            process = self._process = self._spawn(port)
            # The lambda is called in this turn alone.
            if _until(lambda: process.poll() is not None or answers(port, self.name)) and process.poll() is None:  # noqa: B023
                self._port = port
                return
            if process.poll() is None:
                break
        self.kill()
        raise RuntimeError(f"nats-server in {self.directory} does not come up: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to stop and wait until it has. Nothing if it does not run."""
        if self.running:
            self.resume()
            end(self._running())

    def kill(self) -> None:
        """End it with SIGKILL. Nothing if it does not run."""
        if self.running:
            _kill(self._running())

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered when this returns."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # The signal reaches its threads one after the other; the kernel tells when all of them stand.
        _until(lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is not None)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._running().send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the server in {self.directory} does not run")
        return self._process

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        (self.directory / "nats.conf").write_text(
            f'server_name: "{self.name}"\nlisten: "127.0.0.1:{port}"\n{self._config}'
        )
        # Where other threads run, code between fork and exec is not safe; the finalizer must do then.
        alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [self._binary or find_nats_server(), "-c", "nats.conf"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C ends the tests; their fixtures end the servers.
                start_new_session=True,
                preexec_fn=dying_with(os.getpid()) if alone else None,  # noqa: PLW1509
            )
        weakref.finalize(self, _kill_own, process, os.getpid())
        return process


class NatsCluster:
    """Three nats-servers as one cluster with JetStream; a context manager that starts and stops them.

    Attributes:
        nodes: the servers; each can be stopped, killed, paused and started by itself.
    """

    def __init__(self, directory: Path, *, binary: Path | None = None, config: str = "") -> None:
        """Describe a cluster; nothing runs yet. `config` is for every node, otherwise as of `NatsServer`."""
        ports = free_ports()
        routes = [next(ports) for _ in range(3)]
        self._monitors = [next(ports) for _ in range(3)]
        addresses = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.nodes = [
            NatsServer(
                directory / f"n{number}",
                binary=binary,
                config=f'http: "127.0.0.1:{monitor}"\n'
                f'cluster {{ name: "test", listen: "127.0.0.1:{route}", routes: [{addresses}] }}\n{config}',
                port=next(ports),
            )
            for number, (route, monitor) in enumerate(zip(routes, self._monitors, strict=True), start=1)
        ]

    @property
    def urls(self) -> list[str]:
        """Where the nodes listen."""
        return [node.url for node in self.nodes]

    @property
    def running(self) -> bool:
        """True if every node's process lives."""
        return all(node.running for node in self.nodes)

    def start(self) -> None:
        """Start the nodes that do not run; when this returns, replicated buckets can be made.

        Server 2.11 may still refuse them for a moment ("peer offline"), in which kvorm waits.

        Raises:
            RuntimeError: a node, or the cluster as a whole, did not come up.
        """
        for node in self.nodes:
            node.start()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until every node is up to date, and JetStream and every stream and consumer have a leader all know.

        Raises:
            RuntimeError: that took too long.
        """
        if not _until(self._healthy):
            states = {port: _ask(port, "/healthz") for port in self._monitors}
            raise RuntimeError(f"the cluster does not become healthy: {states}")

    def stop(self) -> None:
        """Ask all nodes to stop and wait until they have."""
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        """End all nodes with SIGKILL."""
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        """Freeze all nodes."""
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        """Let paused nodes go on."""
        for node in self.nodes:
            node.resume()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _healthy(self) -> bool:
        if any(_ask(port, "/healthz").get("status") != "ok" for port in self._monitors):
            return False
        groups: dict[str, list[dict[str, Any]]] = {}
        for port in self._monitors:
            for name, view in _raft_groups(_ask(port, "/jsz?accounts=true&streams=true&consumers=true")):
                groups.setdefault(name, []).append(view)
        return len(groups.get("meta", [])) == len(self.nodes) and all(map(_led, groups.values()))


def _raft_groups(told: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what one node says of each group it is in: of JetStream itself, of its streams and of their consumers."""
    yield "meta", told.get("meta_cluster", {})
    for account in told.get("account_details", []):
        for stream in account.get("stream_detail", []):
            name = f"{account['name']} {stream['name']}"
            yield name, stream.get("cluster", {})
            for consumer in stream.get("consumer_detail", []):
                yield f"{name} {consumer['name']}", consumer.get("cluster", {})


def _led(views: list[dict[str, Any]]) -> bool:
    """True if all members know the same leader, and it the others."""
    leaders = {view.get("leader") for view in views}
    if len(leaders) != 1 or not all(leaders):
        return False
    # Only the leader's list says who is current.
    return any(
        len(others := view.get("replicas", [])) == len(views) - 1
        and all(other.get("current") and not other.get("offline") for other in others)
        for view in views
    )


def _ask(port: int, path: str) -> dict[str, Any]:
    """Return what the monitoring port tells; nothing if it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        told: dict[str, Any] = json.load(connection.getresponse())
        return told
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()


def _until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _kill_own(process: subprocess.Popen[bytes], owner: int) -> None:
    # A forked child has the finalizer too, and must leave its parent's server alone.
    if os.getpid() == owner:
        _kill(process)
