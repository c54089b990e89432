"""Which classes msgspec may write: those whose core schema shows nothing that Pydantic would write otherwise.

A plan holds for valid instances. What an instance bent around validation may hold is not looked at here; the codec
proves what it stores by reading it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec
from pydantic import BaseModel
from pydantic_core import TzInfo

from kvorm.stamp import STAMP

Write: TypeAlias = Callable[[BaseModel], bytes]
"""Writes an instance, or raises where the plan does not cover it."""

Rule: TypeAlias = Callable[[dict[str, Any]], bool]
"""Whether what an instance of one class holds is as it must be."""

_SCALARS: Final = frozenset({"str", "int", "float", "bool", "none", "uuid", "decimal", "date"})
_COLLECTIONS: Final = {"list": "items_schema", "set": "items_schema", "frozenset": "items_schema"}
_LOOK_CLOSER: Final = -1
_WRAPPERS: Final = frozenset({"default", "nullable"})
# Options of a class that change how its values are written.
_WRITING_OPTIONS: Final = ("ser_json_timedelta", "ser_json_temporal", "ser_json_bytes", "ser_json_inf_nan")


class _NotPlainError(Exception):
    """Pydantic may write this otherwise than msgspec."""


class _Shape(NamedTuple):
    """What to look at in an instance of one class."""

    names: tuple[str, ...]
    times: tuple[str, ...]


class BrokenRuleError(Exception):
    """What an instance holds is not as a rule says; nothing was written."""


def compile_plan(model: type[BaseModel], rules: Mapping[type, Rule] | None = None) -> Write | None:
    """Return how msgspec writes the class, or None where only Pydantic can.

    With rules, one for each class in there, it raises BrokenRuleError where one does not hold.
    """
    try:
        shapes = _Survey().shapes_of(model)
    except _NotPlainError:
        return None
    return _writer(shapes) if rules is None else _strict_writer(shapes, rules)


def _writer(shapes: Mapping[type, _Shape]) -> Write:
    # Nothing more than a size stands between msgspec and most instances: this is called for every nested one.
    sizes = {model: _LOOK_CLOSER if shape.times else len(shape.names) for model, shape in shapes.items()}

    def fields(value: Any) -> dict[str, object]:
        held: dict[str, object] = value.__dict__
        # A class that the plan does not know, also a subclass, is a KeyError: it may have more to write or to hide.
        if len(held) == sizes[type(value)]:
            return held
        return _looked_at(held, shapes[type(value)])

    return msgspec.json.Encoder(enc_hook=fields).encode


def _strict_writer(shapes: Mapping[type, _Shape], rules: Mapping[type, Rule]) -> Write:
    # As above, and one walk for both: msgspec comes to each instance anyway.
    looks = {model: (shape, len(shape.names), rules[model]) for model, shape in shapes.items()}

    def fields(value: Any) -> dict[str, object]:
        held: dict[str, object] = value.__dict__
        shape, size, holds = looks[type(value)]
        if not holds(held):
            raise BrokenRuleError
        return held if len(held) == size else _looked_at(held, shape)

    return msgspec.json.Encoder(enc_hook=fields).encode


def _looked_at(held: dict[str, Any], shape: _Shape) -> dict[str, Any]:
    for name in shape.times:
        zone = getattr(held[name], "tzinfo", None)
        if not is_plain_zone(zone):
            raise ValueError(zone)
    # Beside the fields lie the stamp and cached properties.
    beside = len(held) - len(shape.names)
    if beside == 1 and STAMP in held:
        fields = held.copy()
        del fields[STAMP]
        return fields
    return held if not beside else {name: held[name] for name in shape.names}


def is_plain_zone(zone: object) -> bool:
    """Whether a moment of this zone reads back the same; the offset of others may have seconds, which JSON has not."""
    return zone is None or zone is UTC or type(zone) is TzInfo


class _Survey:
    """One walk over the core schema of a class and all that its fields hold."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._shapes: dict[type, _Shape] = {}
        self._entered: set[str] = set()

    def shapes_of(self, model: type[BaseModel]) -> Mapping[type, _Shape]:
        """Return what to look at, class by class.

        Raises:
            _NotPlainError: something in there is not plain.
        """
        self._visit(model.__pydantic_core_schema__)
        classes = list(self._shapes)
        if any(one is not other and issubclass(one, other) for one in classes for other in classes):
            # The one could stand where the other is declared, and would show what the other does not have.
            raise _NotPlainError
        return self._shapes

    def _visit(self, node: Any) -> None:
        kind: str = node["type"]
        if "serialization" in node:
            raise _NotPlainError
        if kind in _SCALARS:
            return
        if kind in _WRAPPERS:
            self._visit(node["schema"])
        elif kind in _COLLECTIONS:
            self._visit(node.get(_COLLECTIONS[kind], {"type": "any"}))
        elif kind == "tuple":
            self._visit_all(node["items_schema"])
        elif kind == "dict":
            self._visit_dict(node)
        elif kind == "union":
            # A choice may stand with its label.
            self._visit_all(cast("Any", one[0]) if isinstance(one, tuple) else one for one in node["choices"])
        elif kind == "tagged-union":
            self._visit_all(node["choices"].values())
        elif kind in {"literal", "enum"}:
            _check_members(node)
        elif kind == "definitions":
            self._definitions.update({one["ref"]: one for one in node["definitions"]})
            self._visit(node["schema"])
        elif kind == "definition-ref":
            self._visit_definition(node["schema_ref"])
        elif kind == "model":
            self._visit_model(node)
        else:
            raise _NotPlainError

    def _visit_definition(self, ref: str) -> None:
        if ref in self._entered:
            # Pydantic refuses what is nested too deep, msgspec writes it.
            raise _NotPlainError
        self._entered.add(ref)
        self._visit(self._definitions[ref])
        self._entered.remove(ref)

    def _visit_all(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit_dict(self, node: Any) -> None:
        if node.get("keys_schema", {"type": "any"})["type"] != "str" or "serialization" in node["keys_schema"]:
            raise _NotPlainError
        self._visit(node.get("values_schema", {"type": "any"}))

    def _visit_model(self, node: Any) -> None:
        model: type[BaseModel] = node["cls"]
        if model in self._shapes:
            return
        config: Mapping[str, Any] = node.get("config") or {}
        content = node["schema"]
        if (
            node.get("root_model")
            or content["type"] != "model-fields"
            or content.get("extras_schema")
            or config.get("extra_fields_behavior") == "allow"
            or any(option in config for option in _WRITING_OPTIONS)
            or model.__private_attributes__
        ):
            raise _NotPlainError
        fields: Mapping[str, Any] = content["fields"]
        times = tuple(name for name, field in fields.items() if self._visit_field(field))
        self._shapes[model] = _Shape(tuple(fields), times)

    def _visit_field(self, field: Any) -> bool:
        """Visit a field; return whether it holds a time."""
        if any(option.startswith("serialization") for option in field):
            raise _NotPlainError
        inner = field["schema"]
        while inner["type"] in _WRAPPERS and "serialization" not in inner:
            inner = inner["schema"]
        if inner["type"] == "datetime" and "serialization" not in inner:
            return True
        self._visit(field["schema"])
        return False


def _check_members(node: Any) -> None:
    for member in node["expected" if node["type"] == "literal" else "members"]:
        value = member.value if isinstance(member, Enum) else member
        # A member that is a str or an int itself may have another value than it shows.
        if type(value) not in {str, int, bool, type(None)} or (isinstance(member, str | int) and member != value):
            raise _NotPlainError
