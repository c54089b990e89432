"""Which store a KV stands for now: on the broker's connection, in memory under TestNatsBroker, or one put in place."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

from faststream.nats import NatsBroker
from faststream.nats.testing import FakeProducer
from nats.js import JetStreamContext

from kvorm.backends.base import Reads
from kvorm.errors import StoreUnavailableError
from kvorm.faststream.announced import Announce, Announced
from kvorm.faststream.target import Target, model_behind
from kvorm.repository import Buckets, Repository
from kvorm.store import MemoryStore, NatsStore, Store
from kvorm.view import View


class StoreOptions(NamedTuple):
    """Options of `NatsStore`."""

    namespace: str
    timeout: timedelta
    create_buckets: bool
    reads: Reads


class Surroundings(NamedTuple):
    """What decides which store is in use; while it stays the same, so does the store."""

    override: Store | None
    connection: JetStreamContext | None
    fake: FakeProducer | None


class Opened:
    """A store in use, and what was made of it."""

    def __init__(self, surroundings: Surroundings, store: Store, buckets: Buckets) -> None:
        self.surroundings = surroundings
        self.store = store
        self.resources = AsyncExitStack()
        self._buckets = buckets
        self._repositories: dict[Target, Repository[Any]] = {}
        self._views: dict[Target, View[Any]] = {}
        self._viewing = AsyncExitStack()
        self._opening_view = asyncio.Lock()

    def repository(self, target: Target) -> Repository[Any]:
        """Return the repository of a model, or an instance of a repository class; always the same."""
        if target not in self._repositories:
            self._repositories[target] = self._made(target)
        return self._repositories[target]

    async def view(self, target: Target) -> View[Any]:
        """Return the view of a model, caught up; always the same, opened at first use."""
        async with self._opening_view:
            if target not in self._views:
                view = self.repository(target).view()
                self._views[target] = await self._viewing.enter_async_context(view)
            return self._views[target]

    async def close_views(self) -> None:
        """End the views; who asks for one later gets another one."""
        async with self._opening_view:
            self._views.clear()
            await self._viewing.aclose()

    async def close(self) -> None:
        """End the views, and the store if it was opened here."""
        try:
            await self.close_views()
        finally:
            await self.resources.aclose()

    def _made(self, target: Target) -> Repository[Any]:
        if issubclass(target, Repository):
            return target(model_behind(target), self._buckets)
        return Repository(target, self._buckets)


class Stores:
    """The stores of a broker, one after the other."""

    def __init__(self, broker: NatsBroker, options: StoreOptions, announce: Announce) -> None:
        self._broker = broker
        self._options = options
        self._announce = announce
        self._override: Store | None = None
        self._opened: Opened | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> Opened:
        """Return the store in use now.

        Raises:
            StoreUnavailableError: the broker is not connected.
        """
        surroundings = self._surroundings()
        if self._opened is None or self._opened.surroundings != surroundings:
            self._leave(self._opened)
            self._opened = self._open(surroundings)
        return self._opened

    async def stop(self) -> None:
        """End the views, and what works over the broker's connection. Another store stays as it is."""
        opened = self._opened
        if opened is None:
            return
        if opened.surroundings.connection is None:
            await opened.close_views()
        else:
            self._opened = None
            await opened.close()

    @contextmanager
    def using(self, store: Store) -> Generator[None, None, None]:
        """Put a store in place, and put back what was there."""
        before = self._override, self._opened
        self._override, self._opened = store, None
        try:
            yield
        finally:
            self._leave(self._opened)
            self._override, self._opened = before

    def _leave(self, opened: Opened | None) -> None:
        """Close in the background what is not in use any more; without an event loop nothing of it runs."""
        if opened is None:
            return
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            closing = loop.create_task(opened.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _surroundings(self) -> Surroundings:
        config = self._broker.config.broker_config
        # After TestNatsBroker a mock stays behind as connection. A real one comes first: AsyncAPI's "try it out" puts
        # a fake producer beside a live broker.
        stream = config.connection_state.stream if config.connection_state else None
        connection = stream if isinstance(stream, JetStreamContext) else None
        fake = config.producer if isinstance(config.producer, FakeProducer) else None
        return Surroundings(self._override, connection, fake if connection is None else None)

    def _open(self, surroundings: Surroundings) -> Opened:
        store = surroundings.override or self._made(surroundings)
        opened = Opened(surroundings, store, Announced(store, self._announce) if surroundings.fake else store)
        if surroundings.override is None and surroundings.connection is not None:
            opened.resources.push_async_callback(store.close)
        return opened

    def _made(self, surroundings: Surroundings) -> Store:
        namespace, timeout, create_buckets, reads = self._options
        if surroundings.connection is not None:
            return NatsStore(
                self._broker.config.broker_config.connection_state.connection,
                namespace=namespace,
                timeout=timeout,
                create_buckets=create_buckets,
                reads=reads,
            )
        if surroundings.fake is not None:
            return MemoryStore(namespace=namespace, timeout=timeout, create_buckets=create_buckets)
        raise StoreUnavailableError(
            "KV: the broker is not connected: use it after `await broker.connect()`, in handlers, in hooks that come "
            "after `KV(...).install(app)`, or under TestNatsBroker"
        )
