"""Break kvorm in one place at a time, and see each break caught: `python scripts/seeded_bugs.py [NAME...]`.

Each bug is made in a copy of the package. What the package shows without a bug catches none. Fails if one is not
caught, or if its place is no longer there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
SIMULATION: Final = ("-m", "kvorm.testing.simulation", "--histories", "600")
AS_MANY_AS_CI: Final = (*SIMULATION[:-1], "5000", "--jobs", "2")
"""For what only a few histories in a thousand show."""

PYTEST: Final = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
CATCH_SECONDS: Final = 300


class Bug(NamedTuple):
    """One place that is broken; `caught_by` is what Python is started with."""

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...] = SIMULATION


BUGS: Final = [
    Bug(
        "code 10164 is forgotten",
        "backends/nats/writes.py",
        "_REFUSED: Final = (10071, 10164)",
        "_REFUSED: Final = (10071,)",
    ),
    Bug(
        "a write with ANY is sent again blindly",
        "backends/nats/writes.py",
        "if write.expected is None:\n                    raise _unknown(write, deadline) from error",
        "if write.expected is None:\n                    continue",
    ),
    Bug(
        "its own write is not known again",
        "backends/nats/writes.py",
        "return write.operation_id is not None and stored.headers.get(message.OPERATION_ID) in write.sent_ids()",
        "return False and bool(stored) and bool(write)",
    ),
    Bug(
        "the server is not asked for the id of a write",
        "backends/nats/writes.py",
        "\n        return await self._ask_by_id(write, server, deadline)",
        "\n        return None",
    ),
    Bug(
        "what could not be found out counts as not stored",
        "backends/nats/writes.py",
        "            except (StoreTimeoutError, StoreUnavailableError) as error:\n"
        "                raise _unknown(write, deadline) from error",
        "            except (StoreTimeoutError, StoreUnavailableError) as error:\n"
        "                raise StoreUnavailableError(str(error)) from error",
    ),
    Bug(
        "an object is stamped before it is stored",
        "operation.py",
        "        operation_id = new_operation_id()\n        try:\n            revision = await",
        "        operation_id = new_operation_id()\n        self.typed.stamp(value, raw_key, 1)\n"
        "        try:\n            revision = await",
        (*PYTEST, "tests/contract", "-k", "memory and w6"),
    ),
    Bug(
        "a stamp counts under another key",
        "typed.py",
        "if stamp is None or stamp.raw_key != raw_key:",
        "if stamp is None:",
        (*PYTEST, "tests/contract", "-k", "memory and changed_key"),
    ),
    Bug(
        "a skipped message is not noticed",
        "backends/nats/consumer.py",
        "        if delivered(last).number != self._delivered:\n            raise GapError",
        "",
        AS_MANY_AS_CI,
    ),
    Bug(
        "a heartbeat tells of a loss in vain",
        "backends/nats/consumer.py",
        '        if int(headers.get("Nats-Last-Consumer", 0)) != self._delivered:\n            raise GapError',
        "",
    ),
    Bug(
        "a silent server is not noticed",
        "backends/nats/consumer.py",
        "self._silent_ticks > _SILENT_TICKS or ",
        "",
    ),
    Bug(
        "flow control is not answered",
        "backends/nats/consumer.py",
        "                await self._go_on(asked)",
        "                pass",
    ),
    Bug(
        "a watch goes on one revision too late",
        "backends/nats/watch.py",
        '"opt_start_seq": self._position + 1',
        '"opt_start_seq": self._position + 2',
    ),
    Bug(
        "what was told before a gap is told again",
        "backends/nats/watch.py",
        "if delivered(messages[0]).sequence <= self._position:",
        "if False:",
        (*PYTEST, "tests/faults/test_watches.py", "-k", "one_server or caught_up"),
    ),
    Bug(
        "what expired before its answer came is stored again",
        "backends/nats/opened.py",
        "        return lifetime if settings.marker_ttl is None else",
        "        return None if settings.marker_ttl is not None else",
        (*PYTEST, "tests/faults/test_writes.py", "-k", "expired"),
    ),
    Bug(
        "a save that waits is written into whatever bucket there is",
        "backends/nats/writes.py",
        "check=self._reader.check_same_life,",
        "",
        (*PYTEST, "tests/faults/test_writes.py", "-k", "another_bucket"),
    ),
    Bug(
        "the initial state ends early",
        "backends/nats/initial.py",
        "        if following <= self._bound:\n            return False",
        "        if following <= self._bound:\n            return True",
    ),
    Bug(
        "the changes since a revision end early",
        "backends/nats/initial.py",
        "            self._owed = await self._changed_after(position)",
        "            return True",
        (*PYTEST, "tests/simulation/test_histories.py", "-k", "once"),
    ),
    Bug(
        "what was sent ahead counts as not sent",
        "backends/nats/bucket.py",
        "if begun is None and not self.is_current:",
        "if not self.is_current:",
        (*PYTEST, "tests/faults/test_bulk.py", "-k", "looked_at"),
    ),
    Bug(
        "batches of a lagging replica count",
        "backends/nats/many.py",
        "if up_to >= least:",
        "if True:",
    ),
    Bug(
        "the history of a lagging replica counts",
        "backends/nats/reading.py",
        "            if self._stream.is_replicated and not self._stream.is_nearest:\n                latest =",
        "            if False:\n                latest =",
        AS_MANY_AS_CI,
    ),
    Bug(
        "a replicated bucket is read from any replica",
        "backends/nats/reading.py",
        "        return await self.from_leader(raw_key, deadline)\n\n    async def from_leader",
        '        return await self._stream.direct_get(f".{self._stream.subject(raw_key)}", b"", deadline)\n\n'
        "    async def from_leader",
    ),
    Bug(
        "a view keeps what was deleted",
        "follower.py",
        "        self._filled.put(raw.raw_key, held)",
        "        if held is not None:\n            self._filled.put(raw.raw_key, held)",
    ),
    Bug(
        "a subscription stays",
        "backends/nats/transport.py",
        "await self._client.end(subscription)",
        "pass",
    ),
    Bug(
        "a saved object is not stamped",
        "operation.py",
        "        self.typed.stamp(value, raw_key, revision)\n        return revision",
        "        return revision",
        (*PYTEST, "tests/unit/test_memory.py", "tests/unit/test_stamp.py"),
    ),
]


def main(names: list[str]) -> int:
    """Make each bug, and tell which were caught."""
    bugs = [bug for bug in BUGS if not names or bug.name in names]
    known = {caught_by: _shown(caught_by, None) for caught_by in dict.fromkeys(bug.caught_by for bug in bugs)}
    for caught_by, shown in known.items():
        if shown:
            print(f"without any bug {' '.join(caught_by[:2])} shows {', '.join(sorted(shown))}: that catches none")
    missed = 0
    for bug in bugs:
        start = time.monotonic()
        if (ROOT / "kvorm" / bug.file).read_text().count(bug.old) != 1:
            verdict = f"NOT MADE, its place has changed in {bug.file}"
        else:
            new = {
                place: line for place, line in _shown(bug.caught_by, bug).items() if place not in known[bug.caught_by]
            }
            verdict = f"caught {len(new)} times: {next(iter(new.values()))[:90]}" if new else "NOT CAUGHT"
        missed += verdict.startswith("NOT")
        print(f"{time.monotonic() - start:6.1f} s  {bug.name}: {verdict}", flush=True)
    print(f"{missed} of {len(bugs)} not caught")
    return 1 if missed else 0


def _shown(command: tuple[str, ...], bug: Bug | None) -> dict[str, str]:
    """Return what a command finds in a copy of the package with a bug, or without: a line by seed or by test."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("kvorm", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if bug is not None:
            broken = copy / "kvorm" / bug.file
            broken.write_text(broken.read_text().replace(bug.old, bug.new))
        try:
            ended = subprocess.run(
                [sys.executable, *command],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                capture_output=True,
                text=True,
                timeout=CATCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"no end": f"no end within {CATCH_SECONDS} s"}
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("seed ", "FAILED "))]
    found = {" ".join(line.split()[:2]): line for line in lines}
    if ended.returncode and not found:
        raise RuntimeError(f"{' '.join(command)} did not work: {ended.stdout[-500:]} {ended.stderr[-500:]}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
