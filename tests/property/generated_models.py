"""Model classes and instances for the law of the codec, generated: features are drawn and mixed, not listed.

A `Kind` is an annotation with the values it takes; a `Sample` is an instance with its class. Values are what Python
code would put there, so that strict classes take them too.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import ipaddress
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import assume
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    StringConstraints,
    Tag,
    WrapSerializer,
    WrapValidator,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict


class Color(enum.Enum):
    RED = "red"
    TWO = 2
    HALF = 0.5


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2**40


class Word(enum.StrEnum):
    A = "a"
    QUOTE = '"'


class Odd(str, enum.Enum):
    """Its text is not its value."""

    def __new__(cls, text: str, value: str) -> Odd:
        self = str.__new__(cls, text)
        self._value_ = value
        return self

    ONE = "text", "value"


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Options(TypedDict, total=False):
    size: Annotated[int, Field(alias="Size")]
    data: bytes


@dataclasses.dataclass
class Plain:
    n: int
    when: date = date(2020, 1, 1)
    hidden: Annotated[int, Field(exclude=True)] = 0


class Address(BaseModel):
    street: str
    post_code: str = Field(alias="postCode")


class SecretAddress(Address):
    """A subclass instance in a field: its own field must never be written."""

    password_hash: str = "leaked"


class Node(BaseModel):
    """Recursive."""

    value: int
    next: Node | None = None
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"] = Field("cat", alias="petKind")
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = Field("dog", alias="petKind")
    breed: bytes = b""


class Ids(RootModel[list[int]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Rich(BaseModel):
    """What sits beside the fields, and is not written."""

    model_config = ConfigDict(frozen=True)

    name: str
    inner: Address
    _note: str = PrivateAttr("private")

    @computed_field
    def shout(self) -> str:
        return self.name.upper()

    @functools.cached_property
    def length(self) -> int:
        return len(self.name)


class Custom(BaseModel):
    """Serializers and validators of the class itself."""

    n: int
    data: bytes = b"x"

    @field_serializer("data")
    def _hex(self, value: bytes) -> str:
        return value.hex()

    @model_serializer(mode="wrap")
    def _mark(self, handler: Any) -> dict[str, Any]:
        return {**handler(self), "mark": 1}

    @model_validator(mode="before")
    @classmethod
    def _unmark(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key != "mark"} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Custom:
        return self


class Revealed(BaseModel):
    secret: SecretStr

    @field_serializer("secret")
    def _reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int


@dataclasses.dataclass(frozen=True)
class Kind:
    """An annotation, values of it, and whether reading gives each of them back as it was."""

    annotation: Any
    values: st.SearchStrategy[Any]
    faithful: bool = True


@dataclasses.dataclass(frozen=True)
class Sample:
    """An instance of a generated class; `faithful` says that reading must give it back equal."""

    value: BaseModel
    faithful: bool

    def __repr__(self) -> str:
        fields = {name: (field.annotation, field) for name, field in type(self.value).model_fields.items()}
        return f"Sample({self.value!r}, config={type(self.value).model_config}, {fields=})"


def _fail_on_key_error(value: Any) -> Any:
    """Raise what pydantic does not turn into a ValidationError."""
    if value in (13, "13"):
        raise KeyError(value)
    return value


text = st.text(st.characters(exclude_categories=()), max_size=5)  # surrogates too: they have no JSON
ints = st.integers(-5, 20) | st.integers() | st.sampled_from([2**53 + 1, 2**63, -(2**63), 2**64, 10**30])
_zones = st.sampled_from([None, UTC, ZoneInfo("Europe/Amsterdam"), timezone(timedelta(hours=-3, minutes=-30))])
datetimes = st.datetimes(timezones=_zones)
addresses = st.builds(Address, street=st.text(max_size=3), postCode=st.text(max_size=3))


def _tag(value: Any) -> str:
    return "int" if isinstance(value, int) else "text"


LEAVES: list[Kind] = [
    Kind(int, ints),
    Kind(str, text),
    Kind(bool, st.booleans()),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e22, -0.0, 5e-324])),
    Kind(float, st.sampled_from([float("nan"), float("inf")]), faithful=False),
    Kind(None, st.none()),
    Kind(bytes, st.binary(max_size=4)),
    Kind(Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Kind(datetime, datetimes, faithful=False),  # seconds of an offset are cut
    Kind(datetime, st.datetimes(timezones=st.sampled_from([None, UTC]))),
    Kind(date, st.dates()),
    Kind(time, st.times()),
    Kind(timedelta, st.timedeltas(timedelta(days=-4000), timedelta(days=4000))),
    Kind(UUID, st.uuids()),
    Kind(ipaddress.IPv4Address, st.ip_addresses(v=4)),
    *(Kind(cls, st.sampled_from(cls)) for cls in (Color, Level, Word, Odd)),
    Kind(Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    Kind(Annotated[int, Field(ge=0, lt=100)], st.integers(0, 99)),
    Kind(Annotated[str, StringConstraints(strip_whitespace=True, max_length=3)], st.just("abc")),
    Kind(Json[list[int]], st.just("[1, 2]")),
    Kind(Any, st.sampled_from([None, 1, "x", [1, {"a": None}]])),
    Kind(object, st.sampled_from([b"x", date(2020, 1, 1), (1, 2)]), faithful=False),
    Kind(Point, st.builds(Point, x=ints, y=st.just(0.5))),
    Kind(Plain, st.builds(Plain, n=ints, when=st.dates(), hidden=st.just(0))),
    Kind(Options, st.sampled_from([{}, {"size": 1}, {"size": 2, "data": b"\xc3\xa9"}])),
    Kind(Address, addresses),
    Kind(Address, st.just(SecretAddress(street="s", postCode="p")), faithful=False),
    Kind(
        Node,
        st.recursive(
            st.builds(Node, value=ints, next=st.none(), children=st.just([])),
            lambda n: st.builds(Node, value=ints, next=n),
            max_leaves=4,
        ),
    ),
    Kind(Annotated[Cat | Dog, Field(discriminator="kind")], st.sampled_from([Cat(petKind="cat"), Dog(petKind="dog")])),
    Kind(
        Annotated[Annotated[int, Tag("int")] | Annotated[str, Tag("text")], Discriminator(_tag)],
        st.sampled_from([1, "1"]),
    ),
    Kind(Cat | Address, st.just(Cat(petKind="cat", lives=1))),
    Kind(int | str | None, st.sampled_from([1, "1", None])),
    Kind(UUID | int, st.uuids() | ints),
    Kind(Ids, st.builds(Ids, st.lists(ints, max_size=2))),
    Kind(Box[datetime], st.builds(Box[datetime], content=st.datetimes())),
    Kind(Rich, st.builds(Rich, name=st.text(max_size=3), inner=addresses)),
    Kind(Custom, st.builds(Custom, n=ints, data=st.binary(max_size=2)), faithful=False),
    Kind(Revealed, st.builds(Revealed, secret=st.just(SecretStr("s")))),
    Kind(
        Open,
        st.sampled_from([Open(known=1), Open.model_validate({"known": 1, "more": b"x", "again": [1]})]),
        faithful=False,
    ),
    Kind(Annotated[int, PlainSerializer(lambda n: f"{n}!", return_type=str)], ints, faithful=False),
    Kind(Annotated[bytes, WrapSerializer(lambda b, handler: [handler(b)])], st.just(b"x"), faithful=False),
    Kind(Annotated[int, AfterValidator(_fail_on_key_error)], ints, faithful=False),
    Kind(Annotated[int | str, BeforeValidator(_fail_on_key_error)], ints, faithful=False),
    Kind(Annotated[int, WrapValidator(lambda n, handler: handler(n) + 1)], st.integers(-5, 5), faithful=False),
    # What an `after` validator returns is not what the type says.
    Kind(Annotated[str, AfterValidator(str.encode)], st.just("x"), faithful=False),
]

_hashable = [Kind(t, v) for t, v in ((int, ints), (str, st.text(max_size=3)), (date, st.dates()), (UUID, st.uuids()))]
_dict_keys = [*_hashable, Kind(bool, st.booleans()), Kind(Level, st.sampled_from(Level)), Kind(bytes, st.just(b"k"))]


def _wrap(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    def of(make: Callable[[Kind], tuple[Any, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Kind]:
        return inner.map(lambda kind: Kind(*make(kind), faithful=kind.faithful))

    def as_dict(keys: Kind, kind: Kind) -> Kind:
        return Kind(
            dict[keys.annotation, kind.annotation],  # type: ignore[name-defined]
            st.dictionaries(keys.values, kind.values, max_size=2),
            kind.faithful,
        )

    return st.one_of(
        of(lambda kind: (list[kind.annotation], st.lists(kind.values, max_size=3))),  # type: ignore[name-defined]
        of(lambda kind: (kind.annotation | None if kind.annotation else None, st.none() | kind.values)),
        of(lambda kind: (tuple[int, kind.annotation], st.tuples(ints, kind.values))),  # type: ignore[name-defined]
        of(lambda kind: (tuple[kind.annotation, ...], st.lists(kind.values, max_size=2).map(tuple))),  # type: ignore[name-defined]
        st.builds(as_dict, st.sampled_from(_dict_keys), inner),
        st.sampled_from(_hashable).map(
            lambda kind: Kind(frozenset[kind.annotation], st.frozensets(kind.values, max_size=3))  # type: ignore[name-defined]
        ),
        st.sampled_from(_hashable).map(
            lambda kind: Kind(set[kind.annotation], st.sets(kind.values, max_size=3))  # type: ignore[name-defined]
        ),
    )


kinds = st.one_of(st.sampled_from(LEAVES), st.recursive(st.sampled_from(LEAVES), _wrap, max_leaves=2))

NAMES = ["a", "b", "field_c", "d"]
_aliases = st.sampled_from([*NAMES, "A", "x y", 'q"', "é"])
_validation_aliases = st.one_of(
    _aliases,
    st.builds(AliasChoices, _aliases, _aliases),
    st.builds(AliasPath, _aliases, st.just("in")),
    st.builds(lambda name, path: AliasChoices(path, name), _aliases, st.builds(AliasPath, _aliases, st.just("in"))),
)
alias_soup: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(lambda alias: {"alias": alias}, _aliases),
    st.builds(lambda alias: {"validation_alias": alias}, _validation_aliases),
    st.builds(lambda alias: {"serialization_alias": alias}, _aliases),
    st.builds(lambda v, s: {"validation_alias": v, "serialization_alias": s}, _validation_aliases, _aliases),
)


def _alias_options(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return aliases under which a field is read as it is written."""
    upper = name.upper()
    return st.sampled_from(
        [
            {},
            {},
            {"alias": upper},
            {"alias": f'"{upper} é"'},
            {"validation_alias": upper},
            {"validation_alias": AliasChoices(AliasPath("in", name), upper)},
            {"validation_alias": AliasChoices("other" + name, upper), "serialization_alias": upper},
            {"validation_alias": AliasPath("in", 0, name)},
        ]
    )


configs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "extra": st.sampled_from(["ignore", "forbid", "allow"]),
        "strict": st.booleans(),
        "frozen": st.booleans(),
        "alias_generator": st.just(to_camel),
        "validate_assignment": st.booleans(),
        "serialize_by_alias": st.booleans(),
        "validate_by_name": st.just(True),
        "ser_json_timedelta": st.sampled_from(["iso8601", "float"]),
        "ser_json_bytes": st.sampled_from(["utf8", "base64"]),
        "val_json_bytes": st.sampled_from(["utf8", "base64"]),
        "ser_json_inf_nan": st.sampled_from(["null", "constants", "strings"]),
        "revalidate_instances": st.sampled_from(["never", "always"]),
    },
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw a class of up to four fields, and a valid instance of it with things beside the fields in its `__dict__`."""
    fields: dict[str, Any] = {}
    values: dict[str, Any] = {}
    config: Any = draw(configs)
    # As a float it is rounded.
    faithful = config.get("ser_json_timedelta") != "float"
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        kind = draw(kinds)
        values[name] = draw(kind.values)
        options = draw(_alias_options(name))
        if draw(st.integers(0, 4)) == 0:
            options = {**options, "default": values[name], "exclude": draw(st.booleans())}
        fields[name] = (kind.annotation, Field(**options))
        faithful = faithful and kind.faithful
    model = create_model("Generated", __config__=config, **fields)
    try:
        value: BaseModel = model.model_validate(values, by_name=True, by_alias=False)
    except Exception:
        assume(False)
        raise
    for each in (value, *vars(value).values()):
        if draw(st.booleans()) and isinstance(each, BaseModel):
            each.__dict__["__kvorm_stamp__"] = ("incarnation", "bucket", "key", 3, None)
        if isinstance(each, Rich):
            _ = each.length
    return Sample(value, faithful)
