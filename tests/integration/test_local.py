"""`local:DIR`: one server for all processes that have the directory open, none without them."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from kvorm.backends.local import LocalServer
from kvorm.backends.local_supervisor import open_private, try_lock
from kvorm.errors import StoreUnavailableError

USER = """
import asyncio, os, signal, sys
from pathlib import Path
import nats
from kvorm.backends.local import LocalServer

# A shell that starts us in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    server = await LocalServer.open(Path(sys.argv[1]))
    client = await nats.connect(server.url, token=server.token)
    print(server.url, flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while (line := (await lines.readline()).decode().strip()) != "exit":
        if line == "use":
            await client.jetstream().account_info()
        elif line == "close":
            await client.close()
            await server.close()
        elif line == "fork" and not os.fork():
            while True:
                signal.pause()
        print(line, flush=True)

asyncio.run(main())
"""


class User:
    """Another process that has the directory open."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()

    def do(self, what: str) -> None:
        self.ask(what)
        assert self.told() == what

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    """A directory that is not there yet; after the test nothing runs in it."""
    path = tmp_path / "store"
    yield path
    gc.collect()
    await within(5, lambda: not processes(path))


@pytest.fixture
def made(directory: Path) -> Path:
    """The same, made."""
    directory.mkdir()
    return directory


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def start() -> User:
        users.append(User(directory))
        return users[-1]

    yield start
    for each in users:
        each.end()


def processes(directory: Path) -> dict[int, str]:
    """Return id -> command line of what runs in the directory: the supervisor and the server."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory.resolve():
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def servers(directory: Path) -> list[int]:
    return [pid for pid, command in processes(directory).items() if "-c server.conf" in command]


def supervisors(directory: Path) -> list[int]:
    return [pid for pid, command in processes(directory).items() if "local_supervisor.py" in command]


async def within(seconds: float, is_so: Callable[[], bool]) -> float:
    """Return after how many seconds it was so; fail if not in time."""
    since = time.monotonic()
    while not is_so():
        assert time.monotonic() - since < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - since


async def use(server: LocalServer, token: str | None = None, user: str | None = None) -> None:
    client = Client()
    try:
        if user is not None:
            await client.connect(server.url, allow_reconnect=False, user=user, password=token)
        else:
            await client.connect(server.url, allow_reconnect=False, token=server.token if token is None else token)
        await client.jetstream().account_info()
    finally:
        await client.close()


@pytest.mark.parametrize("victim", ["starter", "joiner"])
async def test_another_users_death_disturbs_nobody(directory: Path, user: Callable[[], User], victim: str) -> None:
    starter = user()
    url = starter.told()
    joiner = user()
    assert joiner.told() == url
    killed, other = (starter, joiner) if victim == "starter" else (joiner, starter)

    killed.end()
    since = time.monotonic()
    other.do("use")
    assert time.monotonic() - since < 2
    print(f"used after {time.monotonic() - since:.3f} s")
    await asyncio.sleep(0.5)  # several looks of the supervisor: it must not take the other for gone
    other.do("use")
    assert len(servers(directory)) == 1


@pytest.mark.parametrize("way", ["close", "exit", "kill"])
async def test_the_last_one_out_stops_the_server(directory: Path, user: Callable[[], User], way: str) -> None:
    users = [user(), user()]
    assert users[0].told() == users[1].told()
    for each in users:
        if way == "close":
            each.do("close")
        elif way == "exit":
            each.ask("exit")
            each.process.wait()
        else:
            each.end()
    print(f"gone after {await within(5, lambda: not processes(directory)):.3f} s")


async def test_an_interrupt_in_the_terminal_of_one_is_not_for_the_others(
    directory: Path, user: Callable[[], User]
) -> None:
    starter, other = user(), user()
    assert starter.told() == other.told()
    os.killpg(starter.process.pid, signal.SIGINT)
    starter.process.wait(10)
    other.do("use")


async def test_a_forked_child_does_not_hold_what_its_parent_let_go(directory: Path, user: Callable[[], User]) -> None:
    parent = user()
    parent.told()
    parent.do("fork")
    parent.do("close")
    await within(5, lambda: not processes(directory))


async def test_many_at_once_share_one_server(directory: Path, user: Callable[[], User]) -> None:
    users = [user() for _ in range(6)]
    assert len({each.told() for each in users}) == 1
    assert len(servers(directory)) == len(supervisors(directory)) == 1
    async with asyncio.timeout(10):
        holds = await asyncio.gather(*(LocalServer.open(directory) for _ in range(6)))
    assert len(servers(directory)) == 1
    await asyncio.gather(*(hold.close() for hold in holds))
    users[3].do("use")


async def test_opening_while_the_last_server_stops(directory: Path) -> None:
    url = ""
    for moment in range(20):
        server = await LocalServer.open(directory)
        assert url in {"", server.url}
        url = server.url
        await use(server)
        await server.close()
        await asyncio.sleep(moment * 0.008)


@pytest.mark.parametrize("killed", [servers, supervisors])
async def test_what_is_killed_comes_back_at_the_same_place(
    directory: Path, killed: Callable[[Path], list[int]]
) -> None:
    first = await LocalServer.open(directory)
    second = await LocalServer.open(directory)
    url, before = first.url, processes(directory)
    client = await nats.connect(url, token=first.token, reconnect_time_wait=0.1)
    since = time.monotonic()
    for pid in killed(directory):
        os.kill(pid, signal.SIGKILL)
    await within(5, lambda: client.is_reconnecting)
    await within(5, lambda: client.is_connected)
    await client.jetstream().account_info()
    await client.close()
    assert not before.keys() & processes(directory).keys()
    print(f"back after {time.monotonic() - since:.3f} s")
    assert first.url == second.url == url
    assert len(servers(directory)) == 1
    await first.close()
    await use(second)
    await second.close()


def orphan_in(directory: Path, lock: int) -> subprocess.Popen[bytes]:
    orphan = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    os.close(lock)
    (directory / "nats.pid").write_text(str(orphan.pid))
    return orphan


async def test_a_server_that_outlived_its_supervisor_gives_way(directory: Path) -> None:
    await (await LocalServer.open(directory)).close()
    lock = open_private(directory / "nats.lock")
    # A process that ends has lost its command line a moment before its files.
    await within(5, lambda: try_lock(lock))
    orphan = orphan_in(directory, lock)
    server = await LocalServer.open(directory)
    await use(server)
    assert orphan.wait() == -signal.SIGKILL
    await server.close()


async def test_only_the_token_opens_it(directory: Path) -> None:
    server = await LocalServer.open(directory)
    for token, user in (("", None), ("wrong", None), (server.token, "kvorm")):
        with pytest.raises(NatsError, match=r"(?i)authorization"):
            await use(server, token, user)
    await use(server)
    assert not any(server.token in command for command in processes(directory).values())
    await server.close()


def modes_in(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}


async def test_nobody_else_can_read_its_files(directory: Path) -> None:
    old = os.umask(0)
    try:
        server = await LocalServer.open(directory)
    finally:
        os.umask(old)
    modes = modes_in(directory)
    assert modes.pop(directory.name) == modes.pop("jetstream") == 0o700
    assert set(modes.values()) == {0o600}
    await server.close()


async def test_data_stay(directory: Path) -> None:
    for expected in (None, b"1"):
        server = await LocalServer.open(directory)
        client = await nats.connect(server.url, token=server.token)
        js = client.jetstream()
        if expected is None:
            await (await js.create_key_value(bucket="b")).put("k", b"1")
        else:
            assert (await (await js.key_value("b")).get("k")).value == expected
        await client.close()
        await server.close()
        await within(5, lambda: not processes(directory))


@pytest.mark.parametrize("name", ["a b", "qu\"o'te", "ünï", "$HOME", "{x}", "long" * 50])
async def test_any_name_and_any_spelling_is_one_directory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / name
    (tmp_path / "link").symlink_to(directory, target_is_directory=True)
    directory.mkdir()
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:
        holds = []
        for spelling in (directory, Path(name), tmp_path / "link", tmp_path / name / ".." / name):
            holds.append(await LocalServer.open(spelling))
            stack.push_async_callback(holds[-1].close)
        assert {(hold.url, hold.directory) for hold in holds} == {(holds[0].url, directory.resolve())}
        assert len(servers(directory)) == 1
        await use(holds[-1])
    await within(5, lambda: not processes(directory))


async def test_the_hold_ends_with_the_object(directory: Path) -> None:
    server = await LocalServer.open(directory)
    assert len(servers(directory)) == 1
    del server
    gc.collect()
    await within(5, lambda: not processes(directory))
    await asyncio.sleep(0.3)  # past a look of the task that would start it again
    assert not processes(directory)


async def test_a_server_that_does_not_come_up_says_why(made: Path) -> None:
    (made / "jetstream").write_text("in the way")
    with pytest.raises(StoreUnavailableError, match=r"(?s)nats-server does not run.*Can't start JetStream"):
        await LocalServer.open(made)
    (made / "jetstream").unlink()
    (made / "server.json").write_text("not what kvorm wrote")
    server = await LocalServer.open(made)
    await use(server)
    assert json.loads((made / "server.json").read_text())["token"] == server.token
    await server.close()


async def test_a_cancelled_opening_leaves_nothing(directory: Path) -> None:
    for moment in range(10):
        opening = asyncio.create_task(LocalServer.open(directory))
        await asyncio.sleep(moment * 0.005)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().close()
        await within(5, lambda: not processes(directory))


async def test_waiting_does_not_block_the_loop(made: Path) -> None:
    stopping = open_private(made / "users.lock")
    assert try_lock(stopping)
    opening = asyncio.create_task(LocalServer.open(made, timeout=timedelta(seconds=0.3)))
    turns = 0
    while not opening.done():
        await asyncio.sleep(0.01)
        turns += 1
    os.close(stopping)
    assert turns >= 10
    with pytest.raises(StoreUnavailableError, match=r"no server after 0\.3 s"):
        await opening
