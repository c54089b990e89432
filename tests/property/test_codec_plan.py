"""What msgspec writes for plain classes is what Pydantic writes, kind by kind; and what is stored reads back equal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, field_validator

from kvorm.codec import Codec, CodecFailure
from kvorm.plan import compile_plan
from kvorm.stamp import Stamp, set_stamp
from tests.property.generated_models import LEAVES, Kind, Odd, Sample
from tests.property.test_codec_law import REFUSED, canonical, codec_of, reference_encode, same

ids = [f"kind{at}" for at in range(len(LEAVES))]


def shapes_of(kind: Kind) -> list[tuple[Any, st.SearchStrategy[Any]]]:
    """Return annotations that hold the kind alone, and where a plan has to look for it."""
    annotation, values = kind.annotation, kind.values
    shapes = [
        (annotation, values),
        (list[annotation], st.lists(values, min_size=1, max_size=2)),
        (dict[str, annotation], st.dictionaries(st.text(max_size=2), values, min_size=1, max_size=2)),
        (tuple[annotation, ...], st.lists(values, max_size=2).map(tuple)),
        (tuple[int, annotation], st.tuples(st.integers(0, 3), values)),
    ]
    return shapes if annotation is None else [*shapes, (annotation | None, st.none() | values)]


def check_written(model: type[BaseModel], codec: Codec[Any], values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=12, deadline=None)
    @given(values)
    def check(drawn: Any) -> None:
        try:
            value = model(field=drawn)
        except Exception:
            return
        expected = reference_encode(value)
        if expected is not REFUSED:
            assert canonical(codec.encode(value)) == canonical(expected)

    check()


@pytest.mark.parametrize("kind", LEAVES, ids=ids)
def test_each_kind_alone_is_written_as_the_class_writes_it(kind: Kind) -> None:
    for annotation, values in shapes_of(kind):
        model = create_model("Generated", field=(annotation, ...), other=(str, "x"))
        codec = codec_of(Sample(model.model_construct(), faithful=False))
        if codec is None:
            continue

        check_written(model, codec, values)


plain_kinds = [kind for kind in LEAVES if compile_plan(create_model("One", field=(kind.annotation, ...)))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(plain_kinds), st.one_of(*(kind.values for kind in LEAVES)))
def test_a_bent_object_reads_back_equal_or_is_refused(kind: Kind, bent: Any) -> None:
    model = create_model("Generated", field=(kind.annotation, ...), inner=(list[kind.annotation], []))  # type: ignore[name-defined]
    codec = codec_of(Sample(model.model_construct(), faithful=False))
    if codec is None or compile_plan(model) is None:
        return  # a time has a plan as a field, not inside a list
    for value in (model.model_construct(field=bent, inner=[]), model.model_construct(field=None, inner=[bent])):
        try:
            data, read_back = codec.prove(value)
        except CodecFailure as failure:
            assert failure.reason
        else:
            assert same(read_back, codec.decode(data))
            assert read_back == value or type(bent) is not type(read_back.field)


class Base(BaseModel):
    name: str


class Secret(Base):
    password: str = "leaked"


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    id: UUID
    lines: list[Line]
    at: datetime | None = None


ORDER = Order(id=UUID(int=1), lines=[Line(sku="a"), Line(sku="b")])


def test_a_plain_class_has_a_plan() -> None:
    assert compile_plan(Order) is not None


def with_private() -> type[BaseModel]:
    class Private(BaseModel):
        n: int
        _seen: int = PrivateAttr(0)

    return Private


def with_validator() -> type[BaseModel]:
    class Lower(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def lower(cls, value: str) -> str:
            return value.lower()

    return Lower


@pytest.mark.parametrize(
    "model",
    [
        create_model("M", field=(bytes, ...)),
        create_model("M", field=(timedelta, ...)),
        create_model("M", field=(list[bytes], ...)),
        create_model("M", field=(dict[int, str], ...)),
        create_model("M", field=(dict[str, Any], ...)),
        create_model("M", field=(Any, ...)),
        create_model("M", field=(Odd, ...)),
        create_model("M", field=(Enum("Deep", {"A": (1, 2)}), ...)),
        create_model("M", field=(str, Field(serialization_alias="x", validation_alias="x"))),
        create_model("M", field=(int, Field(1, exclude=True))),
        create_model("M", field=(str | bytes, ...)),
        create_model("M", a=(Base, ...), b=(Secret, ...)),
        create_model("M", __config__=ConfigDict(extra="allow"), field=(int, ...)),
        create_model("M", __config__=ConfigDict(ser_json_inf_nan="strings"), field=(float, ...)),
        with_private(),
        with_validator(),
    ],
    ids=lambda model: str(model.model_fields) + str(model.model_config),
)
def test_what_may_differ_has_none(model: type[BaseModel]) -> None:
    assert compile_plan(model) is None


def test_nothing_beside_the_fields_is_written() -> None:
    order = ORDER.model_copy(deep=True)
    plain = Codec(Order).encode(order)
    set_stamp(order, Stamp("i", "b", "k", 1))
    set_stamp(order.lines[1], Stamp("i", "b", "k", 2))
    assert Codec(Order).encode(order) == plain
    assert Codec(Order).prove(order) == (plain, ORDER)


def test_a_subclass_instance_shows_nothing_of_its_own() -> None:
    holder = create_model("Holder", who=(Base, ...), others=(list[Base], ...))
    value = holder(who=Secret(name="a"), others=[Secret(name="b")])
    data, read_back = Codec(holder).prove(value)
    assert b"leaked" not in data
    assert read_back == holder(who=Base(name="a"), others=[Base(name="b")])


@pytest.mark.parametrize("zone", [timezone(timedelta(seconds=1172)), timezone(timedelta(hours=2)), UTC])
def test_zones(zone: timezone) -> None:
    order = ORDER.model_copy(update={"at": datetime(1930, 1, 1, 12, tzinfo=zone)})
    expected = reference_encode(order)
    assert canonical(Codec(Order).encode(order)) == canonical(expected)


def test_a_zone_that_json_would_shift_is_refused() -> None:
    """Pydantic cuts the seconds of an offset, which would move the moment."""
    order = ORDER.model_copy(update={"at": datetime(1930, 1, 1, 12, tzinfo=timezone(timedelta(seconds=1172)))})
    with pytest.raises(CodecFailure, match="would not equal"):
        Codec(Order).prove(order)


@pytest.mark.parametrize(
    "update",
    [{"id": b"0" * 16}, {"id": "no uuid"}, {"lines": [Line.model_construct(sku=b"abc")]}, {"lines": None}, {"at": 1}],
    ids=str,
)
def test_bent_objects_are_refused(update: dict[str, Any]) -> None:
    with pytest.raises(CodecFailure):
        Codec(Order).prove(ORDER.model_copy(update=update))


def test_a_number_that_cannot_be_written_is_refused() -> None:
    model = create_model("M", field=(float | None, ...))
    with pytest.raises(CodecFailure, match="would not equal"):
        Codec(model).prove(model(field=float("nan")))
