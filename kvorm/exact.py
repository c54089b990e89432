"""Which instances of plain classes read back equal, told while they are written, without reading them back.

An instance is exact if each value in it has the very type that reading gives, in a class where the type is all that
reading looks at. What is not exact may be fine, or may be bent around validation: the codec reads that back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from pydantic import BaseModel

from kvorm.plan import Rule, is_plain_zone

_Check: TypeAlias = Callable[[Any], bool]

_Must: TypeAlias = type[Any] | _Check
"""What a value must be: of this very type, or what this function says."""

_TYPES: Final[Mapping[str, type]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "uuid": UUID,
    "date": date,
    "none": type(None),
}
_COLLECTIONS: Final[Mapping[str, type]] = {"list": list, "set": set, "frozenset": frozenset}
_ALWAYS: Final = frozenset({"type", "schema", "metadata", "ref"})
"""What says nothing about which values are read. Whatever else a node has may be a rule of its own: a limit, say."""

_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "default": _ALWAYS | {"default", "default_factory", "default_factory_takes_data"},
    "list": _ALWAYS | {"items_schema"},
    "set": _ALWAYS | {"items_schema"},
    "frozenset": _ALWAYS | {"items_schema"},
    "dict": _ALWAYS | {"keys_schema", "values_schema"},
    "enum": _ALWAYS | {"cls", "members", "sub_type", "missing"},
    "literal": _ALWAYS | {"expected"},
    "datetime": _ALWAYS | {"microseconds_precision"},
    "date": _ALWAYS | {"microseconds_precision"},
    "definitions": _ALWAYS | {"definitions"},
    "definition-ref": _ALWAYS | {"schema_ref"},
    "model": _ALWAYS | {"cls", "custom_init", "root_model", "config", "generic_origin"},
    "model-fields": _ALWAYS | {"fields", "model_name", "computed_fields"},
    "model-field": _ALWAYS | {"frozen"},
}
_OPTIONS: Final = frozenset({"title", "extra_fields_behavior", "frozen", "validate_assignment", "from_attributes"})
"""Options of a class that say nothing about which values of JSON are read; `extra="allow"` has no plan."""


class _UnknownError(Exception):
    """Something here may look at more than a type."""


def compile_exact(model: type[BaseModel]) -> Mapping[type, Rule] | None:
    """Return what tells of each class in a model whether an instance is exact; None if none ever is.

    The model must have a plan (`plan.compile_plan`).
    """
    survey = _Survey()
    try:
        survey.visit(model.__pydantic_core_schema__)
    except _UnknownError:
        return None
    return survey.rules


class _Survey:
    """One walk over the core schema of a class and all that its fields hold. One with a plan has no cycles.

    Attributes:
        rules: of each class met on the way.
    """

    def __init__(self) -> None:
        self.rules: dict[type, Rule] = {}
        self._definitions: dict[str, Any] = {}

    def visit(self, node: Any) -> _Must:
        """Return what a value must be to be exact.

        Raises:
            _UnknownError: more than its type may matter.
        """
        kind: str = node["type"]
        if not node.keys() <= _KNOWN.get(kind, _ALWAYS):
            raise _UnknownError
        if kind in _TYPES:
            return _TYPES[kind]
        match kind:
            case "float":
                return _is_finite_float
            case "decimal":
                return _is_finite_decimal
            case "datetime":
                return _is_plain_datetime
            case "default":
                return self.visit(node["schema"])
            case "nullable":
                return _nullable(self.visit(node["schema"]))
            case "list" | "set" | "frozenset" if "items_schema" in node:
                return _collection(_COLLECTIONS[kind], self.visit(node["items_schema"]))
            case "dict" if "values_schema" in node and node.get("keys_schema") == {"type": "str"}:
                return _texts_to(dict, self.visit(node["values_schema"]))
            case "enum":
                return cast("type[Any]", node["cls"])
            case "literal":
                return _literal(node["expected"])
            case "model":
                return self._visit_model(node)
            case "definitions":
                self._definitions.update({each["ref"]: each for each in node["definitions"]})
                return self.visit(node["schema"])
            case "definition-ref":
                return self.visit(self._definitions[node["schema_ref"]])
            case _:
                raise _UnknownError

    def _visit_model(self, node: Any) -> type[Any]:
        content: Any = node["schema"]
        fields: Mapping[str, Any] = content["fields"]
        options: Mapping[str, Any] = node.get("config") or {}
        if (
            node.get("custom_init")
            or not content.keys() <= _KNOWN["model-fields"]
            or not options.keys() <= _OPTIONS
            or not all(field.keys() <= _KNOWN["model-field"] for field in fields.values())
        ):
            raise _UnknownError
        cls: type[Any] = node["cls"]
        self.rules[cls] = _rule([(name, self.visit(field["schema"])) for name, field in fields.items()])
        return cls


def _is_finite_float(value: Any) -> bool:
    return type(value) is float and isfinite(value)


def _is_finite_decimal(value: Any) -> bool:
    return type(value) is Decimal and value.is_finite()


def _is_plain_datetime(value: Any) -> bool:
    return type(value) is datetime and is_plain_zone(value.tzinfo)


def _nullable(inner: _Must) -> _Check:
    if isinstance(inner, type):
        return lambda value: value is None or type(value) is inner
    return lambda value: value is None or inner(value)


def _each(inner: _Must) -> Callable[[Iterable[Any]], bool]:
    """Return what tells whether each of some values is exact."""
    if isinstance(inner, type):
        only = {inner}
        return lambda values: {*map(type, values)} <= only

    return lambda values: all(map(inner, values))


def _collection(expected: type[Any], item: _Must) -> _Check:
    are_exact = _each(item)
    return lambda value: type(value) is expected and are_exact(value)


def _texts_to(expected: type[Any], inner: _Must) -> _Check:
    are_texts, are_exact = _each(str), _each(inner)
    return lambda value: type(value) is expected and are_texts(value) and are_exact(value.values())


def _literal(expected: Sequence[object]) -> _Check:
    allowed: list[tuple[object, object]] = [(type(each), each) for each in expected]
    return lambda value: (type(value), value) in allowed


def _rule(fields: Sequence[tuple[str, _Must]]) -> Rule:
    types = [(name, must) for name, must in fields if isinstance(must, type)]
    checks = [(name, must) for name, must in fields if not isinstance(must, type)]

    def holds(held: dict[str, Any]) -> bool:
        try:
            for name, its_type in types:
                if type(held[name]) is not its_type:
                    return False
            for name, check in checks:
                if not check(held[name]):
                    return False
        except KeyError:
            return False
        return True

    return holds
