"""What the checks need beside a store: further clients, foreign hands, time, and a few words to say things shortly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from kvorm.bucket import Bucket
from kvorm.store import Store
from kvorm.testing.proxy import FlakyProxy

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")

PATIENCE: Final = timedelta(seconds=15)
"""The longest that a check waits for what must come."""

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Stored:
    """One message as the server holds it, marker or not."""

    raw_key: str
    data: bytes = field(repr=False)
    revision: int
    headers: Mapping[str, str]


class Harness(Protocol):
    """One place under test. Everything but `open` goes around kvorm, as another client would.

    A harness serves one check at a time and closes what it opened when the check is over.
    """

    @property
    def replicas(self) -> int | None:
        """How many copies a new bucket must ask for; None where there is no choice."""
        ...

    def new_name(self) -> str:
        """Return the name of a bucket that does not exist."""
        ...

    async def open(
        self, *, namespace: str = "", create_buckets: bool = True, timeout: timedelta = timedelta(seconds=10)
    ) -> Store:
        """Open one more store here: another client of the same server, with a connection of its own."""
        ...

    async def let_pass(self, duration: timedelta) -> None:
        """Let time pass: wait, or set the clock."""
        ...

    async def write(self, bucket: str, raw_key: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store a message just so, whatever is there; return its revision."""
        ...

    async def messages(self, bucket: str) -> list[Stored]:
        """Return all that a bucket holds, oldest first."""
        ...

    async def create(self, bucket: Bucket) -> None:
        """Create a bucket as a plain KV client does."""
        ...

    async def delete(self, bucket: str) -> None:
        """Delete a bucket with all that is in it."""
        ...

    async def consumers(self, bucket: str) -> int:
        """Return how many readers the server keeps a state for."""
        ...


class ServerHarness(Harness, Protocol):
    """A real server."""

    async def connect(self) -> Any:
        """Return one more nats-py client, for whatever a check does with it; the harness closes it."""
        ...

    async def call(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the JetStream API and return its answer, an error included."""
        ...


class NetworkHarness(Harness, Protocol):
    """A real server behind a network that fails when it is told to."""

    @property
    def proxy(self) -> FlakyProxy:
        """The network."""
        ...

    async def open_behind_proxy(self, *, timeout: timedelta) -> Store:
        """Open one more store whose connection goes through the proxy."""
        ...


Check: TypeAlias = Callable[[Harness], Awaitable[None]]
ServerCheck: TypeAlias = Callable[[ServerHarness], Awaitable[None]]
NetworkCheck: TypeAlias = Callable[[NetworkHarness], Awaitable[None]]
Attempt: TypeAlias = Callable[[], Awaitable[object]]
"""One of several calls that a check makes in turn."""


class Raised(Generic[E]):
    """The error that a block raised, known once the block is over."""

    error: E


@contextmanager
def raises(kind: type[E]) -> Generator[Raised[E], None, None]:
    """Expect an error from the block.

    Raises:
        AssertionError: none came.
    """
    raised = Raised[E]()
    try:
        yield raised
    except kind as error:
        raised.error = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: it does not within `PATIENCE`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE.total_seconds()
    while not await holds():
        if loop.time() > end:
            raise AssertionError(f"still not so after {PATIENCE.total_seconds():g} s: {holds}")
        await asyncio.sleep(_POLL_SECONDS)


async def listed(items: AsyncIterable[T]) -> list[T]:
    """Return what an async iterable yields."""
    return [item async for item in items]
