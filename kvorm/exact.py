"""Which instances of plain classes read back equal, told without reading them back.

An instance is exact if each value in it has the very type that reading gives, in a class where the type is all that
reading looks at. What is not exact may be fine, or may be bent around validation: the codec reads that back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, Final, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from kvorm.plan import is_plain_zone

IsExact: TypeAlias = Callable[[Any], bool]

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


def compile_exact(model: type[BaseModel]) -> IsExact:
    """Return what tells whether an instance is exact. The class must have a plan (`plan.compile_plan`)."""
    try:
        return _Survey().visit(model.__pydantic_core_schema__)
    except _UnknownError:
        return _is_never


def _is_never(value: Any) -> bool:
    return False


class _Survey:
    """One walk over the core schema of a class and all that its fields hold. One with a plan has no cycles."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}

    def visit(self, node: Any) -> IsExact:
        """Return what tells whether a value is exact.

        Raises:
            _UnknownError: more than its type may matter.
        """
        kind: str = node["type"]
        if not node.keys() <= _KNOWN.get(kind, _ALWAYS):
            raise _UnknownError
        if kind in _TYPES:
            expected = _TYPES[kind]
            return lambda value: type(value) is expected
        match kind:
            case "float":
                return lambda value: type(value) is float and isfinite(value)
            case "decimal":
                return lambda value: type(value) is Decimal and value.is_finite()
            case "datetime":
                return lambda value: type(value) is datetime and is_plain_zone(value.tzinfo)
            case "default":
                return self.visit(node["schema"])
            case "nullable":
                return _nullable(self.visit(node["schema"]))
            case "list" | "set" | "frozenset" if "items_schema" in node:
                return _collection(_COLLECTIONS[kind], self.visit(node["items_schema"]))
            case "dict" if "values_schema" in node and node.get("keys_schema") == {"type": "str"}:
                return _texts_to(dict, self.visit(node["values_schema"]))
            case "enum":
                return _member(node["cls"])
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

    def _visit_model(self, node: Any) -> IsExact:
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
        return _model(node["cls"], [(name, self.visit(field["schema"])) for name, field in fields.items()])


def _nullable(inner: IsExact) -> IsExact:
    return lambda value: value is None or inner(value)


def _collection(expected: type[Any], item: IsExact) -> IsExact:
    return lambda value: type(value) is expected and all(item(each) for each in value)


def _texts_to(expected: type[Any], inner: IsExact) -> IsExact:
    return lambda value: (
        type(value) is expected
        and all(type(key) is str for key in value)
        and all(inner(each) for each in value.values())
    )


def _member(cls: type[Enum]) -> IsExact:
    return lambda value: type(value) is cls


def _literal(expected: Sequence[object]) -> IsExact:
    allowed: list[tuple[object, object]] = [(type(each), each) for each in expected]
    return lambda value: (type(value), value) in allowed


def _model(expected: type[Any], checks: Sequence[tuple[str, IsExact]]) -> IsExact:
    def is_exact(value: Any) -> bool:
        if type(value) is not expected:
            return False
        held: dict[str, Any] = value.__dict__
        try:
            for name, check in checks:
                if not check(held[name]):
                    return False
        except KeyError:
            return False
        return True

    return is_exact
