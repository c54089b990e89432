"""KV: the store of a FastStream broker, over the broker's own connection."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, Self, TypeAlias, TypeVar, overload

from faststream import FastStream
from faststream.asgi import AsgiFastStream
from faststream.nats import NatsBroker
from pydantic import BaseModel

from kvorm.backends.base import BucketHandle, Deadline, RawChange, Reads
from kvorm.faststream.bare import refuse_bare_repositories
from kvorm.faststream.http import app_context
from kvorm.faststream.installed import install, unknown
from kvorm.faststream.stores import StoreOptions, Stores
from kvorm.faststream.subscribe import ACK_WAIT, ChangesSubscriber, change_subscribers, changes, check_change_handlers
from kvorm.faststream.target import Target, model_behind
from kvorm.repository import Repository
from kvorm.store import DEFAULT_TIMEOUT, Store
from kvorm.view import View

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Repository[Any])
S = TypeVar("S", bound=Store)
T = TypeVar("T", bound=Target)


class FastApiRouter(Protocol):
    """FastStream's router for FastAPI, as far as it is used here."""

    def after_startup(self, func: Any) -> Any:
        """Register what runs when its broker has started."""
        ...


App: TypeAlias = FastStream | AsgiFastStream | FastApiRouter


class KV:
    """Repositories for the handlers of a broker: `kv = KV(broker, models=[Order]).install(app)`.

    It works over the broker's connection and opens none. Under `TestNatsBroker` it is a store in memory, a fresh one
    for each block. Nothing is read or connected before the app starts.

    Args:
        broker: the broker; `router.broker` of FastStream's router for FastAPI.
        models: the models that its handlers use, or repository classes of one's own.
        namespace, timeout, create_buckets, reads: as of `NatsStore`.
    """

    def __init__(
        self,
        broker: NatsBroker,
        models: Sequence[Target],
        *,
        namespace: str = "",
        timeout: timedelta = DEFAULT_TIMEOUT,
        create_buckets: bool = True,
        reads: Reads = "latest",
    ) -> None:
        self.broker = broker
        self._targets = tuple(models)
        self._models = {model_behind(target) for target in models}
        options = StoreOptions(namespace, timeout, create_buckets, reads)
        self._stores = Stores(broker, options, self._announce)
        install(broker.context, self)

    def install(self, app: App) -> Self:
        """Let an app, and the hooks and routes of it, know this KV, and start and stop it with the app.

        Its hook connects the broker and opens the buckets, before handlers run; FastStream's router for FastAPI has
        no hook so early, there a bucket is made at its first use.
        """
        if isinstance(app, FastStream | AsgiFastStream):
            install(app.context, self)
            app.on_startup(self.start)
            app.after_shutdown(self.stop)
        else:
            app.after_startup(self._start_in)
        return self

    async def start(self) -> None:
        """Connect the broker and open the buckets: the hook of `install`, for those who have no app.

        Raises:
            SetupError: a handler is declared in a way that could not work.
            BucketMismatchError: a bucket is not what is declared.
            ModelError: a class is declared wrongly.
        """
        # FastStream 0.6 gives the broker the context of the app, whenever that is made.
        install(self.broker.context, self)
        refuse_bare_repositories(self.broker)
        check_change_handlers(self.broker)
        await self.broker.connect()
        store = self.store
        for target in self._targets:
            await store.handle(self._stores.current().repository(target).bucket, Deadline(store.timeout))

    async def stop(self) -> None:
        """End what works over the broker's connection; the next start begins anew."""
        await self._stores.stop()

    @property
    def store(self) -> Store:
        """The store in use now.

        Raises:
            StoreUnavailableError: the broker is not connected.
        """
        return self._stores.current().store

    @overload
    def repository(self, target: type[R], /) -> R: ...

    @overload
    def repository(self, target: type[M], /) -> Repository[M]: ...

    def repository(self, target: Any, /) -> Any:
        """Return the repository of a model, or an instance of a repository class. No I/O.

        Raises:
            SetupError: the model is none of `models`.
            StoreUnavailableError: the broker is not connected.
        """
        return self._stores.current().repository(self._known(target))

    async def view(self, target: type[M], /) -> View[M]:
        """Return the live view of a model, caught up; opened at first use and kept until the app stops."""
        view: View[M] = await self._stores.current().view(self._known(target))
        return view

    @contextmanager
    def using(self, store: S) -> Generator[S, None, None]:
        """Use another store inside of a `with`, in tests for example; it stays the caller's to close."""
        with self._stores.using(store):
            yield store

    def changes(
        self,
        model: type[BaseModel],
        *,
        durable: str | None = None,
        ack_wait: timedelta = ACK_WAIT,
        updates_only: bool = False,
        **key_fields: object,
    ) -> ChangesSubscriber:
        """Decorate a change handler, on the broker itself; see `kvorm.faststream.changes`."""
        return changes(self.broker, model, durable=durable, ack_wait=ack_wait, updates_only=updates_only, **key_fields)

    # What handlers and change handlers need

    def knows(self, target: Target) -> bool:
        """Whether the model is one of `models`."""
        return model_behind(target) in self._models

    async def _start_in(self, app: Any) -> None:
        install(app_context(app), self)
        await self.start()

    def _known(self, target: T) -> T:
        if not self.knows(target):
            raise unknown(target)
        return target

    async def _announce(self, handle: BucketHandle, raw: RawChange) -> None:
        for subscriber in change_subscribers(self.broker):
            await subscriber.deliver(handle, raw)
