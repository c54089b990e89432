"""Models whose annotations are text: types that are known later, in a function, or to type checkers alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pydantic
import pytest
from pydantic import BaseModel

from kvorm import Key, MemoryStore, Model, ModelError
from kvorm.model import compile_model

if TYPE_CHECKING:
    from decimal import Decimal
    from uuid import UUID


class Customer(Model, bucket="customers"):
    id: Key[str]
    address: Address | None = None


class Address(BaseModel):
    city: str = ""


class Invoice(Model, bucket="invoices"):
    id: Key[UUID]
    total: Decimal


class Measurement(Model, bucket="measurements"):
    id: Key[Sensor]  # noqa: F821


@pytest.fixture
def forget() -> Iterator[None]:
    """Let each test meet `Measurement` as it was declared."""
    yield
    globals().pop("Sensor", None)


async def test_a_type_defined_later_in_the_module() -> None:
    customers = MemoryStore().repository(Customer)
    await customers.save(Customer(id="a", address=Address(city="Oslo")))
    customer = await customers.get("a")
    assert customer.address == Address(city="Oslo")


def test_a_type_that_only_type_checkers_know() -> None:
    with pytest.raises(
        ModelError,
        match=r"^Invoice refers to a type that is not known here: .*'UUID'.*; import it at run time too, or call "
        r"Invoice.model_rebuild\(\) where it is known$",
    ):
        MemoryStore().repository(Invoice)


def test_a_class_completed_late_is_checked_late(forget: None) -> None:
    globals()["Sensor"] = float
    with pytest.raises(ModelError, match=r"^Measurement: key field 'id' .* equal numbers have many texts"):
        compile_model(Measurement)


@pytest.mark.skipif(pydantic.VERSION < "2.12", reason="__pydantic_on_complete__ is younger")
def test_the_check_comes_with_the_rebuild(forget: None) -> None:
    class Reading(Model, bucket="readings"):
        id: Key[Sensor]  # noqa: F821

    with pytest.raises(ModelError, match=r"^Reading: key field .* equal numbers have many texts"):
        Reading.model_rebuild(_types_namespace={"Sensor": float})


def test_a_model_defined_in_a_function() -> None:
    class Line(BaseModel):
        text: str = ""

    class Letter(Model, bucket="letters"):
        id: Key[int]
        lines: tuple[Line, ...] = ()

    mapping = compile_model(Letter)
    assert mapping.raw_key((1,), {}) == "1"
    assert mapping.codec.decode(b'{"id": 1, "lines": [{"text": "x"}]}').lines == (Line(text="x"),)


def test_a_type_of_a_function_known_later_needs_a_rebuild_there() -> None:
    class Letter(Model, bucket="letters"):
        id: Key[Number]

    with pytest.raises(
        ModelError, match=r"'Number' is not defined.* or call Letter.model_rebuild\(\) where it is known"
    ):
        in_another_function(Letter)
    Number = int  # noqa: N806
    Letter.model_rebuild()
    assert compile_model(Letter).raw_key(("5",), {}) == "5"


def in_another_function(model: type[Model]) -> Any:
    return compile_model(model)


def test_a_model_that_refers_to_itself() -> None:
    mapping = compile_model(Node)
    tree = Node(id="a", children=(Node(id="b"),))
    assert mapping.codec.decode(mapping.codec.encode(tree)) == tree


class Node(Model, bucket="nodes"):
    id: Key[str]
    children: tuple[Node, ...] = ()


if sys.version_info >= (3, 12):
    exec("type Slug = str\nclass Page(Model, bucket='pages'):\n    id: Key[Slug]\n", globals())

    def test_a_type_statement() -> None:
        assert compile_model(globals()["Page"]).raw_key(("a b",), {}) == "a=20b"
