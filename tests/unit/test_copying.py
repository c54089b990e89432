"""Copies of models: equal, independent, and none where nothing can be changed."""

import functools
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, computed_field, create_model
from typing_extensions import TypeAliasType, TypedDict

from kvorm import Key, Model, revision_of
from kvorm.copying import copier
from kvorm.stamp import Stamp, set_stamp


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Colour(Enum):
    RED = "r"


class Leaf(Frozen):
    n: int


class Tree(Frozen):
    children: tuple["Tree", ...] = ()
    leaf: Leaf | None = None


class Loose(BaseModel):
    tags: list[str] = Field(default_factory=list[str])


class Both(Frozen):
    loose: Loose


IMMUTABLE: list[Any] = [
    int,
    str,
    bool,
    float,
    bytes,
    None,
    Decimal,
    UUID,
    date,
    datetime,
    Colour,
    Literal["a", 1],
    str | None,
    int | str,
    tuple[int, str],
    tuple[int, ...],
    tuple[tuple[Leaf, ...], ...],
    frozenset[str],
    Leaf,
    Tree | None,
    Annotated[int, Field(ge=0)],
]
MUTABLE: list[Any] = [
    list[int],
    set[int],
    dict[str, int],
    tuple[list[int], ...],
    frozenset[Any],
    Loose,
    Both,
    Loose | None,
    Leaf | Loose,
    Any,
    object,
    Annotated[str, AfterValidator(lambda text: [text])],
    TypedDict("Size", {"size": int}),
]


@pytest.mark.parametrize("annotation", IMMUTABLE)
def test_a_frozen_class_of_immutable_fields_is_shared(annotation: Any) -> None:
    model = create_model("M", __base__=Frozen, x=(annotation, ...))
    value = model.model_construct(x=object())
    assert copier(model)(value) is value


@pytest.mark.parametrize("annotation", MUTABLE)
def test_what_can_be_changed_is_not_shared(annotation: Any) -> None:
    model = create_model("M", __base__=Frozen, x=(annotation, ...))
    value = model.model_construct(x=None)
    assert copier(model)(value) is not value


class NotFrozen(BaseModel):
    n: int


class Private(Frozen):
    n: int = 1
    _seen: list[int] = PrivateAttr(default_factory=list)


class WithExtra(Frozen):
    model_config = ConfigDict(extra="allow")
    n: int = 1


class Cached(Frozen):
    n: int = 1

    @computed_field
    @functools.cached_property
    def digits(self) -> list[str]:
        return list(str(self.n))


class WrongDefault(Frozen):
    names: tuple[str, ...] = []  # type: ignore[assignment]


class PostInit(Frozen):
    n: int = 1

    def model_post_init(self, _: Any, /) -> None:
        self.__dict__["extra"] = []


@pytest.mark.parametrize("model", [NotFrozen, Private, WithExtra, Cached, WrongDefault, PostInit])
def test_a_class_with_more_than_immutable_fields_is_not_shared(model: type[BaseModel]) -> None:
    value = model.model_validate({"n": 1})
    copied = copier(model)(value)
    assert copied is not value
    assert copied == value


class Line(BaseModel):
    sku: str
    price: Decimal = Decimal(1)


class Node(BaseModel):
    name: str
    next: "Node | None" = None
    children: list["Node"] = Field(default_factory=list["Node"])


class Deep(Model):
    id: Key[UUID]
    when: datetime
    tags: set[str]
    lines: list[Line]
    matrix: list[list[int]]
    by_name: dict[str, Line]
    pairs: tuple[Line, int]
    many: tuple[Line, ...]
    node: Node
    either: Line | Node
    anything: Any = None
    wrong: list[int] = None  # type: ignore[assignment]
    frozen: Leaf = Leaf(n=1)


def deep() -> Deep:
    line, node = Line(sku="s"), Node(name="n", next=Node(name="m"), children=[Node(name="c")])
    return Deep(
        id=uuid4(),
        when=datetime.now(UTC),
        tags={"a"},
        lines=[line],
        matrix=[[1], [2]],
        by_name={"x": Line(sku="x")},
        pairs=(Line(sku="p"), 1),
        many=(Line(sku="q"),),
        node=node,
        either=Node(name="e"),
        anything=[{"a": 1}],
    )


def mutable_parts(value: Any, path: str = "") -> dict[str, Any]:
    """Return every object inside that can be changed, by where it is."""
    parts: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        inner = {f".{name}": one for name, one in vars(value).items()}
        parts[path + ".fields_set"] = value.__pydantic_fields_set__
    elif isinstance(value, dict):
        inner = {f"[{key}]": one for key, one in value.items()}
    elif isinstance(value, list | tuple):
        inner = {f"[{at}]": one for at, one in enumerate(value)}
    else:
        inner = {}
    frozen = isinstance(value, BaseModel) and value.model_config.get("frozen")
    if isinstance(value, BaseModel | dict | list | set) and not frozen:
        parts[path] = value
    if frozen:
        return {}
    for name, one in inner.items():
        parts |= mutable_parts(one, path + name)
    return parts


def test_nothing_that_can_be_changed_is_shared() -> None:
    value = deep()
    set_stamp(value, Stamp("i", "b", "k", 7))
    copied = copier(Deep)(value)
    assert copied == value
    assert copied.model_fields_set == value.model_fields_set
    assert revision_of(copied) == 7
    before, after = mutable_parts(value), mutable_parts(copied)
    assert len(before) > 20
    assert before.keys() == after.keys()
    for path, part in before.items():
        assert after[path] is not part, path
        assert type(after[path]) is type(part)
    assert copied.frozen is value.frozen
    assert copied.when is value.when


def test_a_copy_is_a_whole_model() -> None:
    copied = copier(Deep)(deep())
    assert repr(copied)
    assert copied.model_dump_json()
    assert copied.model_copy(update={"tags": set()}) != copied
    copied.lines.append(Line(sku="t"))
    assert "lines" in copied.model_fields_set


class OwnCopy(BaseModel):
    tags: list[str]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "OwnCopy":
        return OwnCopy(tags=[*self.tags, "copied"])


def test_a_class_that_says_how_it_is_copied_is_asked() -> None:
    assert copier(OwnCopy)(OwnCopy(tags=[])).tags == ["copied"]


Json = TypeAliasType("Json", "list[Json] | dict[str, Json] | int")
Lists = TypeAliasType("Lists", "list[Lists]")
Tuples = TypeAliasType("Tuples", "tuple[Tuples, ...]")


class Recursive(BaseModel):
    json_: Json = Field(alias="json")  # type: ignore[valid-type]
    lists: Lists  # type: ignore[valid-type]
    tuples: Tuples  # type: ignore[valid-type]


def test_a_container_that_holds_itself() -> None:
    value = Recursive.model_validate({"json": [{"x": [1]}], "lists": [[], [[]]], "tuples": [[], [[]]]})
    copied = copier(Recursive)(value)
    assert copied == value
    assert copied.json_[0]["x"] is not value.json_[0]["x"]
    assert copied.lists[1] is not value.lists[1]


def test_a_factory_that_makes_something_else() -> None:
    class Mistaken(BaseModel):
        lines: list[Line] = Field(default_factory=lambda: None)  # type: ignore[assignment, arg-type, return-value]

    assert copier(Mistaken)(Mistaken()) == Mistaken()
