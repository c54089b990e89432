"""Store: what users hold. It connects, opens buckets, hands out repositories and closes."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeGuard, TypeVar, get_args, overload

from nats.aio.client import Client
from pydantic import BaseModel

from kvorm.backends.base import Backend, BucketHandle, Deadline, Reads
from kvorm.backends.local import LocalServer
from kvorm.backends.log import Clock
from kvorm.backends.memory import MemoryBackend, MemoryServer, utc_now
from kvorm.backends.nats import NatsBackend, Reports
from kvorm.backends.nats import connect as connect_nats
from kvorm.bucket import Bucket, differences
from kvorm.errors import (
    BucketMismatchError,
    BucketNotFoundError,
    ModelError,
    StoreClosedError,
    StoreUnavailableError,
)
from kvorm.health import Health
from kvorm.model import CompiledMapping, Mapping
from kvorm.repository import Repository, model_of

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Repository[Any])

OnDifference: TypeAlias = Literal["raise", "update"]

DEFAULT_TIMEOUT: Final = timedelta(seconds=10)
# The server is on this machine and is started again at once: nothing is gained by waiting.
_LOCAL_OPTIONS: Final = {"reconnect_time_wait": 0.1}
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]*")
_SCHEMES: Final = ("nats://", "tls://", "ws://", "wss://")


class Store:
    """Typed repositories over one backend. Use it in `async with`, or `await store.close()` at the end.

    Args:
        backend: where the bytes live.
        namespace: precedes every bucket name.
        timeout: the whole budget of one operation: waiting for a lost connection, sending, finding out.
        create_buckets: create missing buckets from their declaration at first use.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        namespace: str = "",
        timeout: timedelta = DEFAULT_TIMEOUT,
        create_buckets: bool = True,
    ) -> None:
        _check_options(namespace, timeout)
        self._backend = backend
        self._namespace = namespace
        self._timeout = timeout
        self._create_buckets = create_buckets
        self._closed = False
        self._resources = AsyncExitStack()
        self._claims: dict[str, list[tuple[CompiledMapping[Any], Bucket]]] = {}
        self._handles: dict[str, BucketHandle] = {}
        self._ensured: set[str] = set()
        self._opening: dict[str, asyncio.Lock] = {}

    @property
    def timeout(self) -> timedelta:
        """The whole budget of one operation."""
        return self._timeout

    @overload
    def repository(self, model: type[R], *, bucket: str | None = None, timeout: timedelta | None = None) -> R: ...

    @overload
    def repository(
        self,
        model: type[M],
        *,
        mapping: Mapping | None = None,
        bucket: str | None = None,
        timeout: timedelta | None = None,
    ) -> Repository[M]: ...

    def repository(
        self,
        model: type[Any],
        *,
        mapping: Mapping | None = None,
        bucket: str | None = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Return a repository for a model, or an instance of a repository class of one's own. No I/O.

        Raises:
            ModelError: the class is declared wrongly, or its keys clash with another model of the same bucket.
        """
        if _is_repository(model):
            return model(model_of(model), self, bucket=bucket, timeout=timeout)
        return Repository(model, self, mapping=mapping, bucket=bucket, timeout=timeout)

    async def ensure(self, *targets: type[BaseModel] | Repository[Any], on_difference: OnDifference = "raise") -> None:
        """Create the buckets of these models or repositories where missing, and compare those that exist.

        Unlike the first use of a repository this also creates where `create_buckets=False`, and makes a bucket again
        that was deleted meanwhile.

        Args:
            targets: models, or repositories where a bucket or a mapping was said.
            on_difference: "update" changes an existing bucket into what is declared, as far as the server can.

        Raises:
            BucketMismatchError: a bucket is not what is declared; nothing of it was changed.
            UnsupportedError: "update" was asked for and the server cannot change this; nothing was changed.
            ModelError: a declaration is wrong, or leaves open what a cluster must know.
        """
        for target in targets:
            repository = target if isinstance(target, Repository) else self.repository(target)
            await self._ensure(repository.bucket, on_difference, Deadline(self._timeout))

    async def health(self) -> Health:
        """Tell how the server and the buckets opened so far are: reachable, round trip, copies, leaders, warnings.

        What is wrong is told, not raised; waits no longer than the time budget.
        """
        return await self._backend.health(sorted(self._ensured), deadline=Deadline(self._timeout))

    async def close(self) -> None:
        """End the store: its watches end with StoreClosedError, every later call raises it.

        A connection is closed if the store opened it. Idempotent.
        """
        if self._closed:
            return
        self._closed = True
        self._handles.clear()
        try:
            await self._backend.close()
        finally:
            await self._resources.aclose()

    def keep(self, resources: AsyncExitStack) -> None:
        """Let the store own these: closing it closes them, after its watches have ended."""
        self._resources.push_async_exit(resources)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def wrapped(self, wrap: Callable[[Backend], Backend]) -> Store:
        """Return a store with the options of this one, over the backend that `wrap` makes of this one's.

        That is how recording, tracing or injected faults get between a store and the place where its bytes live.
        Closing the returned store closes this one.
        """
        store = Store(
            wrap(self._backend),
            namespace=self._namespace,
            timeout=self._timeout,
            create_buckets=self._create_buckets,
        )
        store._resources.push_async_callback(self.close)
        return store

    # What a repository needs of its store

    def claim(self, mapping: CompiledMapping[Any], bucket: str | None) -> Bucket:
        """Return the bucket of a mapping under its full name, after looking for clashes.

        Raises:
            ModelError: another model of this store has keys there that could be the same, or declares it otherwise.
        """
        declared = mapping.bucket.renamed(self._namespace + (mapping.bucket.name if bucket is None else bucket))
        claims = self._claims.setdefault(declared.name, [])
        known = False
        for other, other_declared in claims:
            same = other.model is mapping.model and other.shape == mapping.shape
            known = known or same
            if not same and other.shape.overlaps(mapping.shape):
                raise ModelError(
                    f"{mapping.model.__name__} and {other.model.__name__} would share keys in bucket "
                    f"{declared.name!r}: give each a prefix of its own, for example prefix='{_example(mapping)}'"
                )
            if other_declared != declared:
                raise ModelError(
                    f"{mapping.model.__name__} and {other.model.__name__} declare bucket {declared.name!r} "
                    f"differently: write one Bucket(...) and give it to both"
                )
        if not known:
            claims.append((mapping, declared))
        return declared

    async def handle(self, bucket: Bucket, deadline: Deadline) -> BucketHandle:
        """Open a bucket as it is now; at its first use create it if need be, and compare it.

        Raises:
            BucketNotFoundError: it is missing and may not be created, or was deleted since.
            BucketMismatchError: it is not what is declared.
            StoreClosedError: the store is closed.
        """
        self._check_open()
        handle = self._handles.get(bucket.name)
        if handle is not None and handle.is_current:
            return handle
        async with self._opening.setdefault(bucket.name, asyncio.Lock()):
            handle = self._handles.get(bucket.name)
            if handle is not None and handle.is_current:
                return handle
            if bucket.name in self._ensured:
                return self._keep(await self._backend.open(bucket.name, deadline=deadline))
            return await self._first_use(bucket, "raise", self._create_buckets, deadline)

    async def _ensure(self, bucket: Bucket, on_difference: OnDifference, deadline: Deadline) -> None:
        self._check_open()
        async with self._opening.setdefault(bucket.name, asyncio.Lock()):
            await self._first_use(bucket, on_difference, True, deadline)

    async def _first_use(
        self, bucket: Bucket, on_difference: OnDifference, create: bool, deadline: Deadline
    ) -> BucketHandle:
        try:
            handle = await self._backend.open(bucket.name, deadline=deadline)
        except BucketNotFoundError as error:
            if not create:
                raise BucketNotFoundError(
                    f"bucket {bucket.name!r} does not exist and create_buckets is off; `await store.ensure(...)` "
                    f"creates it",
                    bucket=bucket.name,
                ) from error
            handle = await self._backend.create(bucket, deadline=deadline)
        found = differences(bucket, handle.settings)
        if found and on_difference == "update":
            handle = await self._backend.update(bucket, deadline=deadline)
            found = differences(bucket, handle.settings)
        if found:
            told = "; ".join(f"{name} is {one.actual!r}, declared {one.declared!r}" for name, one in found.items())
            raise BucketMismatchError(
                f"bucket {bucket.name!r} is not what is declared: {told}. Mend the declaration, or apply it with "
                f"store.ensure(..., on_difference='update')",
                bucket=bucket.name,
                differences=found,
            )
        self._ensured.add(bucket.name)
        return self._keep(handle)

    def _keep(self, handle: BucketHandle) -> BucketHandle:
        self._check_open()
        self._handles[handle.settings.name] = handle
        return handle

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed; open a new one with kvorm.connect()")


class MemoryStore(Store):
    """A store in the memory of this process, for tests and experiments: it answers and refuses as a server does.

    Args:
        clock: tells the time, aware UTC; a clock set by hand makes lifetimes testable without waiting.
        server: the buckets of another MemoryStore, to have several clients on one.
        namespace, timeout, create_buckets: as of `Store`.
    """

    def __init__(
        self,
        *,
        clock: Clock = utc_now,
        server: MemoryServer | None = None,
        namespace: str = "",
        timeout: timedelta = DEFAULT_TIMEOUT,
        create_buckets: bool = True,
    ) -> None:
        self.server = server if server is not None else MemoryServer(clock)
        super().__init__(
            MemoryBackend(self.server), namespace=namespace, timeout=timeout, create_buckets=create_buckets
        )


class NatsStore(Store):
    """A store on a NATS server or cluster, over a connection that the caller owns and closes.

    Args:
        client: a connected nats-py client.
        domain: the JetStream domain to talk to.
        reads: "latest" or "nearest"; see the semantics guide.
        namespace, timeout, create_buckets: as of `Store`.
    """

    def __init__(
        self,
        client: Client,
        *,
        domain: str | None = None,
        reads: Reads = "latest",
        namespace: str = "",
        timeout: timedelta = DEFAULT_TIMEOUT,
        create_buckets: bool = True,
    ) -> None:
        if reads not in get_args(Reads):
            raise ValueError(f"reads={reads!r} must be 'latest' or 'nearest'")
        self._client = client
        self._nats = NatsBackend(client, domain=domain, reads=reads)
        super().__init__(self._nats, namespace=namespace, timeout=timeout, create_buckets=create_buckets)

    @property
    def client(self) -> Client:
        """The connection, for whatever kvorm does not do."""
        return self._client

    def heed(self, reports: Reports) -> None:
        """Learn at once what the server does not allow."""
        self._nats.heed(reports)

    async def check_server(self) -> None:
        """Find out whether the server can do the work.

        Raises:
            UnsupportedError: it is older than 2.11 or has no JetStream for this account.
        """
        await self._nats.check_server(Deadline(self._timeout))


class Connecting:
    """What `connect` returns: await it for the store, or use it in `async with`, which closes the store too."""

    def __init__(self, opening: Callable[[], Awaitable[Store]]) -> None:
        self._opening = opening
        self._store: Store | None = None

    def __await__(self) -> Generator[Any, None, Store]:
        return self._opening().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._opening()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()


def connect(
    url: str | Sequence[str] | None = None,
    *,
    namespace: str = "",
    domain: str | None = None,
    timeout: timedelta = DEFAULT_TIMEOUT,
    create_buckets: bool = True,
    reads: Reads = "latest",
    **options: Any,
) -> Connecting:
    """Open a store: await it, or use it in `async with`, which closes the store at the end.

    Args:
        url: `memory:` for a fresh store in this process; `local:DIR` for a real NATS server with its files in DIR,
            started and shared by the processes that have DIR open; `nats://`, `tls://` or `ws://`, one or a list, for
            a server or a cluster. None: `$KVORM_URL`.
        namespace: precedes every bucket name, for example "staging-".
        domain: the JetStream domain to talk to.
        timeout: the whole budget of one operation.
        create_buckets: create missing buckets from their declaration at first use.
        reads: "latest", or "nearest" for whatever the nearest replica has.
        options: those of nats-py's `connect`, for `nats:` and its like.

    Raises:
        StoreUnavailableError: no server answers, said within 3 s, or nothing says where one is.
        PermissionDeniedError: the login was refused.
        UnsupportedError: the server is older than 2.11 or has no JetStream.
    """
    _check_options(namespace, timeout)
    unknown = options.keys() - inspect.signature(Client.connect).parameters.keys()
    if unknown:
        raise TypeError(f"connect() takes no option {', '.join(sorted(unknown))}, and nats-py has none of that name")

    async def opening() -> Store:
        where = _where(url)
        if where == ["memory:"]:
            return MemoryStore(namespace=namespace, timeout=timeout, create_buckets=create_buckets)
        async with AsyncExitStack() as resources:
            if where[0].startswith("local:"):
                server = await LocalServer.open(Path(where[0].removeprefix("local:")), timeout=timeout)
                resources.push_async_callback(server.close)
                where, settings = [server.url], {**_LOCAL_OPTIONS, **options, "token": server.token}
            else:
                settings = options
            client, reports = await connect_nats(where, timeout=timeout, options=settings)
            resources.push_async_callback(_close, client)
            store = NatsStore(
                client,
                domain=domain,
                reads=reads,
                namespace=namespace,
                timeout=timeout,
                create_buckets=create_buckets,
            )
            store.heed(reports)
            await store.check_server()
            store.keep(resources.pop_all())
            return store

    return Connecting(opening)


async def _close(client: Client) -> None:
    # The client first sends what is pending, also where its connection is lost and it waits for another one.
    with suppress(OSError):
        await client.close()


def _where(url: str | Sequence[str] | None) -> list[str]:
    """Return the parts of a URL.

    Raises:
        StoreUnavailableError: it says nowhere, or nothing that kvorm knows.
    """
    if url is None:
        url = os.environ.get("KVORM_URL", "")
        if not url:
            raise StoreUnavailableError(
                "no URL was given and $KVORM_URL is not set: write kvorm.connect('local:./data') for a server that "
                "kvorm starts itself, kvorm.connect('nats://127.0.0.1:4222') for one that runs, or 'memory:' for tests"
            )
    parts = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
    if not parts:
        raise StoreUnavailableError("the list of servers is empty")
    alone = len(parts) == 1 and (parts[0] == "memory:" or re.fullmatch(r"local:.+", parts[0]))
    if not alone and not all(part.startswith(_SCHEMES) for part in parts):
        raise StoreUnavailableError(
            f"{url!r} is no store: write 'memory:', 'local:DIR', or one or several of nats://, tls://, ws:// and wss://"
        )
    return parts


def _check_options(namespace: str, timeout: object) -> None:
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"namespace={namespace!r}: use letters, digits, '-' and '_' only")
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise ValueError(f"timeout={timeout!r} must be a positive timedelta, for example timedelta(seconds=5)")


def _is_repository(model: object) -> TypeGuard[type[Repository[Any]]]:
    return isinstance(model, type) and issubclass(model, Repository)


def _example(mapping: CompiledMapping[Any]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", mapping.model.__name__.lower()).strip("-") or "model"
