"""Declarations: what a class may say of its storage, and what each wrong saying is answered."""

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    PastDate,
    PositiveInt,
    RootModel,
    StrictStr,
    ValidationInfo,
    conint,
    create_model,
    field_validator,
)
from pydantic_core import core_schema
from typing_extensions import TypeAliasType

from kvorm import Bucket, InvalidKeyError, Key, Mapping, MemoryStore, Model, ModelError, Repository
from kvorm.model import RESERVED_NAMES, compile_model

T = TypeVar("T")


def raw_key(model: type[Any], *values: object) -> str:
    """Return the raw key of these values, which must come back from it."""
    mapping = compile_model(model)
    raw = mapping.raw_key(values, {})
    key = mapping.key(raw)
    assert key is not None
    assert mapping.raw_key(key, {}) == raw
    return raw


async def keys_of(repository: Repository[Any], **key_fields: object) -> list[tuple[Any, ...]]:
    return [key async for key in repository.keys(**key_fields)]


def keyed(annotation: Any) -> type[Model]:
    """Return a model with one key field."""
    return create_model("Keyed", __base__=Model, __cls_kwargs__={"bucket": "b"}, id=(Key[annotation], ...))


class Order(Model, bucket=Bucket("orders", history=10)):
    tenant: Key[str]
    id: Key[UUID]
    total: Decimal = Decimal(0)


# What is declared


def test_a_bucket_may_be_its_name_alone() -> None:
    class Note(Model, bucket="notes"):
        id: Key[str]

    assert compile_model(Note).bucket == Bucket("notes")
    assert compile_model(Order).bucket == Bucket("orders", history=10)


def test_key_fields_are_in_the_order_of_declaration() -> None:
    class Mixed(Model, bucket="b"):
        second: str = ""
        b: Key[str]
        a: Key[int] = 0

    assert raw_key(Mixed, "x", 1) == "x.1"


def test_what_is_declared_is_compiled_once() -> None:
    assert compile_model(Order) is compile_model(Order)


def test_a_subclass_inherits_bucket_prefix_and_key() -> None:
    class Base(Model, bucket="base", prefix="p"):
        id: Key[str]

    class More(Base):
        seq: Key[int] = 0

    class Elsewhere(Base, bucket="other"):
        pass

    class Renamed(Base, prefix="q.r"):
        pass

    assert raw_key(Base, "a") == "p.a"
    assert raw_key(More, "a", 1) == "p.a.1"
    assert (compile_model(Elsewhere).bucket.name, raw_key(Elsewhere, "a")) == ("other", "p.a")
    assert (compile_model(Renamed).bucket.name, raw_key(Renamed, "a")) == ("base", "q.r.a")


def test_an_abstract_base_needs_no_bucket() -> None:
    class Timestamped(Model):
        id: Key[str]
        at: datetime

    class Event(Timestamped, bucket="events"):
        pass

    assert raw_key(Event, "a") == "a"
    with pytest.raises(
        ModelError, match=r"Timestamped names no bucket: write class Timestamped\(Model, bucket='...'\)"
    ):
        compile_model(Timestamped)


async def test_a_frozen_model_is_read_and_saved() -> None:
    class Fact(Model, bucket="facts"):
        model_config = ConfigDict(frozen=True)

        id: Key[str]
        text: str = ""

    facts = MemoryStore().repository(Fact)
    fact = Fact(id="a")
    first = await facts.save(fact)
    changed = (await facts.get("a")).model_copy(update={"text": "new"})
    assert await facts.save(changed) > first
    with pytest.raises(ValueError, match="frozen"):
        fact.text = "x"  # type: ignore[misc]


async def test_generic_models_are_stored_once_their_types_are_known() -> None:
    class Box(Model, Generic[T], bucket="boxes"):
        id: Key[T]
        items: tuple[T, ...] = ()

    boxes = MemoryStore().repository(Box[int])
    await boxes.save(Box[int](id=5, items=(1,)))
    assert await boxes.get("5") == Box[int](id=5, items=(1,))
    assert raw_key(Box[str], "a b") == "a=20b"
    with pytest.raises(ModelError, match=r"Box: key field 'id' .* a type variable is open; .* for example Box\[int\]"):
        compile_model(Box)
    with pytest.raises(ModelError, match="its values have no single text"):
        compile_model(Box[list[int]])


# Types of key fields


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1


class Size(enum.StrEnum):
    L = "l"


class Slug(str):
    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, __: object) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


UserId = NewType("UserId", str)
AdminId = NewType("AdminId", UserId)
Positive = TypeAliasType("Positive", Annotated[int, Field(gt=0)])
Tagged = TypeAliasType("Tagged", Annotated[T, "tag"], type_params=(T,))
ID = UUID("12345678-1234-5678-1234-567812345678")

KINDS: list[tuple[Any, Any, str]] = [
    (str, "x", "x"),
    (int, 5, "5"),
    (bool, True, "true"),
    (UUID, ID, str(ID)),
    (date, date(2026, 1, 2), "2026-01-02"),
    (datetime, datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00=3A00=3A00Z"),
    (Color, Color.RED, "red"),
    (Level, Level.LOW, "1"),
    (Size, Size.L, "l"),
    (Literal["a", 1, True], "a", "a"),
    (Literal[Color.RED], Color.RED, "red"),
    (Literal[True, False], False, "false"),
    (Slug, "x", "x"),
    (UserId, "x", "x"),
    (AdminId, "x", "x"),
    (Positive, 3, "3"),
    (Tagged[int], 3, "3"),
    (Annotated[str, Field(max_length=3)], "abc", "abc"),
    (Annotated[Annotated[UserId, "a"], "b"], "x", "x"),
    (StrictStr, "x", "x"),
    (PositiveInt, 4, "4"),
    (conint(ge=2), 4, "4"),
    (AwareDatetime, datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00=3A00=3A00Z"),
    (PastDate, date(2020, 1, 2), "2020-01-02"),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), KINDS, ids=str)
def test_types_of_key_fields(annotation: Any, value: object, expected: str) -> None:
    assert raw_key(keyed(annotation), value) == expected


def test_a_name_with_a_marked_type_marks_the_field() -> None:
    TenantKey = TypeAliasType("TenantKey", Key[str])  # noqa: N806

    class Note(Model, bucket="notes"):
        tenant: TenantKey
        id: Annotated[Key[int], Field(gt=0)]

    assert raw_key(Note, "x", 1) == "x.1"
    with pytest.raises(InvalidKeyError, match="greater than 0"):
        raw_key(Note, "x", 0)


class Fraction(enum.Enum):
    HALF = 0.5


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Alike(enum.Enum):
    NUMBER = 1
    TEXT = "1"


REFUSED: list[tuple[Any, str]] = [
    (Optional[str], "a key field always has a value; leave None out"),  # noqa: UP045
    (str | None, "a key field always has a value; leave None out"),
    (str | int, r"members of a union could share a text \(1 and '1'\)"),
    (float, "equal numbers have many texts; use int or str"),
    (bytes, "bytes are no text; use their hex or base64 as str"),
    (Decimal, "its values have no single text"),
    (list[str], "its values have no single text"),
    (Any, "its values have no single text"),
    (NaiveDatetime, "a time without a zone names no moment; use an aware datetime"),
    (Fraction, r"the member <Fraction.HALF: 0.5> is not a str, int or bool"),
    (Rights, "combinations of Rights have no value of their own; use an Enum"),
    (Alike, "its members <Alike.NUMBER: 1> and <Alike.TEXT: '1'> would share the key '1'; rename one of them"),
    (Literal[1, "1"], "its members 1 and '1' would share the key '1'; rename one of them"),
    (Literal[True, "true"], "its members True and 'true' would share the key 'true'"),
    (Literal["a", None], "the member None is not a str, int or bool"),
]


@pytest.mark.parametrize(("annotation", "why"), REFUSED, ids=str)
def test_types_that_are_no_key(annotation: Any, why: str) -> None:
    with pytest.raises(ModelError, match=rf"^Keyed: key field 'id'.*{why}"):
        keyed(annotation)


@pytest.mark.parametrize("annotation", [list[Key[str]], Key[str] | None, dict[str, Key[int]], list[list[Key[str]]]])
def test_a_mark_inside_of_a_type_is_refused(annotation: Any) -> None:
    with pytest.raises(ModelError, match=r"Wrong.ids: Key\[...\] stands inside .* so write ids: Key\[...\]"):
        create_model("Wrong", __base__=Model, __cls_kwargs__={"bucket": "b"}, id=(Key[str], ...), ids=(annotation, ...))


# Wrong declarations


def test_a_model_without_key_and_prefix() -> None:
    with pytest.raises(
        ModelError, match=r"Wrong has no key: mark a field, for example `id: Key\[str\]`, or give it a pr"
    ):

        class Wrong(Model, bucket="b"):
            id: str


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_names_of_options_are_no_key_fields(name: str) -> None:
    with pytest.raises(ModelError, match=f"Wrong.{name}: '{name}' is the name of an option .* rename the field"):
        create_model("Wrong", __base__=Model, __cls_kwargs__={"bucket": "b"}, **{name: (Key[str], ...)})


def test_names_of_options_are_other_fields() -> None:
    class Fine(Model, bucket="b"):
        id: Key[str]
        limit: int = 0
        revision: int = 0

    assert raw_key(Fine, "a") == "a"


@pytest.mark.parametrize("keyword", ["version", "codec", "index", "unique", "ttl", "key", "buckets"])
def test_unknown_and_reserved_class_keywords(keyword: str) -> None:
    with pytest.raises(
        ModelError, match=rf"class Wrong: unknown keyword '{keyword}'; a Model takes bucket= and prefix="
    ):
        create_model("Wrong", __base__=Model, __cls_kwargs__={"bucket": "b", keyword: 1}, id=(Key[str], ...))


@pytest.mark.parametrize(
    "prefix", ["", ".", "a.", ".a", "a..b", "_a", "a._b", "a b", "a.*", ">", "ä", "a=2E", "a\n", 5]
)
def test_wrong_prefixes(prefix: Any) -> None:
    with pytest.raises(ModelError, match="is not a prefix: write one or more tokens of letters"):
        create_model("Wrong", __base__=Model, __cls_kwargs__={"bucket": "b", "prefix": prefix}, id=(Key[str], ...))


@pytest.mark.parametrize("bucket", [5, None, object()])
def test_a_bucket_that_is_none(bucket: Any) -> None:
    with pytest.raises(ModelError, match=r"is neither a name nor a Bucket|names no bucket"):
        compile_model(create_model("Wrong", __base__=Model, __cls_kwargs__={"bucket": bucket}, id=(Key[str], ...)))


def test_an_excluded_key_field() -> None:
    with pytest.raises(ModelError, match=r"Wrong.id: a key field cannot be excluded, .* remove exclude=True"):

        class Wrong(Model, bucket="b"):
            id: Key[str] = Field("x", exclude=True)


def test_a_model_that_cannot_be_read_back() -> None:
    with pytest.raises(ModelError, match=r"^Wrong\.total"):

        class Wrong(Model, bucket="b"):
            id: Key[str]
            total: int = Field(serialization_alias="sum")


def test_a_subclass_that_takes_the_mark_away() -> None:
    with pytest.raises(ModelError, match="Wrong has no key"):

        class Wrong(Keyed):
            id: str


class Keyed(Model, bucket="b"):
    id: Key[str]


# Validation of key fields


async def test_values_go_through_the_validation_of_the_field() -> None:
    class Strict(Model, bucket="b"):
        name: Key[Annotated[str, Field(max_length=3)]]
        at: Key[AwareDatetime]
        color: Key[Color]

        @field_validator("name")
        @classmethod
        def lower(cls, name: str) -> str:
            return name.lower()

    things = MemoryStore().repository(Strict)
    await things.save(Strict(name="ABC", at=datetime(2026, 1, 2, 3, tzinfo=UTC), color=Color.RED))
    assert (await things.get("aBc", "2026-01-02T04:00:00+01:00", "red")).name == "abc"
    assert await keys_of(things, name="ABC", color="red") == [("abc", datetime(2026, 1, 2, 3, tzinfo=UTC), Color.RED)]
    for wrong in (
        ("abcd", datetime(2026, 1, 2, tzinfo=UTC), "red"),
        ("abc", datetime(2026, 1, 2), "red"),  # noqa: DTZ001
        ("abc", "soon", "red"),
        ("abc", datetime(2026, 1, 2, tzinfo=UTC), "blue"),
        (None, datetime(2026, 1, 2, tzinfo=UTC), "red"),
    ):
        with pytest.raises(InvalidKeyError, match=r"no key of Strict: (name|at|color): "):
            await things.get(*wrong)
    with pytest.raises(InvalidKeyError, match="no key of Strict: name: "):
        await things.count(name="abcd")


async def test_a_strict_model_takes_no_text_for_other_types() -> None:
    class Strict(Model, bucket="b"):
        model_config = ConfigDict(strict=True)

        id: Key[UUID]
        number: Key[int]
        color: Key[Color]
        day: Key[date]

    things = MemoryStore().repository(Strict)
    thing = Strict(id=uuid4(), number=1, color=Color.RED, day=date(2026, 1, 2))
    await things.save(thing)
    assert await things.get(thing.id, 1, Color.RED, date(2026, 1, 2)) == thing
    assert await keys_of(things) == [(thing.id, 1, Color.RED, date(2026, 1, 2))]
    with pytest.raises(InvalidKeyError, match="no key of Strict: id: Input should be an instance of UUID"):
        await things.get(str(thing.id), 1, Color.RED, date(2026, 1, 2))


async def test_enum_values_instead_of_members() -> None:
    class Plain(Model, bucket="b"):
        model_config = ConfigDict(use_enum_values=True)

        color: Key[Color]

    things = MemoryStore().repository(Plain)
    await things.save(Plain(color=Color.RED))
    assert await things.get(Color.RED) == await things.get("red")
    assert await keys_of(things) == [("red",)]


async def test_aliases_are_for_json_and_names_for_keys() -> None:
    class Aliased(Model, bucket="b"):
        model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

        id: Key[str] = Field(alias="orderId")
        number: Key[int] = Field(validation_alias=AliasChoices("number", "no"))

    things = MemoryStore().repository(Aliased)
    await things.save(Aliased.model_validate({"orderId": "a", "no": 1}))
    assert (await things.get("a", 1)).id == "a"
    assert (await things.get(id="a", number="1")).number == 1
    with pytest.raises(InvalidKeyError, match=r"the key of Aliased is \(id, number\); 'orderId' is none of them"):
        await things.get(orderId="a", number=1)


async def test_defaults_fill_objects_and_not_keys() -> None:
    class Draft(Model, bucket="b"):
        kind: Key[str] = "draft"
        id: Key[UUID] = Field(default_factory=uuid4)

    drafts = MemoryStore().repository(Draft)
    draft = Draft()
    await drafts.save(draft)
    assert await drafts.get("draft", draft.id) == draft
    with pytest.raises(InvalidKeyError, match=r"the key of Draft is \(kind, id\); kind missing"):
        await drafts.get(id=draft.id)


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        (("a",), {}, r"the key of Order is \(tenant, id\); id missing"),
        ((), {}, r"the key of Order is \(tenant, id\); tenant, id missing"),
        (("a", ID, 1), {}, r"the key of Order is \(tenant, id\), 3 values were given"),
        (((("a", ID)), 1, 2), {}, "3 values were given; pass the fields one by one, as in get"),
        (("a", ID), {"tenant": "b"}, r"'tenant' was given twice"),
        (("a", ID), {"total": 1}, r"'total' is none of them"),
        (("a", "no uuid"), {}, "no key of Order: id: "),
    ],
)
def test_keys_that_cannot_be_formed(values: tuple[object, ...], named: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidKeyError, match=message):
        compile_model(Order).raw_key(values, named)


def test_a_validator_may_look_at_the_key_fields_before_it() -> None:
    class Dependent(Model, bucket="b"):
        kind: Key[str]
        id: Key[str]

        @field_validator("id")
        @classmethod
        def prefixed(cls, id: str, info: ValidationInfo) -> str:
            kind = info.data["kind"]
            return id if id.startswith(kind) else kind + id

    assert raw_key(Dependent, "a", "1") == "a.a1"
    with pytest.raises(InvalidKeyError, match="a key field's validator may look at the key fields before it"):
        compile_model(Dependent).filter({"id": "1"})


async def test_a_key_field_that_is_not_set() -> None:
    orders = MemoryStore().repository(Order)
    with pytest.raises(InvalidKeyError, match="the key field 'id' of this Order is not set"):
        await orders.save(Order.model_construct(tenant="a"))


# Single entries and plain classes


async def test_a_model_with_a_prefix_alone_is_a_single_entry() -> None:
    class Settings(Model, bucket="app", prefix="settings.global"):
        theme: str = "dark"

    settings = MemoryStore().repository(Settings)
    await settings.save(Settings())
    assert await settings.get() == Settings()
    assert (await settings.entry()).raw_key == "settings.global"
    assert await keys_of(settings) == [()]
    assert await settings.delete() == 2
    with pytest.raises(InvalidKeyError, match="Settings is a single entry without key fields, 1 values were given"):
        await settings.get("a")


async def test_a_root_model_is_a_single_entry() -> None:
    class Flags(RootModel[dict[str, bool]]):
        pass

    flags = MemoryStore().repository(Flags, mapping=Mapping("app", prefix="flags"))
    await flags.save(Flags({"new": True}))
    read = await flags.get()
    read.root["new"] = False
    await flags.save(read)
    assert await flags.get() == Flags({"new": False})


class Invoice(BaseModel):
    tenant: str
    id: int
    total: Decimal = Decimal(0)


async def test_a_plain_class_is_mapped() -> None:
    store = MemoryStore()
    invoices = store.repository(Invoice, mapping=Mapping(bucket="invoices", key=("tenant", "id"), prefix="invoice"))
    invoice = Invoice(tenant="acme", id=1)
    first = await invoices.save(invoice)
    invoice.total = Decimal("9.90")
    assert await invoices.save(invoice) > first
    assert await invoices.get("acme", "1") == invoice
    assert (await invoices.entry("acme", 1)).raw_key == "invoice.acme.1"


def test_a_mapping_says_otherwise_for_a_model() -> None:
    mapping = compile_model(Order, Mapping(Bucket("archive"), key=("id",)))
    assert (mapping.bucket.name, mapping.raw_key((ID,), {})) == ("archive", str(ID))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (Mapping("b", key=("tenant", "no")), "Invoice has no field 'no'; its fields are tenant, id, total"),
        (Mapping("b", key=("total",)), "Invoice: key field 'total' .* its values have no single text"),
        (Mapping("b"), "Invoice has no key"),
        (Mapping("b", key="id"), r"Invoice: key='id' must be different names"),
        (Mapping("b", key=("id", "id")), r"Invoice: key=\('id', 'id'\) must be different names"),
        (Mapping("b", key=("id",), prefix="a b"), "is not a prefix"),
        (Mapping("a b", key=("id",)), "bucket name 'a b'"),
    ],
)
def test_wrong_mappings(mapping: Mapping, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compile_model(Invoice, mapping)


def test_a_plain_class_without_a_mapping() -> None:
    with pytest.raises(ModelError, match=r"Invoice is a plain Pydantic class: pass mapping=Mapping\(bucket=..., key="):
        MemoryStore().repository(Invoice)


@pytest.mark.parametrize("model", [int, "Order", Order(tenant="a", id=ID), None])
def test_what_is_no_class_of_pydantic(model: Any) -> None:
    with pytest.raises(ModelError, match="is no Pydantic model class"):
        compile_model(model)


# Several models in one bucket

BANK = Bucket("bank", history=3)


def in_bank(name: str, prefix: str | None, *keys: str, bucket: Bucket = BANK) -> type[Model]:
    fields: dict[str, Any] = dict.fromkeys(keys, (Key[str], ...))
    return create_model(name, __base__=Model, __cls_kwargs__={"bucket": bucket, "prefix": prefix}, **fields)


async def test_models_with_prefixes_share_a_bucket() -> None:
    class Account(Model, bucket=BANK, prefix="account"):
        id: Key[str]

    class Transfer(Model, bucket=BANK, prefix="transfer"):
        id: Key[str]

    store = MemoryStore()
    accounts, transfers = store.repository(Account), store.repository(Transfer)
    await accounts.save(Account(id="1"))
    await transfers.save(Transfer(id="1"))
    assert await keys_of(accounts) == [("1",)]
    assert await transfers.count() == 1


CLASHES = [
    (("A", "same", "id"), ("B", "same", "id")),
    (("A", "same", "id"), ("B", "same", "id", "more")),
    (("A", None, "id"), ("B", "b", "id")),
    (("A", "a", "id"), ("B", None, "id")),
    (("A", None, "id"), ("B", None, "id", "more")),
    (("A", "a", "x", "y"), ("B", "a.b", "x")),
    (("A", "a", "x"), ("B", "a.b")),
]


@pytest.mark.parametrize(("first", "second"), CLASHES)
def test_models_whose_keys_could_be_the_same(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    store = MemoryStore()
    store.repository(in_bank(*first))
    with pytest.raises(ModelError, match=r"B and A would share keys in bucket 'bank': give each a prefix of its own"):
        store.repository(in_bank(*second))


def test_nested_prefixes_that_cannot_meet_are_fine() -> None:
    store = MemoryStore()
    for model in (in_bank("A", "a", "x"), in_bank("B", "a.b", "x"), in_bank("C", "a.c", "x"), in_bank("D", "d", "x")):
        store.repository(model)


def test_one_model_twice_is_no_clash() -> None:
    store = MemoryStore()
    store.repository(Order)
    store.repository(Order)
    Repository(Order, store)


def test_models_that_declare_one_bucket_differently() -> None:
    store = MemoryStore()
    store.repository(in_bank("A", "a", "x"))
    with pytest.raises(
        ModelError, match=r"B and A declare bucket 'bank' differently: write one Bucket\(...\) and give"
    ):
        store.repository(in_bank("B", "b", "x", bucket=Bucket("bank", history=4)))


def test_another_bucket_or_another_store_is_no_clash() -> None:
    store = MemoryStore()
    store.repository(in_bank("A", "same", "x"))
    store.repository(in_bank("B", "same", "x"), bucket="elsewhere")
    MemoryStore().repository(in_bank("B", "same", "x"))


# Custom repositories


class OrderRepo(Repository[Order]):
    async def of_tenant(self, tenant: str) -> list[Order]:
        return [order async for order in self.find(tenant=tenant)]


class UrgentOrderRepo(OrderRepo):
    pass


class AnyRepo(Repository[Any]):
    pass


@pytest.mark.parametrize("kind", [OrderRepo, UrgentOrderRepo])
async def test_a_repository_class_says_its_model(kind: type[OrderRepo]) -> None:
    store = MemoryStore()
    orders = store.repository(kind)
    assert type(orders) is kind
    order = Order(tenant="acme", id=ID)
    await orders.save(order)
    assert await orders.of_tenant("acme") == [order]
    assert await kind(Order, store).get("acme", ID) == order


def test_a_repository_class_that_does_not_say_its_model() -> None:
    with pytest.raises(ModelError, match=r"does not say its model: write class Repository\(Repository\[Order\]\)"):
        MemoryStore().repository(Repository)
