"""The checks' surroundings in memory: a clock set by hand, foreign hands on the log itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from secrets import token_hex
from types import TracebackType
from typing import Self

from kvorm.backends.memory import MemoryServer
from kvorm.bucket import Bucket
from kvorm.store import MemoryStore, Store
from kvorm.testing.clock import ManualClock
from kvorm.testing.contract.harness import Stored


class MemoryHarness:
    """A memory server of its own; a context manager that closes its stores."""

    replicas: int | None = None

    def __init__(self, wrap: Callable[[MemoryStore], Store] = lambda store: store) -> None:
        """Say what stands between the checks and a store in memory, if anything: `wrap` returns what is checked."""
        self._wrap = wrap
        self._clock = ManualClock()
        self._server = MemoryServer(self._clock)
        self._stores = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stores.aclose()

    def new_name(self) -> str:
        """Return the name of a bucket that does not exist."""
        return f"c-{token_hex(6)}"

    async def open(
        self, *, namespace: str = "", create_buckets: bool = True, timeout: timedelta = timedelta(seconds=10)
    ) -> Store:
        """Open one more store on the same server."""
        store = MemoryStore(server=self._server, namespace=namespace, create_buckets=create_buckets, timeout=timeout)
        return await self._stores.enter_async_context(self._wrap(store))

    async def let_pass(self, duration: timedelta) -> None:
        """Set the clock."""
        self._clock.advance(duration)

    async def write(self, bucket: str, raw_key: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Append to the log."""
        stored = self._server.find(bucket)
        revision = stored.log.append(raw_key, data, headers or {})
        stored.announce()
        return revision

    async def messages(self, bucket: str) -> list[Stored]:
        """Read the log."""
        log = self._server.find(bucket).log
        return [Stored(one.subject, one.data, one.sequence, dict(one.headers)) for one in log.after(0)]

    async def create(self, bucket: Bucket) -> None:
        """Create a bucket."""
        self._server.create(bucket)

    async def delete(self, bucket: str) -> None:
        """Delete a bucket."""
        self._server.delete(bucket)

    async def consumers(self, bucket: str) -> int:
        """Return 0: a watch in memory is an iterator and nothing else."""
        self._server.find(bucket)
        return 0
