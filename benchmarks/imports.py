"""What `import kvorm` adds to `import pydantic, nats`, which its users import anyway.

`python -m benchmarks.imports`. Each import runs in a fresh interpreter, in turns; the times are medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

REPEATS = 15

PEER = "import pydantic, nats"
ROWS = {"kvorm": "import pydantic, nats, kvorm", "kvorm.codec": "import pydantic, nats, kvorm.codec"}

# Models are declared lazily by pydantic: without BaseModel its import is half done.
TIMER = "import time; start = time.perf_counter(); {work}; pydantic.BaseModel; print(time.perf_counter() - start)"


def once(work: str) -> float:
    """Return how long a fresh interpreter takes for `work`, in seconds."""
    command = [sys.executable, "-c", TIMER.format(work=work)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    times: dict[str, list[float]] = {work: [] for work in (PEER, *ROWS.values())}
    for work in times:
        once(work)  # compiles the bytecode
    for _ in range(REPEATS):
        for work, taken in times.items():
            taken.append(once(work))
    peer = statistics.median(times[PEER])
    print(f"`{PEER}` takes {peer * 1e3:.0f} ms")
    for name, work in ROWS.items():
        median = statistics.median(times[work])
        print(f"{name:<12} adds {(median - peer) * 1e3:+.1f} ms ({median / peer:.2f}x)")


if __name__ == "__main__":
    main()
