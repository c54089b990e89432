"""Whether a class can read back what it writes, as far as its core schema tells.

A class is refused only where the schema leaves no doubt. Below a custom serializer nothing is known of what is
written; a `before` or `wrap` validator may read anything. What only a value can tell is found when it is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import pairwise
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from pydantic import BaseModel

from kvorm.errors import ModelError

Node: TypeAlias = Mapping[str, Any]
"""A node of the tree that pydantic compiles a class from (`pydantic_core.core_schema`)."""

_NO_CONFIG: Final[Node] = {}
_ONLY_IN_PYTHON: Final = frozenset({"is-instance", "is-subclass", "callable"})
_NO_DICT_KEYS: Final = frozenset({"tuple", "frozenset", "model", "dataclass", "call", "named-tuple"})
_ARRAYS: Final = frozenset({"list", "set", "frozenset"})
_TEXT: Final = frozenset({"bytes", "complex", "date", "datetime", "decimal", "time", "timedelta"})
"""What is written as text, and read as `str` where a union offers that; of a `uuid` pydantic does better."""
_TEXT_LIMITS: Final = frozenset({"pattern", "min_length", "max_length"})


def check_readable(model: type[BaseModel]) -> None:
    """Check that `model`, and every class its fields are made of, reads what it writes.

    Raises:
        ModelError: names class and field, and says how to mend it.
    """
    _Walk().visit(model.__pydantic_core_schema__, _Place(owner=model.__name__))


class _Place(NamedTuple):
    """Where in a class the walk is, and what the way there means for it."""

    owner: str
    field: str | None = None
    config: Node = _NO_CONFIG
    translated: bool = False
    """A before or wrap validator may change what is read here."""
    one_of_many: bool = False
    """Another member of a union may read it."""

    def __str__(self) -> str:
        return self.owner if self.field is None else f"{self.owner}.{self.field}"

    def refuse(self, what: str) -> NoReturn:
        raise ModelError(f"{self}: {what}")


class _Field(NamedTuple):
    """A field of a model, dataclass or typed dict, as it is written and read."""

    name: str
    schema: Node
    required: bool
    excluded: bool
    sometimes_excluded: bool
    written: str
    reads: tuple[tuple[str | int, ...], ...]
    """Paths into the JSON object, in the order in which they are tried."""

    @classmethod
    def of(cls, name: str, node: Node) -> _Field:
        schema = node["schema"]
        return cls(
            name=name,
            schema=schema,
            # Only a typed dict says it; of the others a field is required if it has no default.
            required=node.get("required", schema["type"] != "default"),
            # A dataclass's InitVar is read, and never written.
            excluded=bool(node.get("serialization_exclude") or node.get("init_only")),
            sometimes_excluded="serialization_exclude_if" in node,
            written=node.get("serialization_alias", name),
            reads=(*_paths(node.get("validation_alias")), (name,)),
        )

    def hit(self, written: Mapping[str, str]) -> tuple[str | int, ...] | None:
        """Return the first path that this field finds in an object with these keys.

        A path into a value is taken as found: only the value could say that it is not.
        """
        return next((path for path in self.reads if path[0] in written), None)


def _paths(alias: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of a validation alias: a name, one path, or a choice of paths."""
    if alias is None:
        return
    if isinstance(alias, str):
        yield (alias,)
    elif isinstance(alias[0], list):
        yield from map(tuple, alias)
    else:
        yield tuple(alias)


class _Walk:
    """One pass over the schema of one class."""

    def __init__(self) -> None:
        self._definitions: dict[str, Node] = {}
        self._seen: set[tuple[str, bool, bool]] = set()

    def visit(self, node: Node, place: _Place) -> None:
        """Check `node` and all below it."""
        if "serialization" in node:
            _check_secret(node["serialization"], place)
            return
        match node["type"]:
            case "definitions":
                self._definitions.update((each["ref"], each) for each in node["definitions"])
                self.visit(node["schema"], place)
            case "definition-ref":
                step = (node["schema_ref"], place.translated, place.one_of_many)
                if step not in self._seen:
                    self._seen.add(step)
                    self.visit(self._definitions[node["schema_ref"]], place)
            case "model" | "dataclass":
                self.visit(node["schema"], place._replace(owner=_name(node, place), config=node.get("config", {})))
            case "model-fields" | "dataclass-args" | "typed-dict":
                self._visit_fields(node, place)
            case "function-before" | "function-wrap":
                self.visit(node["schema"], place._replace(translated=True))
            case "tagged-union":
                self._check_tags(node, place)
                self._visit_all(node["choices"].values(), place._replace(one_of_many=True))
            case "union":
                choices = _choices(node)
                self._check_choices(choices, place)
                self._visit_all(choices, place._replace(one_of_many=True))
            case _:
                self._check_leaf(node, place)
                self._visit_all(_children(node), place)

    def _visit_all(self, nodes: Iterable[Node], place: _Place) -> None:
        for node in nodes:
            self.visit(node, place)

    def _visit_fields(self, node: Node, place: _Place) -> None:
        if node["type"] == "typed-dict":
            place = place._replace(owner=_name(node, place), config=node.get("config", {}))
        fields = _fields(node)
        if not place.translated:
            _check_fields(fields, place)
            _check_init(node, place)
        for field in fields:
            if not field.excluded:
                self.visit(field.schema, _Place(place.owner, field.name, place.config))

    def _check_leaf(self, node: Node, place: _Place) -> None:
        kind = node["type"]
        if place.translated:
            return
        if kind == "dict" and self._resolve(node.get("keys_schema", {"type": "any"}))["type"] in _NO_DICT_KEYS:
            place.refuse("JSON has only text as keys, and these are not read back from text. Use a list of pairs.")
        if kind == "generator":
            place.refuse("writing uses the iterator up. Declare a list or a tuple.")
        if kind in _ONLY_IN_PYTHON and not place.one_of_many:
            place.refuse(
                "its type cannot be read from JSON. Give it a serializer and a before validator, or a default and "
                "Field(exclude=True)."
            )
        if kind in ("enum", "literal"):
            for each in map(_plain, node.get("members", node.get("expected"))):
                if not isinstance(each, str | int | float | None):
                    place.refuse(f"{each!r} is not read back from its JSON. Use text or numbers as values.")
        if kind == "bytes":
            written, read = (place.config.get(key, "utf8") for key in ("ser_json_bytes", "val_json_bytes"))
            if written != read:
                place.refuse(
                    f"bytes are written as {written} and read as {read}. "
                    f"Set ser_json_bytes and val_json_bytes to the same in the model_config."
                )

    def _check_choices(self, choices: list[Node], place: _Place) -> None:
        """Check that JSON tells the members of a union apart, where that does not hang on the value."""
        if place.translated:
            return
        known = [each for each in map(self._resolve, choices) if "serialization" not in each]
        arrays = [each.get("items_schema") for each in known if each["type"] in _ARRAYS]
        if any(items == other for items, other in pairwise(arrays)):
            place.refuse("the members of the union are the same array in JSON. Declare one of them.")
        if any(each["type"] == "str" and _TEXT_LIMITS.isdisjoint(each) for each in known):
            taken = sorted({each["type"] for each in known if _is_text(each)})
            if taken:
                place.refuse(
                    f"a {taken[0]} is text in JSON and comes back as str. Declare one of them, or two fields, "
                    f"or models with a discriminator."
                )

    def _check_tags(self, node: Node, place: _Place) -> None:
        """Check that each choice writes the discriminator under a name by which the union looks for it."""
        if callable(node["discriminator"]) or place.translated:
            return
        names = {path[0] for path in _paths(node["discriminator"]) if len(path) == 1}
        for choice in node["choices"].values():
            shape = self._resolve(choice)
            if "serialization" in shape or shape["type"] not in ("model", "dataclass", "typed-dict"):
                continue
            inner = shape if shape["type"] == "typed-dict" else self._resolve(shape["schema"])
            if inner["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
                continue
            if not any(field.written in names for field in _fields(inner) if not field.excluded):
                place.refuse(
                    f"the union looks for {_listed(names)}, which {_name(shape, place)} does not write. "
                    f"Let the discriminating field be written under that name."
                )

    def _resolve(self, node: Node) -> Node:
        """Return the node that says what `node` looks like in JSON."""
        while "serialization" not in node:
            if node["type"] == "definition-ref":
                node = self._definitions[node["schema_ref"]]
            elif node["type"] in ("function-after", "default", "nullable"):
                node = node["schema"]
            else:
                break
        return node


def _children(node: Node) -> Iterator[Node]:
    """Yield what a container or wrapper reads its parts by; `python_schema` is not for JSON."""
    for key in ("schema", "keys_schema", "values_schema", "json_schema", "lax_schema"):
        if key in node:
            yield node[key]
    items = node.get("items_schema", ())
    yield from items if isinstance(items, list | tuple) else (items,)
    yield from node.get("steps", ())[:1]
    # A named tuple, before and since pydantic 2.14.
    if node["type"] == "call":
        yield from (each["schema"] for each in node["arguments_schema"].get("arguments_schema", ()))
    elif node["type"] == "named-tuple":
        yield from (each["schema"] for each in node["fields"])


def _choices(node: Node) -> list[Node]:
    choices: list[Node | tuple[Node, str]] = node["choices"]  # some have a label
    return [each[0] if isinstance(each, tuple) else each for each in choices]


def _fields(node: Node) -> list[_Field]:
    fields: dict[str, Node] | list[Node] = node["fields"]
    named = fields.items() if isinstance(fields, dict) else ((each["name"], each) for each in fields)
    return [_Field.of(name, each) for name, each in named]


def _name(node: Node, place: _Place) -> str:
    return node["cls"].__name__ if "cls" in node else place.owner


def _plain(member: object) -> object:
    return member.value if isinstance(member, Enum) else member


def _is_text(node: Node) -> bool:
    if node["type"] != "enum":
        return node["type"] in _TEXT
    # A member of a StrEnum equals its text.
    return not issubclass(node["cls"], str) and any(isinstance(each.value, str) for each in node["members"])


def _listed(names: Iterable[object]) -> str:
    return " or ".join(sorted(map(repr, names)))


def _check_fields(fields: list[_Field], place: _Place) -> None:
    """Check that each field that is written is read under that name, and that no other field reads it."""
    written: dict[str, str] = {}
    for field in fields:
        place = place._replace(field=field.name)
        if (field.excluded or field.sometimes_excluded) and field.required:
            place.refuse("it is required and not written. Give it a default, or do not exclude it.")
        if not field.excluded and written.setdefault(field.written, field.name) != field.name:
            place.refuse(f"{written[field.written]} is written as {field.written!r} too. Change one of the aliases.")
    for field in fields:
        place = place._replace(field=field.name)
        hit = field.hit(written)
        if not field.excluded and (field.written,) not in field.reads:
            place.refuse(
                f"it is written as {field.written!r} and read as {_listed({_dotted(path) for path in field.reads})}. "
                f"Use alias= for both, or add {field.written!r} to the AliasChoices of its validation_alias."
            )
        if hit is not None and (field.excluded or hit != (field.written,)):
            own = "is not written" if field.excluded else f"is written as {field.written!r}"
            place.refuse(
                f"it {own}, but reads {_dotted(hit)!r} first, and {str(hit[0])!r} is what {written[str(hit[0])]} "
                f"is written as. Change one of the aliases."
            )


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _check_init(node: Node, place: _Place) -> None:
    """Check that a dataclass that forbids extra fields does not meet its own `init=False` fields in what it wrote."""
    if node.get("extra_behavior", place.config.get("extra_fields_behavior")) != "forbid":
        return
    for each in node["fields"] if node["type"] == "dataclass-args" else ():
        if each.get("init") is False and not each.get("serialization_exclude"):
            place._replace(field=each["name"]).refuse(
                "it is written and, with init=False and extra='forbid', refused when read. Exclude it."
            )


def _check_secret(serialization: Node, place: _Place) -> None:
    """Refuse SecretStr and its kin, which are written as asterisks.

    The only sign of them in a schema is the serializer that pydantic.types sets; a field's own replaces it.
    """
    function = serialization.get("function")
    if getattr(function, "__module__", None) == "pydantic.types" and "secret" in getattr(function, "__qualname__", ""):
        place.refuse(
            "a secret is written as asterisks and lost. Reveal it on purpose with a field_serializer, "
            "or give it a default and Field(exclude=True)."
        )
