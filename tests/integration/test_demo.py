"""`kvorm demo`: the story it tells, that it leaves nothing behind, and what it says where it cannot run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ESSENTIAL = [
    'class Order(Model, bucket=Bucket("orders", history=10)):',
    "revision 1",
    "RevisionMismatchError: orders/acme.7 is not at revision 1 any more: its latest revision is 2.",
    "status='paid and packed'",
    "revision 3",
    "number=8, total=Decimal('3.50')",
    "revision 5 acme.8 deleted",
    "8. Both stores closed",
    "The server has stopped",
]
"""In this order, spaces and line breaks apart."""


def run(*command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2]), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def running_in(folder: Path) -> list[str]:
    """Return the ids of the processes that work in the folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(process.name)
        except OSError:
            continue
    return found


def assert_told(output: str) -> None:
    text = " ".join(output.split())
    at = 0
    for line in ESSENTIAL:
        at = text.index(line, at) + len(line)


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path, columns: str) -> None:
    since = time.monotonic()
    done = run("-m", "kvorm", "demo", folder=tmp_path, COLUMNS=columns)
    print(f"took {time.monotonic() - since:.2f} s")
    assert (done.returncode, done.stderr) == (0, "")
    assert_told(done.stdout)
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_unicode_will_do(tmp_path: Path) -> None:
    done = run("-m", "kvorm", "demo", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_reader_who_leaves_early_leaves_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -u -m kvorm demo | head -3"
    done = subprocess.run(
        command, shell=True, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_said_in_one_line(tmp_path: Path, missing: str) -> None:
    block = f"import sys; sys.modules[{missing!r}] = None; from kvorm.__main__ import main; main()"
    done = run("-c", block, "demo", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"kvorm: the command line needs {missing}, which is not installed. Try: pip install 'kvorm[local]'\n"
    )


def test_a_missing_server_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("-m", "kvorm", "demo", folder=tmp_path, KVORM_NATS_SERVER=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kvorm: ")
    assert done.stderr.endswith("pip install 'kvorm[local]'\n")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
