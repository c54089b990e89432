"""What an object remembers of its reading: seen by nobody, kept by every copy, lost by parsing."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel, TypeAdapter, computed_field, model_validator

from kvorm import Bucket, Key, Mapping, MemoryStore, Model, ModelError, revision_of
from kvorm.codec import Codec
from kvorm.stamp import STAMP, Stamp, set_stamp, stamp_of

BUCKET = Bucket("orders", history=5)
STAMP_OF_TEST = Stamp("life", "orders", "a", 7)


class Order(Model, bucket=BUCKET):
    id: Key[str]
    total: int = 0
    tags: tuple[str, ...] = ()


class FrozenOrder(Order):
    model_config = ConfigDict(frozen=True)


class CheckedOrder(Order):
    model_config = ConfigDict(validate_assignment=True)

    _note: str = PrivateAttr("")

    @model_validator(mode="after")
    def look(self) -> "CheckedOrder":
        return self


class OpenOrder(Order):
    model_config = ConfigDict(extra="allow", validate_assignment=True)


class StrictOrder(Order):
    model_config = ConfigDict(extra="forbid", revalidate_instances="always")


class OpenRevalidatedOrder(Order):
    model_config = ConfigDict(extra="allow", revalidate_instances="always", validate_assignment=True)


class PlainOrder(BaseModel):
    id: str
    total: int = 0


class Settings(RootModel[dict[str, int]]):
    pass


CLASSES = [Order, FrozenOrder, CheckedOrder, OpenOrder, StrictOrder, OpenRevalidatedOrder, PlainOrder]
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda value: value.model_copy(),
    "deep model_copy": lambda value: value.model_copy(deep=True),
    "model_copy with an update": lambda value: value.model_copy(update={"total": 0}),
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def stamped(value: Any) -> Any:
    set_stamp(value, STAMP_OF_TEST)
    return value


@pytest.mark.parametrize("model", CLASSES)
def test_nobody_sees_it(model: type[Any]) -> None:
    value, other = stamped(model(id="a")), model(id="a")
    assert revision_of(value) == 7
    assert revision_of(other) is None
    assert value == other
    assert other == value
    assert repr(value) == repr(other)
    assert str(value) == str(other)
    assert dict(value) == dict(other)
    for how in ({}, {"round_trip": True}, {"exclude_unset": True}, {"mode": "json"}):
        assert value.model_dump(**how) == other.model_dump(**how)
    assert value.model_dump_json() == other.model_dump_json()
    assert value.model_fields_set == other.model_fields_set
    assert value.model_extra == other.model_extra
    assert TypeAdapter(model | None).dump_json(value) == other.model_dump_json().encode()
    assert TypeAdapter(list[model | int]).dump_python([value]) == [other.model_dump()]
    assert Codec(model).encode(value) == Codec(model).encode(other)
    assert STAMP not in json.dumps(model.model_json_schema())


def test_other_facts_still_differ() -> None:
    assert stamped(Order(id="a")) != stamped(Order(id="b"))
    assert stamped(Order(id="a")) != stamped(FrozenOrder(id="a"))


def test_the_hash_of_a_frozen_object_is_the_same() -> None:
    assert hash(stamped(Line(id="a"))) == hash(Line(id="a"))


class Line(Model, bucket="lines"):
    model_config = ConfigDict(frozen=True)

    id: Key[str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def loud(self) -> str:
        return self.id.upper()


def test_computed_fields_stay() -> None:
    assert stamped(Line(id="a")).model_dump() == {"id": "a", "loud": "A"}


def test_openapi_knows_nothing_of_it() -> None:
    app = FastAPI()

    @app.post("/orders")
    async def create(order: OpenOrder) -> StrictOrder:
        return StrictOrder(id=order.id)

    schemas = app.openapi()["components"]["schemas"]
    assert schemas["OpenOrder"]["properties"].keys() == {"id", "total", "tags"}
    assert "kvorm" not in json.dumps(app.openapi())


@pytest.mark.parametrize("model", CLASSES)
@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_it(model: type[Any], how: str) -> None:
    value = stamped(model(id="a"))
    other = COPIES[how](value)
    assert other is not value
    assert stamp_of(other) == STAMP_OF_TEST
    assert other == value
    assert other.model_dump() == value.model_dump()


@pytest.mark.parametrize("model", CLASSES)
def test_parsing_loses_it(model: type[Any]) -> None:
    value = stamped(model(id="a"))
    assert revision_of(model.model_validate(value.model_dump())) is None
    assert revision_of(model.model_validate_json(value.model_dump_json())) is None


@pytest.mark.parametrize("model", [Order, CheckedOrder, OpenOrder, OpenRevalidatedOrder])
def test_assignment_keeps_it(model: type[Any]) -> None:
    value = stamped(model(id="a"))
    value.total = 5
    assert stamp_of(value) == STAMP_OF_TEST
    assert value.model_dump() == {"id": "a", "total": 5, "tags": ()}


@pytest.mark.parametrize("model", [CheckedOrder, OpenOrder, OpenRevalidatedOrder])
def test_a_refused_assignment_keeps_it(model: type[Any]) -> None:
    value = stamped(model(id="a"))
    with pytest.raises(ValueError, match="valid integer"):
        value.total = "much"
    assert stamp_of(value) == STAMP_OF_TEST
    assert value == model(id="a")


def test_assignment_keeps_extra_fields_apart() -> None:
    value = stamped(OpenOrder(id="a", more=1))  # type: ignore[call-arg]
    value.further = 2
    assert value.model_extra == {"more": 1, "further": 2}
    assert value.model_dump() == {"id": "a", "total": 0, "tags": (), "more": 1, "further": 2}
    del value.more
    assert value.model_extra == {"further": 2}
    assert stamp_of(value) == STAMP_OF_TEST


def test_assignment_keeps_private_attributes() -> None:
    value = stamped(CheckedOrder(id="a"))
    value._note = "x"
    value.total = 5
    assert (value._note, revision_of(value)) == ("x", 7)


@pytest.mark.parametrize("model", CLASSES)
def test_an_object_inside_another_model_is_validated_as_ever(model: type[BaseModel]) -> None:
    class Outer(BaseModel):
        inner: model  # type: ignore[valid-type]
        others: list[model | int] = []  # type: ignore[valid-type]

    value = stamped(model(id="a"))
    outer = Outer(inner=value, others=[value])
    assert outer.model_dump() == {"inner": value.model_dump(), "others": [value.model_dump()]}
    assert Outer.model_validate_json(outer.model_dump_json()) == outer
    assert Codec(Outer).encode(outer) == Codec(Outer).encode(Outer(inner=model(id="a"), others=[model(id="a")]))
    # The object itself, or one made anew by revalidate_instances.
    assert revision_of(outer.inner) == (7 if outer.inner is value else None)


def test_extra_fields_are_refused_as_ever_where_instances_are_validated_again() -> None:
    with pytest.raises(ValueError, match="more\n  Extra inputs are not permitted"):
        StrictOrder(id="a", more=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="valid dictionary or instance"):
        StrictOrder.model_validate(5)
    bent = StrictOrder.model_construct(id="a", total="much")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="total\n  Input should be a valid integer"):
        StrictOrder.model_validate(stamped(bent))


async def test_an_object_with_strict_settings_is_saved_again() -> None:
    orders = MemoryStore().repository(StrictOrder)
    order = StrictOrder(id="a")
    first = await orders.save(order)
    order.total = 1
    assert await orders.save(order) > first
    assert await orders.get("a") == order
    assert await orders.update("a", apply=StrictOrder.model_validate) == order


class Revalidated(BaseModel):
    model_config = ConfigDict(extra="forbid", revalidate_instances="always")

    id: str


class RevalidatedSubclasses(BaseModel):
    model_config = ConfigDict(extra="allow", revalidate_instances="subclass-instances")

    id: str


class Assigned(BaseModel):
    model_config = ConfigDict(extra="allow", validate_assignment=True)

    id: str


@pytest.mark.parametrize("model", [Revalidated, RevalidatedSubclasses, Assigned])
def test_a_plain_class_that_would_show_it_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(ModelError, match=r"extra field. Derive it from kvorm.Model, which prevents that"):
        MemoryStore().repository(model, mapping=Mapping("b", key=("id",)))


def test_a_root_model_carries_it() -> None:
    value = stamped(Settings({"a": 1}))
    assert value == Settings({"a": 1})
    assert value.model_dump_json() == '{"a":1}'
    assert [revision_of(copier(value)) for name, copier in COPIES.items() if "update" not in name] == [7] * 5
    value.root = {"a": 2}
    assert revision_of(value) == 7


async def test_a_model_recursive_in_itself_is_stored() -> None:
    nodes = MemoryStore().repository(Node)
    leaf = Node(id="leaf")
    await nodes.save(leaf)
    tree = Node(id="tree", children=(leaf,))
    await nodes.save(tree)
    assert (await nodes.get("tree")).children == (leaf,)
    assert STAMP not in tree.model_dump_json()


class Node(Model, bucket="nodes"):
    model_config = ConfigDict(extra="forbid", revalidate_instances="always")

    id: Key[str]
    children: "tuple[Node, ...]" = ()


async def test_revision_of_follows_the_object() -> None:
    orders = MemoryStore().repository(Order)
    order = Order(id="a")
    assert revision_of(order) is None
    first = await orders.save(order)
    assert revision_of(order) == first
    read = await orders.get("a")
    assert revision_of(read) == first
    marker = await orders.delete(read)
    assert revision_of(read) == marker
    assert revision_of(order) == first
