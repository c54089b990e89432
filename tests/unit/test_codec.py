"""The codec by example: what is written, what is refused and how it is said."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from kvorm.codec import Codec, CodecFailure
from kvorm.errors import ModelError

STAMP = "__kvorm_stamp__"


class Item(BaseModel):
    sku: str
    price: Decimal = Field(alias="unitPrice")

    @functools.cached_property
    def upper(self) -> str:
        return self.sku.upper()


class Order(BaseModel):
    id: UUID
    items: list[Item] = []
    note: str = Field(default="", exclude=True)

    @computed_field
    def size(self) -> int:
        return len(self.items)


ORDER = Order(id=UUID(int=1), items=[Item(sku="a", unitPrice=Decimal("1.50"))], note="not stored")
WRITTEN = b'{"id":"00000000-0000-0000-0000-000000000001","items":[{"sku":"a","unitPrice":"1.50"}]}'


def test_writes_plain_json_by_alias_without_excluded_and_computed_fields() -> None:
    assert Codec(Order).encode(ORDER) == WRITTEN
    assert Codec(Order).decode(WRITTEN) == ORDER.model_copy(update={"note": ""})


def test_reads_names_of_fields_too() -> None:
    assert Codec(Item).decode(b'{"sku":"a","price":"2"}') == Item(sku="a", unitPrice=Decimal(2))


def test_what_lies_beside_the_fields_is_not_written() -> None:
    order = ORDER.model_copy(deep=True)
    assert order.items[0].upper == "A"
    order.__dict__[STAMP] = order.items[0].__dict__[STAMP] = ("incarnation", "bucket", "key", 1, None)
    assert Codec(Order).encode(order) == WRITTEN


def test_subclass_instances_are_written_as_the_class_that_is_declared() -> None:
    class SecretItem(Item):
        password_hash: str = "leaked"

        @model_serializer(mode="plain")
        def _everything(self) -> dict[str, str]:
            return {"leaked": self.password_hash}

    class SecretOrder(Order):
        password_hash: str = "leaked"

    items: list[Item] = [SecretItem(sku="a", unitPrice=Decimal("1.50"))]
    assert Codec(Order).encode(SecretOrder(id=ORDER.id, items=items)) == WRITTEN


def test_another_class_is_refused() -> None:
    codec: Codec[Any] = Codec(Order)
    for other in (ORDER.items[0], None, {"id": UUID(int=1)}):
        with pytest.raises(CodecFailure, match="is not Order"):
            codec.encode(other)


def test_what_has_no_json_is_refused_with_its_cause() -> None:
    codec = Codec(Item)
    for price in (object(), "\ud800"):
        with pytest.raises(CodecFailure, match="PydanticSerializationError") as caught:
            codec.encode(Item.model_construct(sku="a", price=price))
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "value: Invalid JSON: EOF while parsing a value at line 1 column 0"),
        (b"[]", "value: Input should be an object"),
        (b"{}", "id: Field required"),
        (
            b'{"id":1,"items":[{},{}]}',
            "id: UUID input should be a string, bytes or UUID object; items.0.sku: Field required; "
            "items.0.unitPrice: Field required; and 2 more",
        ),
    ],
)
def test_bytes_that_are_no_model_are_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(CodecFailure) as caught:
        Codec(Order).decode(data)
    assert caught.value.reason == reason
    assert str(caught.value) == reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


def test_a_reason_does_not_repeat_the_value() -> None:
    with pytest.raises(CodecFailure) as caught:
        Codec(Order).decode(b'{"id":"hunter2"}')
    assert "hunter2" not in caught.value.reason


def test_any_exception_of_a_validator_is_a_failure() -> None:
    def explode(value: object) -> object:
        raise KeyError("no such thing")

    model = create_model("Exploding", n=(Annotated[int, BeforeValidator(explode)], 0))
    with pytest.raises(CodecFailure, match="KeyError: 'no such thing'") as caught:
        Codec(model).decode(b'{"n":1}')
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_class_built_late_is_built_now() -> None:
    class Deferred(BaseModel):
        model_config = ConfigDict(defer_build=True)

        n: int

    assert Codec(Deferred).decode(b'{"n":1}') == Deferred(n=1)


def test_a_class_with_an_unknown_name_says_which() -> None:
    class Broken(BaseModel):
        x: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ModelError, match="Broken is not complete: 'Missing' is not defined"):
        Codec(Broken)


def model_of(annotation: Any, field: Any = ..., **config: Any) -> type[BaseModel]:
    options: Any = config
    return create_model("M", __config__=options, x=(annotation, field))


class Hidden(BaseModel):
    secret: int = Field(exclude=True)


class HiddenDict(TypedDict):
    secret: Annotated[int, Field(exclude=True)]


@dataclasses.dataclass
class HiddenInit:
    init: dataclasses.InitVar[int]


class HiddenTuple(NamedTuple):
    inner: Hidden


@dataclasses.dataclass
class Closed:
    __pydantic_config__ = ConfigDict(extra="forbid")
    n: int
    late: int = dataclasses.field(init=False, default=0)


class Recursive(BaseModel):
    next: Recursive | None = None
    hidden: Hidden | None = None


class Frozen(BaseModel, frozen=True):
    n: int


class Cat(BaseModel):
    kind: Literal["cat"] = Field("cat", exclude=True)


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Bad(enum.Enum):
    PAIR = (1, 2)


class Texts(enum.Enum):
    A = "a"


class Twice(BaseModel):
    a: int = Field(alias="z")
    b: int = Field(serialization_alias="z", validation_alias=AliasChoices("b", "z"))


class Crossed(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="c", default=0, exclude=True)


class Stolen(BaseModel):
    a: int
    b: int = Field(validation_alias=AliasChoices("a", "b"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Hidden, r"^Hidden\.secret: it is required and not written\. Give it a default"),
        (model_of(dict[str, list[Hidden | None]]), r"^Hidden\.secret: it is required"),
        (model_of(HiddenDict), r"^HiddenDict\.secret: it is required"),
        (model_of(HiddenInit), r"^HiddenInit\.init: it is required"),
        (model_of(HiddenTuple), r"^Hidden\.secret: it is required"),
        (Recursive, r"^Hidden\.secret: it is required"),
        (model_of(int, Field(serialization_alias="s")), r"M\.x: it is written as 's' and read as 'x'\. Use alias="),
        (model_of(int, Field(1, validation_alias="v", serialization_alias="s")), r"read as 'v' or 'x'"),
        (
            model_of(int, Field(alias="a", validation_alias=AliasPath("a", 0))),
            r"written as 'a' and read as 'a.0' or 'x'",
        ),
        (model_of(Any, Field(validation_alias=AliasPath("x", "y"))), r"reads 'x\.y' first, and 'x' is what x"),
        (Twice, r"^Twice\.b: a is written as 'z' too"),
        (Crossed, r"^Crossed\.b: it is not written, but reads 'b' first, and 'b' is what a"),
        (Stolen, r"^Stolen\.b: it is written as 'b', but reads 'a' first"),
        (model_of(SecretStr), r"^M\.x: a secret is written as asterisks"),
        (model_of(list[SecretBytes] | None), r"^M\.x: a secret is written as asterisks"),
        (model_of(Iterable[int]), r"^M\.x: writing uses the iterator up"),
        (model_of(Callable[[], int]), r"^M\.x: its type cannot be read from JSON"),
        (model_of(Codec[Any], arbitrary_types_allowed=True), r"^M\.x: its type cannot be read from JSON"),
        (model_of(dict[tuple[int, int], str]), r"^M\.x: JSON has only text as keys"),
        (model_of(dict[Frozen, str]), r"^M\.x: JSON has only text as keys"),
        (model_of(bytes, ser_json_bytes="base64"), r"^M\.x: bytes are written as base64 and read as utf8"),
        (model_of(Bad), r"^M\.x: \(1, 2\) is not read back from its JSON"),
        (model_of(Literal[b"x"]), r"^M\.x: b'x' is not read back from its JSON"),
        (
            model_of(Annotated[Cat | Dog, Field(discriminator="kind")]),
            r"^M\.x: the union looks for 'kind', which Cat does not write",
        ),
        (model_of(str | datetime), r"^M\.x: a datetime is text in JSON and comes back as str"),
        (model_of(Decimal | str | None), r"^M\.x: a decimal is text in JSON and comes back as str"),
        (model_of(str | Texts), r"^M\.x: a enum is text in JSON"),
        (model_of(list[int] | set[int]), r"^M\.x: the members of the union are the same array in JSON"),
        (model_of(Closed), r"^Closed\.late: it is written and, with init=False and extra='forbid', refused"),
    ],
)
def test_a_class_that_cannot_read_what_it_writes_is_refused(model: type[BaseModel], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Codec(model)


class Revealed(BaseModel):
    secret: SecretStr

    @field_serializer("secret")
    def _reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Translated(BaseModel):
    n: int = Field(serialization_alias="number")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return {"n": data["number"]} if "number" in data else data


class Summed(BaseModel):
    n: int = Field(serialization_alias="number")

    @model_serializer
    def _plain(self) -> dict[str, int]:
        return {"n": self.n}


@pytest.mark.parametrize(
    "value",
    [
        Revealed(secret=SecretStr("s")),
        Translated(n=1),
        Summed(n=1),
        model_of(UUID | str)(x=UUID(int=1)),
        model_of(Annotated[str, Field(max_length=3)] | datetime)(x=datetime(2020, 1, 1, tzinfo=UTC)),
        model_of(bytes, ser_json_bytes="hex", val_json_bytes="hex")(x=b"\xff"),
        model_of(Codec[Any], Field(Codec(Item), exclude=True), arbitrary_types_allowed=True)(),
        model_of(
            Annotated[complex, PlainSerializer(lambda c: [c.real, c.imag]), BeforeValidator(lambda c: complex(*c))]
        )(x=(1.0, 2.0)),
        model_of(int, Field(validation_alias=AliasChoices("old", AliasPath("in", "x"))))(old=1),
    ],
)
def test_a_class_that_may_well_read_what_it_writes_is_taken(value: BaseModel) -> None:
    codec = Codec(type(value))
    assert codec.decode(codec.encode(value)) == value


def test_what_excludes_a_required_field_sometimes_is_refused() -> None:
    field = Field(exclude_if=lambda value: value == 0)
    if not hasattr(field, "exclude_if"):
        pytest.skip("exclude_if came with pydantic 2.12")
    with pytest.raises(ModelError, match="it is required and not written"):
        Codec(model_of(int, field))
