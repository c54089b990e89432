"""Which instances need not be read back, because reading would give the same."""

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict, Field

from kvorm.codec import Codec, CodecFailure
from kvorm.plan import compile_plan
from kvorm.stamp import Stamp, set_stamp


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    sku: str
    price: Decimal


class Everything(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    number: int
    share: float
    flag: bool
    id: UUID
    day: date
    moment: datetime
    colour: Colour
    kind: Literal["a", 1]
    line: Line
    second: Line
    lines: list[Line] = []
    tags: set[str] = set()
    counts: dict[str, int] = {}
    note: str | None = None


WHOLE: dict[str, Any] = {
    "text": "x",
    "number": 1,
    "share": 0.5,
    "flag": True,
    "id": UUID(int=1),
    "day": date(2025, 1, 2),
    "moment": datetime(2025, 1, 2, tzinfo=UTC),
    "colour": Colour.RED,
    "kind": "a",
    "line": Line(sku="s", price=Decimal("1.5")),
    "second": Line(sku="s", price=Decimal(2)),
    "lines": [Line(sku="t", price=Decimal(3))],
    "tags": {"u"},
    "counts": {"v": 1},
}


def is_exact(value: BaseModel) -> bool:
    """Whether it is written as it is, without being read back."""
    try:
        _, read_back = Codec(type(value)).prove(value)
    except CodecFailure:
        return False
    return read_back is value


def test_a_valid_instance_is_exact_and_is_not_read_back() -> None:
    assert compile_plan(Everything) is not None
    whole = Everything(**WHOLE)
    set_stamp(whole, Stamp("i", "b", "k", 1))
    data, read_back = Codec(Everything).prove(whole)
    assert read_back is whole
    assert Codec(Everything).decode(data) == whole


class Text(str):
    __slots__ = ()


class SpecialLine(Line):
    secret: str = "s"


BENT: list[tuple[str, Any]] = [
    ("text", Text("x")),
    ("text", 1),
    ("number", True),
    ("number", 1.0),
    ("share", 1),
    ("share", float("nan")),
    ("share", float("inf")),
    ("flag", 1),
    ("id", "00000000-0000-0000-0000-000000000001"),
    ("day", datetime(2025, 1, 2, tzinfo=UTC)),
    ("moment", date(2025, 1, 2)),
    ("moment", datetime(1890, 1, 2, tzinfo=ZoneInfo("Europe/Amsterdam"))),
    ("colour", "red"),
    ("kind", True),
    ("kind", 1.0),
    ("kind", []),
    ("line", None),
    ("line", {"sku": "s", "price": "1"}),
    ("line", SpecialLine(sku="s", price=Decimal(1))),
    ("line", Line.model_construct(sku="s", price=Decimal("NaN"))),
    ("line", Line.model_construct(sku="s")),
    ("lines", (Line(sku="t", price=Decimal(3)),)),
    ("lines", [Line.model_construct(sku=1, price=Decimal(3))]),
    ("tags", ["u"]),
    ("tags", {1}),
    ("counts", {1: 1}),
    ("counts", {"v": "1"}),
    ("note", b"x"),
]


@pytest.mark.parametrize(("field", "value"), BENT)
def test_a_bent_instance_is_not(field: str, value: Any) -> None:
    assert is_exact(Everything(**WHOLE))
    assert not is_exact(Everything.model_construct(**{**WHOLE, field: value}))


def test_an_instance_that_lacks_a_field_is_not() -> None:
    missing = {name: value for name, value in WHOLE.items() if name != "text"}
    assert not is_exact(Everything.model_construct(**missing))


@pytest.mark.parametrize(
    "annotation",
    [Annotated[str, Field(max_length=3)], Annotated[int, Field(gt=0)], Annotated[list[int], Field(min_length=1)], list],
)
def test_where_more_than_the_type_counts_nothing_is(annotation: Any) -> None:
    model = type("Ruled", (BaseModel,), {"__annotations__": {"field": annotation}})
    for value in ("abc", 1, [1]):
        assert not is_exact(model.model_construct(field=value))


def test_options_of_the_class_count_too() -> None:
    class Stripped(BaseModel):
        model_config = ConfigDict(str_strip_whitespace=True)
        text: str

    assert not is_exact(Stripped.model_construct(text=" x "))
