"""The design's API runs as it is written: `design_api.txt` is its code block, without the statements of later issues.

The statements run one by one, in order. The test names each by its beginning, supplies what it needs around it, and
looks at what it did.
"""

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

import kvorm
from kvorm import CaughtUp, Entry, KeyNotFoundError, Marker, Reset, RevisionMismatchError
from kvorm.testing.servers import NatsServer

LISTING = Path(__file__).with_name("design_api.txt")
DOCUMENTED_SERVER = "nats://127.0.0.1:4222"


class Listing:
    """The statements of the listing, and the names they have bound so far."""

    def __init__(self, url: str) -> None:
        self.source = LISTING.read_text().replace(DOCUMENTED_SERVER, url)
        *self._outside, self._connection = ast.parse(self.source).body
        assert isinstance(self._connection, ast.AsyncWith)
        self._inside = list(self._connection.body)
        self.names: dict[str, Any] = vars(ModuleType("design_api"))

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    async def connected(self, inside: Callable[[], Awaitable[None]]) -> None:
        """Run what stands before the connection, then `inside` within it."""
        for statement in self._outside:
            await self._run(statement)
        assert isinstance(self._connection, ast.AsyncWith)
        self._connection.body = ast.parse("await inside()").body
        self.names["inside"] = inside
        await self._run(self._connection)
        assert self._inside == []

    async def next(self, beginning: str) -> None:
        """Run the next statement, which begins so."""
        await self._run(self._taken(beginning))

    @asynccontextmanager
    async def running(self, beginning: str) -> AsyncIterator[None]:
        """Start the next statement, an endless loop, and cancel it in the end."""
        task = asyncio.create_task(self._run(self._taken(beginning)))
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def _taken(self, beginning: str) -> ast.stmt:
        statement = self._inside.pop(0)
        text = ast.get_source_segment(self.source, statement)
        assert text is not None
        assert text.startswith(beginning), text
        return statement

    async def _run(self, statement: ast.stmt) -> None:
        code = compile(
            ast.fix_missing_locations(ast.Module([statement], [])),
            str(LISTING),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        result = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            await result


@pytest.fixture(params=["memory", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory:"
        return
    with NatsServer(tmp_path / "server") as server:
        yield server.url


async def test_the_statements_do_what_they_say(url: str) -> None:
    listing = Listing(url)

    async def inside() -> None:
        await writing(listing)
        await reading(listing)
        await listing_keys(listing)
        await writing_many(listing)
        await looking_back(listing)
        await watching(listing)
        await viewing(listing)
        await deleting(listing)

    await listing.connected(inside)
    with pytest.raises(kvorm.StoreClosedError):
        await listing.orders.count()


async def writing(listing: Listing) -> None:
    await listing.next("orders = store.repository(Order)")
    assert type(listing.orders) is kvorm.Repository
    assert await kvorm.Repository(listing.Order, listing.store).count() == 0

    await listing.next("order = Order(")
    assert kvorm.revision_of(listing.order) is None
    await listing.next("first = await orders.save(order)")
    assert listing.first == kvorm.revision_of(listing.order) == 1

    twin = await listing.orders.get("acme", listing.order.id)
    await listing.next('order.status = "paid"')
    await listing.next("await orders.save(order)")
    with pytest.raises(RevisionMismatchError):
        await listing.orders.save(twin)

    await listing.orders.save(twin, expect=kvorm.ANY)  # another writer: the checked save would be refused now
    await listing.next("await orders.save(order, expect=ANY)")
    assert (await listing.orders.get("acme", listing.order.id)).status == "paid"


async def reading(listing: Listing) -> None:
    await listing.next('order = await orders.get("acme", order.id)')
    assert listing.order == await listing.orders.get(tenant="acme", id=listing.order.id)
    with pytest.raises(KeyNotFoundError):
        await listing.orders.get("acme", uuid4())
    await listing.next("maybe = await orders.get_or_none")
    assert listing.maybe == listing.order
    await listing.next("same = await orders.get_or_create")
    assert listing.same == listing.order
    assert listing.same is not listing.order
    await listing.next("old = await orders.get(")
    assert (listing.old.status, listing.order.status) == ("new", "paid")
    await listing.next("entry = await orders.entry(")
    entry = listing.entry
    assert (entry.value, entry.revision, entry.bucket) == (listing.order, 4, "orders")
    assert (entry.key, entry.raw_key) == (("acme", listing.order.id), f"acme.{listing.order.id}")
    assert entry.written.utcoffset().total_seconds() == 0
    await listing.next("there = await orders.exists(")
    assert listing.there is True
    await listing.next("kvorm.revision_of(order)")
    assert kvorm.revision_of(listing.order) == 4
    await listing.next("sent = await orders.update(")
    assert (listing.sent.status, kvorm.revision_of(listing.sent)) == ("sent", 5)


async def listing_keys(listing: Listing) -> None:
    await listing.orders.save(listing.Order(tenant="other", id=uuid4(), total=Decimal(1)))
    await listing.next("async for order in orders.find(")
    assert listing.order == listing.sent
    await listing.next("async for key in orders.keys(")
    assert listing.key == ("acme", listing.order.id)
    await listing.next("n = await orders.count(")
    assert listing.n == 1
    await listing.next("found = await orders.get_many(")
    assert listing.found == [listing.order, None]
    await listing.next("revisions = await orders.save_many(")
    assert listing.revisions == [kvorm.revision_of(listing.order)] == [7]


async def writing_many(listing: Listing) -> None:
    """In a bucket of its own: what follows counts the revisions of the other."""
    kept = {name: listing.names[name] for name in ("orders", "order")}
    orders = listing.store.repository(listing.Order, bucket="many-orders")
    models = [listing.Order(tenant="acme", id=uuid4(), total=Decimal(number)) for number in range(3)]
    listing.names.update(orders=orders, order=models[0], models=models)
    await orders.save(models[0])
    await listing.next("await orders.delete_many(")
    assert await orders.count() == 0
    await listing.next("stored = await orders.load(")
    assert listing.stored == await orders.count() == 3
    listing.names.update(kept)


async def looking_back(listing: Listing) -> None:
    await listing.next("for event in await orders.history(")
    assert isinstance(listing.event, Entry)
    assert (listing.event.revision, listing.event.value) == (7, listing.order)
    history = await listing.orders.history("acme", listing.order.id)
    assert [event.revision for event in history] == [1, 2, 3, 4, 5, 7]
    await listing.next("await orders.restore(")
    restored = await listing.orders.entry("acme", listing.order.id)
    assert (restored.revision, restored.value.status) == (8, "new")


async def watching(listing: Listing) -> None:
    extra = listing.Order(tenant="acme", id=uuid4(), total=Decimal(2))
    async with listing.running("async for event in orders.watch("):
        await listing.until(lambda: isinstance(listing.event, CaughtUp))
        assert (listing.order.status, listing.revision) == ("new", 8)
        await listing.orders.save(extra)
        await listing.until(lambda: isinstance(listing.event, Entry) and listing.event.value == extra)
        await listing.orders.delete(extra)
        await listing.until(lambda: isinstance(listing.event, Marker))
        assert (listing.key, listing.reason) == (("acme", extra.id), "deleted")
        assert (listing.event.revision, listing.event.bucket) == (10, "orders")

    extra.status = "again"
    async with listing.running("async for order in orders.watch("):
        await listing.until(lambda: listing.order.status == "new")
        await listing.orders.save(extra)
        await listing.until(lambda: bool(listing.order == extra))
    await listing.orders.delete(extra)

    # What the comment below the watches says of since, history and updates_only.
    resumed = await until_caught_up(listing.orders.watch(tenant="acme", since=9))
    assert [event.revision for event in resumed] == [10, 11, 12]
    assert len(await until_caught_up(listing.orders.watch(tenant="acme", history=True))) == 7 + 4
    assert await until_caught_up(listing.orders.watch(tenant="acme", updates_only=True)) == []
    assert Reset() in await until_caught_up(listing.orders.watch(since=1_000))


async def viewing(listing: Listing) -> None:
    (tenant, id), *_ = [key async for key in listing.orders.keys(tenant="acme")]
    listing.names["order"] = written = await listing.orders.get(tenant, id)
    listing.names["revision"] = await listing.orders.save(written)
    await listing.next("async with orders.view(")
    assert listing.order == written
    assert listing.order is not written
    assert kvorm.revision_of(listing.order) == listing.revision
    assert type(listing.view) is kvorm.View


async def until_caught_up(watch: kvorm.Watch[Any]) -> list[Any]:
    events: list[Any] = []
    async with asyncio.timeout(10), watch:
        async for event in watch:
            if isinstance(event, CaughtUp):
                return events
            events.append(event)
    raise AssertionError("the watch ended")


async def deleting(listing: Listing) -> None:
    listing.names["order"] = stale = await listing.orders.get(
        "acme", (await anext(listing.orders.keys(tenant="acme")))[1]
    )
    key = stale.tenant, stale.id
    await listing.orders.update(*key, apply=lambda order: order)
    with pytest.raises(RevisionMismatchError):
        await listing.orders.delete(stale)
    listing.names["order"] = await listing.orders.get(*key)
    await listing.next("await orders.delete(order)")
    assert await listing.orders.get_or_none(*key) is None

    last = kvorm.revision_of(listing.order)
    with pytest.raises(KeyNotFoundError):
        await listing.orders.delete(*key)
    assert (await listing.orders.history(*key))[-1].revision == last
    await listing.orders.save(listing.order)
    await listing.next('await orders.delete("acme", order.id)')
    assert await listing.orders.count(tenant="acme") == 0

    assert len(await listing.orders.history(*key)) == 10
    await listing.next("await orders.purge(")
    assert [event.reason for event in await listing.orders.history(*key)] == ["purged"]
