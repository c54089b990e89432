"""What the strategies make is valid and can be stored, and its smallest examples are small."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints, field_validator, model_validator

from kvorm import Bucket, InvalidKeyError, Key, Mapping, MemoryStore, Model, ModelError
from kvorm.model import compile_model
from kvorm.testing.strategies import NothingValidError, hostile_texts, keys, models
from tests.property.generated_models import Sample, samples

T = TypeVar("T")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, Field(gt=0, le=9)] = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Tags(RootModel[list[str]]):
    pass


class Box(BaseModel, Generic[T]):
    content: T


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Order(Model, bucket=Bucket("orders", history=5)):
    model_config = ConfigDict(strict=True, frozen=True)

    tenant: Key[str]
    day: Key[date]
    at: Key[datetime]
    color: Key[Color]
    id: UUID
    total: Annotated[Decimal, Field(ge=0, max_digits=8, decimal_places=2)] = Field(alias="Total")
    code: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}\d+$", max_length=8)]
    data: bytes = b""
    marks: frozenset[int] = frozenset()
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    point: Point
    tags: Tags
    box: Box[list[date]]
    node: Node | None = None
    even: int

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value


class Plain(BaseModel):
    tenant: str
    number: int


class Never(Model, bucket="never"):
    id: Key[str]

    @model_validator(mode="after")
    def _no(self) -> Never:
        raise ValueError("not today")


quickly = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@quickly
@given(models(Order))
def test_objects_are_valid_and_can_be_stored(order: Order) -> None:
    compiled = compile_model(Order)
    data, read_back = compiled.codec.prove(order)
    assert read_back == order
    assert compiled.codec.decode(data) == order
    assert order.even % 2 == 0
    assert order.at.tzinfo is UTC


@given(models(Order), st.data())
@quickly
def test_keys_are_those_of_objects(order: Order, data: st.DataObject) -> None:
    key = data.draw(keys(Order))
    compiled = compile_model(Order)
    assert compiled.key(compiled.raw_key(key, {})) == key


@given(models(Plain, mapping=Mapping("plain", key=("tenant", "number"))))
@quickly
def test_a_mapped_class(value: Plain) -> None:
    assert isinstance(value, Plain)


@given(models(Order, total=st.just(Decimal("1.50"))))
@quickly
def test_a_field_may_be_said(order: Order) -> None:
    assert order.total == Decimal("1.50")


@given(samples(), st.data())
@settings(quickly, max_examples=150)
def test_classes_with_whatever_features(sample: Sample, data: st.DataObject) -> None:
    model: type[Any] = type(sample.value)
    mapping = Mapping("generated", prefix="x")
    try:
        compile_model(model, mapping)
    except ModelError:
        return
    assert isinstance(data.draw(models(model, mapping=mapping)), model)


def smallest(strategy: st.SearchStrategy[T], wanted: Any = lambda _: True) -> T:
    return find(strategy, wanted, settings=settings(quickly, max_examples=2000, database=None))


def test_the_smallest_examples() -> None:
    assert smallest(models(Plain)) == Plain(tenant="", number=0)
    assert smallest(models(Plain), lambda plain: plain.number > 10) == Plain(tenant="", number=11)
    assert smallest(keys(Order)) == ("", date(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC), Color.RED)
    assert smallest(hostile_texts()) == ""
    assert smallest(models(Node)) == Node(value=0)
    assert smallest(models(Node), lambda node: bool(node.children)) == Node(value=0, children=[Node(value=0)])


@given(hostile_texts())
@quickly
def test_hostile_texts_are_keys_unless_too_long(text: str) -> None:
    text.encode()
    compiled = compile_model(Plain, Mapping("plain", key=("tenant",)))
    try:
        raw_key = compiled.raw_key((text,), {})
    except InvalidKeyError as error:
        assert "at most 1024" in str(error)
    else:
        assert compiled.key(raw_key) == (text,)


@pytest.mark.parametrize("text", ["*", ">", ".", " ", "=", "_", "\x00", "a" * 1025])
def test_hostile_texts_have(text: str) -> None:
    assert smallest(hostile_texts(), lambda each: each == text) == text


def test_nothing_valid_is_told() -> None:
    with pytest.raises(NothingValidError, match=r"none of \d+ drawn Never objects was valid.*not today"):
        smallest(models(Never))


def test_an_unknown_type_is_told() -> None:
    class Odd(BaseModel):
        f: Any = None
        g: type[int]

    with pytest.raises((NothingValidError, ModelError), match="g"):
        smallest(models(Odd))


def test_an_unknown_field_is_told() -> None:
    with pytest.raises(TypeError, match="has no field color"):
        models(Plain, color=st.none())


@given(st.data())
@settings(quickly, max_examples=20)
def test_they_can_be_saved(data: st.DataObject) -> None:
    import asyncio

    order = data.draw(models(Order))

    async def save() -> Order:
        orders = MemoryStore().repository(Order)
        await orders.save(order)
        return await orders.get(*compile_model(Order).key_of(order))

    assert asyncio.run(save()) == order


@pytest.mark.parametrize("module", ["kvorm", "kvorm.testing", "kvorm.testing.contract", "kvorm.testing.faults"])
def test_neither_hypothesis_nor_pytest_is_imported(module: str) -> None:
    code = f"import {module}, sys; assert not {{'hypothesis', 'pytest'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
