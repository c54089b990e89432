"""The classes that the checks store, and how they come into a fresh bucket."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import Unpack

from kvorm.bucket import Bucket, Storage
from kvorm.model import Key, Mapping, Model
from kvorm.repository import Repository
from kvorm.store import Store
from kvorm.testing.contract.harness import Harness


class Order(Model):
    """The usual model: two key fields, some content."""

    tenant: Key[str]
    id: Key[int]
    total: Decimal = Decimal(0)
    note: str = ""


class Note(Model):
    """One key field of any text."""

    id: Key[str]
    text: str = ""


class Guarded(Model):
    """Validates what is assigned."""

    model_config = ConfigDict(validate_assignment=True)

    id: Key[str]
    text: str = ""


class Open(Model):
    """Validates what is assigned and takes fields that it does not know."""

    model_config = ConfigDict(validate_assignment=True, extra="allow")

    id: Key[str]
    text: str = ""


class Frozen(Model):
    """Cannot be changed by its owner."""

    model_config = ConfigDict(frozen=True)

    id: Key[str]
    text: str = ""


class Folded(Model):
    """A key field whose validation changes the value."""

    id: Key[Annotated[str, AfterValidator(str.lower)]]


def _refuse(value: str) -> str:
    raise ValueError(f"{value!r} has no form on the wire")


class Mute(Model):
    """Cannot be encoded."""

    id: Key[str]
    text: Annotated[str, PlainSerializer(_refuse)] = "secret"


class Colour(Enum):
    """Members whose values need escaping."""

    RED = "r.e d"
    BLUE = "*"


class Address(BaseModel):
    """A part of `Rich`."""

    street: str
    zip: str = Field(alias="postCode", default="")


class KnownAddress(Address):
    """More than `Rich` says its address is."""

    secret: str = "s3cret"


class Rich(Model):
    """One field of nearly everything, and one key field of every kind."""

    text: Key[str]
    number: Key[int]
    truth: Key[bool]
    uuid: Key[UUID]
    colour: Key[Colour]
    size: Key[Literal["S", "M", 3]]
    day: Key[date]
    moment: Key[datetime]
    price: Decimal = Decimal("1.10")
    ratio: float = 0.1
    raw: bytes = b"\x01text"
    span: timedelta = timedelta(hours=1.5)
    tags: set[str] = Field(default_factory=set[str])
    pair: tuple[int, str] = (1, "a")
    address: Address | None = None
    nested: dict[str, list[Address]] = Field(default_factory=dict[str, list[Address]])
    aliased: int = Field(alias="wireName", default=0)
    hidden: str = Field(exclude=True, default="default")


def rich(**changed: Any) -> Rich:
    """Return a Rich with something in every field."""
    values: dict[str, Any] = {
        "text": "a.b *>=_/-é€😀",
        "number": -7,
        "truth": True,
        "uuid": UUID("12345678-1234-5678-1234-567812345678"),
        "colour": Colour.RED,
        "size": 3,
        "day": date(2026, 2, 28),
        "moment": datetime(2026, 2, 28, 12, 30, 15, 250000, tzinfo=UTC),
        "tags": {"x", "y"},
        "address": Address(street="Main", postCode="123"),
        "nested": {"home": [Address(street="A"), Address(street="B")]},
        "wireName": 5,
    }
    return Rich(**{**values, **changed})


class Settings(TypedDict, total=False):
    """What a check may ask of its bucket."""

    history: int
    ttl: timedelta
    marker_ttl: timedelta
    storage: Storage
    max_value_bytes: int
    max_bytes: int
    description: str
    metadata: dict[str, str]


def new_bucket(harness: Harness, **settings: Unpack[Settings]) -> Bucket:
    """Return the declaration of a bucket that does not exist yet."""
    return Bucket(harness.new_name(), replicas=harness.replicas, **settings)


def orders_in(store: Store, bucket: Bucket) -> Repository[Order]:
    """Return the orders of a bucket."""
    return store.repository(Order, mapping=Mapping(bucket, key=("tenant", "id")))


async def new_orders(harness: Harness, **settings: Unpack[Settings]) -> Repository[Order]:
    """Return orders in a fresh bucket, through a store of their own."""
    return orders_in(await harness.open(), new_bucket(harness, **settings))


async def elsewhere(harness: Harness, orders: Repository[Order]) -> Repository[Order]:
    """Return the same orders as another client sees them."""
    return orders_in(await harness.open(), orders.bucket)


def notes_in(store: Store, bucket: Bucket) -> Repository[Note]:
    """Return the notes of a bucket."""
    return store.repository(Note, mapping=Mapping(bucket, key=("id",)))


async def new_notes(harness: Harness, **settings: Unpack[Settings]) -> Repository[Note]:
    """Return notes in a fresh bucket, through a store of their own."""
    return notes_in(await harness.open(), new_bucket(harness, **settings))


def note_of_size(size: int, *, id: str = "n") -> Note:
    """Return a note whose value has so many bytes."""
    empty = len(Note(id=id).model_dump_json())
    return Note(id=id, text="x" * (size - empty))
