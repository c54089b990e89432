"""Copies of models: what is deeply immutable is shared, all else is copied, as the core schema of the class tells.

It holds for instances that were read from JSON. What it does not know (validators that may return anything, private
attributes, types of others) is left to `deepcopy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cached_property
from inspect import getmembers_static
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

Copy: TypeAlias = Callable[[Any], Any]
"""Returns a value that can be changed without changing the original."""

_ATOMS: Final = frozenset(
    {
        "str", "int", "float", "bool", "none", "bytes", "complex", "decimal", "date", "time", "datetime", "timedelta",
        "uuid", "literal", "enum",
    }
)  # fmt: skip
_WRAPPERS: Final = frozenset({"default", "nullable", "function-before"})
"""What stands around a schema and leaves what it yields as it is."""

# What an instance consists of. The slots themselves are faster than `object.__setattr__`, and no model's own.
_put_content, _put_fields_set, _put_extra, _put_private = (
    vars(BaseModel)[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


def copier(model: type[M]) -> Callable[[M], M]:
    """Return what copies the instances of a class; those of a deeply immutable one are returned as they are."""
    return _Compiler().copy_of(model.__pydantic_core_schema__) or _share


def _share(value: M) -> M:
    return value


class _Compiler:
    """One walk over the core schema of a class. A copy that is None means that the value can be shared."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._models: dict[type, Copy] = {}
        self._entered: set[int] = set()

    def copy_of(self, node: Any) -> Copy | None:
        """Return how values of a schema are copied."""
        node = self._resolved(node)
        if self._is_immutable(node, set()):
            return None
        if node["type"] == "model" and _is_plain(node):
            return self._model(node)
        if id(node) in self._entered:
            return deepcopy  # a container that holds itself
        self._entered.add(id(node))
        copy = self._container(node)
        self._entered.remove(id(node))
        return copy

    def _container(self, node: Any) -> Copy | None:
        match node["type"]:
            case "nullable":
                return _optional(self.copy_of(node["schema"]) or _share)
            case "default":
                copy = self.copy_of(node["schema"]) or _share
                return copy if _fits(copy, node) else deepcopy
            case "function-before":
                return self.copy_of(node["schema"])
            case "list":
                return _list(self.copy_of(node.get("items_schema", _ANY)))
            case "tuple" if node.get("variadic_item_index") == 0 and len(node["items_schema"]) == 1:
                return _tuple(self.copy_of(node["items_schema"][0]) or _share)
            case "set" if self._is_immutable(node.get("items_schema", _ANY), set()):
                return set[Any].copy
            case "dict" if self._is_immutable(node.get("keys_schema", _ANY), set()):
                return _dict(self.copy_of(node.get("values_schema", _ANY)))
            case "union" | "tagged-union":
                return self._union(node)
            case _:
                return deepcopy

    def _union(self, node: Any) -> Copy:
        """Tell models apart by their class; a union of anything else is not worth the care."""
        choices = [self._resolved(choice) for choice in _choices(node)]
        if any(choice["type"] != "model" for choice in choices):
            return deepcopy
        by_class = {choice["cls"]: self.copy_of(choice) or _share for choice in choices}
        return lambda value: by_class.get(type(value), deepcopy)(value)

    def _model(self, node: Any) -> Copy:
        cls: type[BaseModel] = node["cls"]
        if cls not in self._models:
            steps: list[tuple[str, Copy]] = []
            # Known before its fields are: a class may hold itself.
            self._models[cls] = _model(cls, steps)
            for name, field in node["schema"]["fields"].items():
                copy = self.copy_of(field["schema"])
                if copy is not None:
                    steps.append((name, copy))
        return self._models[cls]

    def _is_immutable(self, node: Any, seen: set[int]) -> bool:
        """Whether nothing that can be changed is reachable from a value; what was seen already is not asked again."""
        node = self._resolved(node)
        kind = node["type"]
        if kind in _ATOMS or id(node) in seen:
            return True
        seen.add(id(node))
        if kind == "default" and not _fits(_share, node):
            return False
        if kind in _WRAPPERS:
            return self._is_immutable(node["schema"], seen)
        if kind in {"union", "tagged-union"}:
            return all(self._is_immutable(choice, seen) for choice in _choices(node))
        if kind == "tuple":
            return all(self._is_immutable(item, seen) for item in node["items_schema"])
        if kind == "frozenset":
            return self._is_immutable(node.get("items_schema", _ANY), seen)
        if kind != "model" or not _is_plain(node) or not _is_frozen(node["cls"]):
            return False
        return all(self._is_immutable(field["schema"], seen) for field in node["schema"]["fields"].values())

    def _resolved(self, node: Any) -> Any:
        while node["type"] in {"definitions", "definition-ref"}:
            if node["type"] == "definitions":
                self._definitions.update((one["ref"], one) for one in node["definitions"])
                node = node["schema"]
            else:
                node = self._definitions[node["schema_ref"]]
        return node


_ANY: Final[Mapping[str, str]] = {"type": "any"}


def _choices(node: Any) -> Iterable[Any]:
    choices: Any = node["choices"]
    if node["type"] == "tagged-union":
        return list(choices.values())
    return [choice[0] if isinstance(choice, tuple) else choice for choice in choices]  # some have a label


def _fits(copy: Copy, node: Any) -> bool:
    """Whether a default, which nobody validates, is what the field says: `tags: list[str] = None` is not."""
    default = node.get("default")
    if default is None and "default" not in node:
        return True
    try:
        copied = copy(default)
    except (TypeError, AttributeError, KeyError):
        return False
    unhashable = type(default).__hash__ is None
    return type(copied) is type(default) and copied == default and not (copied is default and unhashable)


def _is_plain(node: Any) -> bool:
    """Whether instances of a class are their fields and nothing more."""
    cls: type[BaseModel] = node["cls"]
    return (
        node["schema"]["type"] == "model-fields"
        and not node.get("custom_init")
        and not node.get("post_init")
        and cls.model_config.get("extra") != "allow"
        and cls.__copy__ is BaseModel.__copy__
        and cls.__deepcopy__ is BaseModel.__deepcopy__
    )


def _is_frozen(cls: type[BaseModel]) -> bool:
    """Whether an instance stays as it is; what a cached property keeps on it could be changed."""
    if not cls.model_config.get("frozen"):
        return False
    return not any(isinstance(member, cached_property) for _, member in getmembers_static(cls))


def _optional(copy: Copy) -> Copy:
    return lambda value: None if value is None else copy(value)


def _list(copy: Copy | None) -> Copy:
    if copy is None:
        return list[Any].copy
    return lambda value: [copy(item) for item in value]


def _tuple(copy: Copy) -> Copy:
    return lambda value: tuple([copy(item) for item in value])


def _dict(copy: Copy | None) -> Copy:
    if copy is None:
        return dict[Any, Any].copy
    return lambda value: {key: copy(item) for key, item in value.items()}


def _model(cls: type[BaseModel], steps: list[tuple[str, Copy]]) -> Copy:
    """Return what copies a model as `model_copy` does, and each field that must not be shared."""
    new = object.__new__

    def copy(value: BaseModel) -> BaseModel:
        clone = new(cls)
        content = value.__dict__.copy()
        if steps:
            try:
                for name, copy_field in steps:
                    content[name] = copy_field(content[name])
            except (AttributeError, KeyError, TypeError):
                # A default_factory made something else than the field says.
                return deepcopy(value)
        _put_content(clone, content)
        _put_fields_set(clone, value.__pydantic_fields_set__.copy())
        _put_extra(clone, None)
        _put_private(clone, None)
        return clone

    return copy
