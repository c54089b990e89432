"""A thousand generated bad inputs: each one typed error, at once; nothing is stored, and the connection works on."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from secrets import token_hex
from typing import Any
from uuid import UUID, uuid4

import kvorm
from kvorm import ANY, Bucket, BulkError, Key, KvormError, Mapping, Model, Repository, Store
from kvorm.testing.servers import NatsServer

INPUTS = 1_000
AT_ONCE = 0.1
STALLS = 5
"""How many may be held up by a machine that has other things to do."""
MOST = 2_000


class Order(Model, bucket="bad-orders"):
    tenant: Key[str]
    id: Key[UUID]
    total: Decimal = Decimal(0)
    note: str = ""


Attempt = Callable[[], Awaitable[object]]
ODD_TEXT = ["\ud800", "a\udfff", "\udc80.b", "k" * 1025, "é" * 400, ">" * 600, "." * 500, "\0" * 500]
NO_UUID = ["", "7", "*", ">", "no uuid", None, 3.5, b"x", [], {}, object(), float("nan"), True, "\ud800"]
NO_TEXT = [None, 7, 3.5, b"\xff", [], {}, object(), True, ("a",)]
NO_REVISION = [0, -1, True, False, 1.0, "1", [], ..., kvorm.ABSENT, kvorm.ANY, object()]
NO_EXPECT = [0, -1, None, True, False, 1.0, "1", [], ..., object(), timedelta(1), "ANY"]
NO_ORDER = [None, 1, "order", b"", {}, [], object(), Order, Decimal(1)]
FIELDS = ["Tenant", "id_", "number", "", "tenant.id", "\ud800", "total", "bucket", "self"]


class Inputs:
    """Makes bad calls, at random but the same each time."""

    def __init__(self, orders: Repository[Any], store: Store, stored: Order) -> None:
        self.choice = random.Random(7)
        self.orders = orders
        self.store = store
        self.stored = stored
        self.makers: list[Callable[[], Attempt]] = [
            self.bad_key,
            self.bad_filter,
            self.bad_revision,
            self.bad_expect,
            self.bent,
            self.too_large,
            self.no_order,
            self.stale,
            self.missing,
            self.unknown_option,
            self.bad_bulk,
            self.bad_watch,
            self.bad_apply,
        ]

    def key(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what cannot be a key."""
        pick = self.choice.choice
        good = uuid4()
        return pick(
            [
                ((pick(ODD_TEXT), good), {}),
                ((pick(NO_TEXT), good), {}),
                (("acme", pick(NO_UUID)), {}),
                ((), {"tenant": "acme", "id": pick(NO_UUID)}),
                ((), {}),
                (("acme",), {}),
                (("acme", good, pick(NO_UUID)), {}),
                (("acme", good), {pick(FIELDS): 1}),
                (("acme",), {"tenant": "acme"}),
                ((self.stored.tenant,), {pick(FIELDS): good}),
            ]
        )

    def bad_key(self) -> Attempt:
        orders, pick = self.orders, self.choice.choice
        key, fields = self.key()
        verb = pick(["get", "get_or_none", "entry", "exists", "history", "delete", "purge"])
        return lambda: getattr(orders, verb)(*key, **fields)

    def bad_filter(self) -> Attempt:
        pick = self.choice.choice
        field = pick(
            [
                {"id": pick(NO_UUID)},
                {"tenant": pick(NO_TEXT)},
                {"tenant": pick(["\ud800", "a\udfff"])},
                {pick(FIELDS): 1},
            ]
        )
        verb = pick(["find", "keys"])
        if pick([True, False]):
            return lambda: self.orders.count(**field)
        return lambda: anext(getattr(self.orders, verb)(**field))

    def bad_revision(self) -> Attempt:
        key = self.stored.tenant, self.stored.id
        verb = self.choice.choice(["get", "entry", "restore"])
        revision = self.choice.choice(NO_REVISION)
        return lambda: getattr(self.orders, verb)(*key, revision=revision)

    def bad_expect(self) -> Attempt:
        expect, verb = self.choice.choice(NO_EXPECT), self.choice.choice(["save", "save_many"])
        value: Any = self.new() if verb == "save" else [self.new()]
        return lambda: getattr(self.orders, verb)(value, expect=expect)

    def bent(self) -> Attempt:
        pick = self.choice.choice
        changes: dict[str, Any] = pick(
            [
                {"total": pick(["many", None, object(), Decimal("NaN"), b"\xff", "\ud800", {1: 2}])},
                {"note": pick([None, 5, b"\xff", object(), "\ud800", ["a"], float("inf")])},
                {"tenant": pick(NO_TEXT + ODD_TEXT)},
                {"id": pick(NO_UUID)},
            ]
        )
        return self.write(self.new().model_copy(update=changes))

    def too_large(self) -> Attempt:
        size = self.choice.choice([MOST, 10 * MOST, 1024 * 1024, 3 * 1024 * 1024])
        return self.write(self.new(note="x" * size))

    def no_order(self) -> Attempt:
        return self.write(self.choice.choice(NO_ORDER))

    def write(self, value: Any) -> Attempt:
        """Try to store a value, one way or the other."""
        orders = self.orders
        key = self.stored.tenant, self.stored.id
        ways: list[Attempt] = [
            lambda: orders.save(value),
            lambda: orders.save(value, expect=ANY),
            lambda: orders.get_or_create(value),
            lambda: orders.save_many([value]),
        ]
        if value is not None:
            ways.append(lambda: orders.update(*key, apply=lambda _: value))
        return self.choice.choice(ways)

    def stale(self) -> Attempt:
        order = self.stored.model_copy(update={"note": "stale"})
        revision = self.choice.choice([2, 7, 10**6, 2**62, 2**64, 10**30])
        return self.choice.choice(
            [
                lambda: self.orders.save(order, expect=revision),
                lambda: self.orders.save(order, expect=kvorm.ABSENT),
                lambda: self.orders.delete(Order(tenant=order.tenant, id=order.id)),
                lambda: self.orders.save(self.new(), expect=revision),
            ]
        )

    def missing(self) -> Attempt:
        revision = self.choice.choice([2, 10**6, 2**62, 2**64, 10**30])
        verb = self.choice.choice(["get", "entry", "delete", "purge"])
        return self.choice.choice(
            [
                lambda: getattr(self.orders, verb)("acme", uuid4()),
                lambda: self.orders.get(self.stored.tenant, self.stored.id, revision=revision),
                lambda: self.orders.restore(self.stored.tenant, self.stored.id, revision=revision),
                lambda: self.orders.delete(self.new()),
            ]
        )

    def unknown_option(self) -> Attempt:
        option = self.choice.choice(["force", "Expect", "upsert", "if_exists", "ttl", "limit"])
        verb = self.choice.choice(["save", "get_or_create", "save_many", "get_many"])

        async def call() -> object:
            return await getattr(self.orders, verb)(self.new(), **{option: 1})

        return call

    def bad_bulk(self) -> Attempt:
        order, pick = self.new(), self.choice.choice
        keys = pick([[None], ["acme"], [("acme",)], [("acme", pick(NO_UUID))], [("acme", uuid4()), 7], 7, None])
        values = pick([[order, order], [order, order.model_copy()], 7, None, [None], [1, 2]])
        return pick([lambda: self.orders.get_many(keys), lambda: self.orders.save_many(values)])

    def bad_watch(self) -> Attempt:
        pick = self.choice.choice
        options: dict[str, Any] = pick(
            [
                {"since": 1, "history": True},
                {"updates_only": True, "history": True},
                {"id": pick(NO_UUID)},
                {"since": pick([-1, "1", 1.5, [], object()])},
                {pick(FIELDS): 1},
            ]
        )

        async def call() -> object:
            return await anext(aiter(self.orders.watch(**options)))

        return call

    def bad_apply(self) -> Attempt:
        other = uuid4()
        applies: list[Any] = [
            lambda order: order.model_copy(update={"id": other}),
            lambda order: order.model_copy(update={"tenant": "\ud800"}),
            lambda order: 7,
            lambda: None,
            None,
            7,
        ]
        apply = self.choice.choice(applies)
        return lambda: self.orders.update(self.stored.tenant, self.stored.id, apply=apply)

    def new(self, **fields: Any) -> Order:
        return Order(tenant="acme", id=uuid4(), **fields)


async def test_each_bad_input_is_one_typed_error_at_once(nats_server: NatsServer) -> None:
    async with kvorm.connect(nats_server.url) as store:
        bucket = Bucket(f"bad-{token_hex(6)}", history=5, max_value_bytes=MOST)
        orders = store.repository(Order, mapping=Mapping(bucket, key=("tenant", "id")))
        stored = Order(tenant="acme", id=uuid4())
        await orders.save(stored)
        inputs = Inputs(orders, store, stored)
        raised: Counter[str] = Counter()
        wrong: list[str] = []
        slow: list[str] = []
        for number in range(INPUTS):
            maker = inputs.makers[number % len(inputs.makers)]
            attempt = maker()
            start = time.perf_counter()
            try:
                async with asyncio.timeout(1):
                    answer = await attempt()
            except Exception as error:
                raised[type(error).__name__] += 1
                errors = error.exceptions if isinstance(error, BulkError) else (error,)
                if not all(isinstance(one, KvormError | ValueError | TypeError) for one in errors):
                    wrong.append(f"{number} {maker.__name__}: {error!r}")
            else:
                wrong.append(f"{number} {maker.__name__}: returned {answer!r}")
            if time.perf_counter() - start > AT_ONCE:
                slow.append(f"{number} {maker.__name__}: took {time.perf_counter() - start:.3f} s")
        assert not wrong, "\n".join(wrong)
        assert len(slow) <= STALLS, "\n".join(slow)
        assert len(raised) >= 8
        history = await orders.history("acme", stored.id)
        assert [event.revision for event in history] == [1]
        assert await orders.count() == 1
        stored.note = "still at revision 1"
        assert await orders.save(stored) == 2
