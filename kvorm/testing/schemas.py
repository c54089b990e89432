"""Strategies for what a class compiled by Pydantic takes: one for each node of its core schema.

The core schema says all there is to know, however it was written: generics, aliases of types, forward references,
constraints in `Annotated` or `Field`. Values are what Python code would put there, so that strict classes take them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from hypothesis import strategies as st
from pydantic_core import to_json

from kvorm.testing.leaves import BY_CLASS, BY_FUNCTION, LEAVES, WIDEST, Node, Strategy, datetimes

_DEEPEST: Final = 2
"""How often a class that contains itself is met on the way down."""
_NO_CONFIG: Final[Node] = {}
_FIELDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict"})


class UnknownTypeError(Exception):
    """Nothing is known of what such a node takes."""


class _TooDeepError(UnknownTypeError):
    """A class contains itself too often on the way down."""


class Schemas:
    """Makes strategies of the nodes of one schema."""

    def __init__(self, schema: Any, model: Callable[[type[Any], Strategy], Strategy]) -> None:
        """Say of which schema; `model` turns the strategy for a class's fields into one for its instances."""
        self._known: dict[str, Node] = {}
        self._instances = model
        self._makers: Mapping[str, Callable[[Node, Node, tuple[str, ...]], Strategy]] = {
            "definition-ref": self._definition_ref,
            "model": self._model,
            "dataclass": self._dataclass,
            "typed-dict": self._typed_dict,
            "named-tuple": self._named_tuple,
            "call": self._call,
            "list": self._list,
            "deque": self._deque,
            "set": self._set,
            "frozenset": self._frozenset,
            "dict": self._dict,
            "ordered-dict": self._ordered_dict,
            "tuple": self._tuple,
            "union": self._union,
            "tagged-union": self._tagged_union,
            "json": self._json,
            "is-instance": self._is_instance,
        }
        self.root = self._resolved(schema)

    def fields(self, node: Node, *, aware: Iterable[str] = ()) -> dict[str, Strategy | UnknownTypeError]:
        """Return a strategy for each field of a class; those in `aware` have times with a zone.

        A field of which nothing is known is told with its error.
        """
        config: Node = node.get("config", _NO_CONFIG)
        return {
            name: self._field(field, config, (_reference(node),), name in aware)
            for name, field in _fields(self.fields_node(node))
        }

    def field_nodes(self, node: Node) -> list[tuple[str, Node]]:
        """Return the node of each field of a class."""
        return _fields(self.fields_node(node))

    def root_strategy(self, node: Node, path: tuple[str, ...] = ()) -> Strategy:
        """Return the strategy for what a RootModel holds."""
        config: Node = node.get("config", _NO_CONFIG)
        while node["type"] != "model-fields" and (node["type"] == "model" or node["type"].startswith("function-")):
            node = node["schema"]
        root = node["fields"]["root"]["schema"] if node["type"] == "model-fields" else node
        return self.strategy(root, config, (*path, _reference(node)))

    def fields_node(self, node: Node) -> Node:
        """Return the node of a class's fields, below its validators."""
        while node["type"] not in _FIELDS:
            node = self._resolved(node)
            if node["type"] not in _FIELDS:
                node = node["schema"]
        return node

    def strategy(self, node: Node, config: Node, path: tuple[str, ...] = (), *, aware: bool = False) -> Strategy:
        """Return the strategy for a node.

        Raises:
            UnknownTypeError: nothing is known of what it takes.
        """
        if node["type"] == "definitions":
            node = self._resolved(node)
        kind = node["type"]
        if kind == "datetime":
            return datetimes(node, aware=aware)
        if kind in LEAVES:
            return LEAVES[kind](node, config)
        if kind in self._makers:
            return self._makers[kind](node, config, path)
        if kind in ("default", "nullable", "chain", "lax-or-strict", "json-or-python", "custom-error"):
            return self._wrapper(node, config, path, aware)
        if kind.startswith("function-") and kind != "function-plain":
            return self._function(node, config, path, aware)
        name = getattr(node.get("function", {}).get("function"), "__qualname__", "") if "function" in node else ""
        if name in BY_FUNCTION:
            return BY_FUNCTION[name]
        raise UnknownTypeError(f"nothing is known of what a {kind} takes")

    # Wrappers

    def _wrapper(self, node: Node, config: Node, path: tuple[str, ...], aware: bool) -> Strategy:
        match node["type"]:
            case "nullable":
                try:
                    return st.none() | self.strategy(node["schema"], config, path, aware=aware)
                except UnknownTypeError:
                    return st.none()
            case "lax-or-strict":
                inner = node["strict_schema"]
            case "json-or-python":
                inner = node["python_schema"]
                if inner["type"] == "chain":  # a Sequence and its kin
                    inner = node["json_schema"]
            case "chain":
                inner = node["steps"][0]
            case _:
                inner = node["schema"]
        return self.strategy(inner, config, path, aware=aware)

    def _function(self, node: Node, config: Node, path: tuple[str, ...], aware: bool) -> Strategy:
        """Validators are user code: what they take is found by trying, when the class is validated."""
        function = node["function"]["function"]
        known = BY_FUNCTION.get(getattr(function, "__qualname__", ""))
        return known if known is not None else self.strategy(node["schema"], config, path, aware=aware)

    def _definition_ref(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        reference = node["schema_ref"]
        if path.count(reference) > _DEEPEST:
            raise _TooDeepError(f"{reference} contains itself")
        return self.strategy(self._known[reference], config, path)

    # Classes

    def _model(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        cls, own, inner = node["cls"], node.get("config", _NO_CONFIG), (*path, _reference(node))
        if not node.get("root_model"):
            return self._instances(cls, self._fixed(self.fields_node(node), own, inner))
        return self._instances(cls, self.root_strategy(node, path))

    def _dataclass(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        own = node.get("config", config)
        return self._instances(node["cls"], self._fixed(self.fields_node(node), own, (*path, _reference(node))))

    def _typed_dict(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._fixed(node, node.get("config", config), (*path, _reference(node)))

    def _named_tuple(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        parts = [self.strategy(field["schema"], config, path) for field in node["fields"]]
        return st.tuples(*parts).map(lambda values: node["cls"](*values))

    def _call(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        # A named tuple, before pydantic 2.14.
        arguments = node["arguments_schema"]["arguments_schema"]
        parts = [self.strategy(each["schema"], config, path) for each in arguments]
        return st.tuples(*parts).map(lambda values: node["function"](*values))

    def _fixed(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        """Return a strategy for the fields of a class, as a dict; what may be left out often is."""
        required: dict[str, Strategy] = {}
        optional: dict[str, Strategy] = {}
        for name, field in _fields(node):
            strategy = self._field(field, config, path, False)
            if is_optional(field):
                if not isinstance(strategy, UnknownTypeError) and not is_excluded(field):
                    optional[name] = strategy
            elif isinstance(strategy, UnknownTypeError):
                raise type(strategy)(f"{name}: {strategy}")
            else:
                required[name] = strategy
        return st.fixed_dictionaries(required, optional=optional)

    def _field(self, field: Node, config: Node, path: tuple[str, ...], aware: bool) -> Strategy | UnknownTypeError:
        try:
            return self.strategy(field["schema"], config, path, aware=aware)
        except UnknownTypeError as error:
            return error

    # Containers

    def _list(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._items(node, config, path, st.lists)

    def _deque(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._list(node, config, path).map(deque)

    def _set(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._items(node, config, path, st.sets)

    def _frozenset(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._items(node, config, path, st.frozensets)

    def _items(self, node: Node, config: Node, path: tuple[str, ...], make: Callable[..., Strategy]) -> Strategy:
        try:
            items = self.strategy(node.get("items_schema") or {"type": "any"}, config, path)
        except _TooDeepError:
            if node.get("min_length"):
                raise
            return make(st.nothing(), max_size=0)
        return make(items, **_size(node))

    def _dict(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        try:
            keys = self.strategy(node.get("keys_schema") or {"type": "str"}, config, path)
            values = self.strategy(node.get("values_schema") or {"type": "any"}, config, path)
        except _TooDeepError:
            if node.get("min_length"):
                raise
            return st.dictionaries(st.nothing(), st.nothing(), max_size=0)
        return st.dictionaries(keys, values, **_size(node))

    def _ordered_dict(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._dict(node, config, path).map(OrderedDict)

    def _tuple(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        items, variadic = list(node["items_schema"]), node.get("variadic_item_index")
        parts = [self.strategy(item, config, path) for at, item in enumerate(items) if at != variadic]
        if variadic is None:
            return st.tuples(*parts)
        size = _size(node, less=len(parts))
        middle = st.lists(self.strategy(items[variadic], config, path), **size)
        return st.tuples(st.tuples(*parts[:variadic]), middle, st.tuples(*parts[variadic:])).map(
            lambda drawn: (*drawn[0], *drawn[1], *drawn[2])
        )

    def _union(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._one_of([each[0] if isinstance(each, tuple) else each for each in node["choices"]], config, path)

    def _tagged_union(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        return self._one_of(list(node["choices"].values()), config, path)

    def _one_of(self, choices: list[Any], config: Node, path: tuple[str, ...]) -> Strategy:
        known: list[Strategy] = []
        last: UnknownTypeError | None = None
        for choice in choices:
            try:
                known.append(self.strategy(choice, config, path))
            except UnknownTypeError as error:
                last = error
        if not known:
            raise last or UnknownTypeError("the union is empty")
        return st.one_of(known)

    def _json(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        inner = self.strategy(node.get("schema") or {"type": "any"}, config, path)
        return inner.map(lambda value: to_json(value).decode())

    def _is_instance(self, node: Node, config: Node, path: tuple[str, ...]) -> Strategy:
        for cls, strategy in BY_CLASS.items():
            if node["cls"] is cls:
                return strategy
        raise UnknownTypeError(f"nothing is known of {node['cls']!r}")

    # Finding one's way

    def _resolved(self, node: Node) -> Node:
        while node["type"] in ("definitions", "definition-ref"):
            if node["type"] == "definitions":
                self._known |= {each["ref"]: each for each in node["definitions"]}
                node = node["schema"]
            else:
                node = self._known[node["schema_ref"]]
        return node


def is_optional(field: Node) -> bool:
    """Whether a field may be left out."""
    schema = field["schema"]
    while schema["type"].startswith("function-") and "schema" in schema:
        schema = schema["schema"]
    return schema["type"] == "default" or field.get("required") is False


def is_excluded(field: Node) -> bool:
    """Whether a field is not stored, or cannot be set."""
    return field.get("serialization_exclude") is True or field.get("init") is False


def _reference(node: Node) -> str:
    return str(node.get("ref") or getattr(node.get("cls"), "__qualname__", node["type"]))


def _fields(node: Node) -> list[tuple[str, Node]]:
    fields: dict[str, Node] | list[Node] = node["fields"]
    return list(fields.items()) if isinstance(fields, dict) else [(each["name"], each) for each in fields]


def _size(node: Node, *, less: int = 0) -> dict[str, Any]:
    least = max(0, (node.get("min_length") or 0) - less)
    most = node.get("max_length")
    return {"min_size": least, "max_size": least + WIDEST if most is None else max(least, most - less)}
