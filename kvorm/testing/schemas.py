"""Strategies for what a class compiled by Pydantic takes: one for each node of its core schema.

The core schema says all there is to know, however it was written: generics, aliases of types, forward references,
constraints in `Annotated` or `Field`. Values are what Python code would put there, so that strict classes take them.
"""

from __future__ import annotations

import ipaddress
import operator
import pathlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr
from pydantic_core import to_json

Node: TypeAlias = Mapping[str, Any]
Strategy: TypeAlias = st.SearchStrategy[Any]

_DEEPEST: Final = 2
"""How often a class that contains itself is met on the way down."""
_WIDEST: Final = 4
_NO_CONFIG: Final[Node] = {}
_FIRST_TIME: Final = datetime(1, 1, 1)  # noqa: DTZ001 (Hypothesis adds the zone)
_LAST_TIME: Final = datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001
_LONGEST_TIME: Final = timedelta(days=4000)
_FIELDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict"})

_BY_CLASS: Final[Mapping[type[Any], Strategy]] = {
    ipaddress.IPv4Address: st.ip_addresses(v=4),
    ipaddress.IPv6Address: st.ip_addresses(v=6),
    ipaddress.IPv4Network: st.ip_addresses(v=4).map(ipaddress.IPv4Network),
    ipaddress.IPv6Network: st.ip_addresses(v=6).map(ipaddress.IPv6Network),
    ipaddress.IPv4Interface: st.ip_addresses(v=4).map(ipaddress.IPv4Interface),
    ipaddress.IPv6Interface: st.ip_addresses(v=6).map(ipaddress.IPv6Interface),
    pathlib.Path: st.sampled_from(["a", "a/b.txt", "/"]).map(pathlib.Path),
    pathlib.PurePath: st.sampled_from(["a", "a/b.txt", "/"]).map(pathlib.PurePath),
    SecretStr: st.text(max_size=_WIDEST).map(SecretStr),
    SecretBytes: st.binary(max_size=_WIDEST).map(SecretBytes),
}
_BY_FUNCTION: Final[Mapping[str, Strategy]] = {
    "EmailStr._validate": st.from_regex(r"[a-z]{1,8}@example\.(com|org)", fullmatch=True),
    "validate_str_is_valid_iana_tz": st.sampled_from(["UTC", "Europe/Amsterdam", "America/New_York"]),
}
_SCALARS: Final = st.none() | st.booleans() | st.integers() | st.text()


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
            return _datetimes(node, aware=aware)
        if kind in _LEAVES:
            return _LEAVES[kind](node, config)
        if kind in self._makers:
            return self._makers[kind](node, config, path)
        if kind in ("default", "nullable", "chain", "lax-or-strict", "json-or-python", "custom-error"):
            return self._wrapper(node, config, path, aware)
        if kind.startswith("function-") and kind != "function-plain":
            return self._function(node, config, path, aware)
        name = getattr(node.get("function", {}).get("function"), "__qualname__", "") if "function" in node else ""
        if name in _BY_FUNCTION:
            return _BY_FUNCTION[name]
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
        known = _BY_FUNCTION.get(getattr(function, "__qualname__", ""))
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
        for cls, strategy in _BY_CLASS.items():
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
    return {"min_size": least, "max_size": least + _WIDEST if most is None else max(least, most - less)}


def _texts(node: Node, config: Node) -> Strategy:
    least, most = node.get("min_length") or config.get("str_min_length") or 0, node.get("max_length")
    if most is None:
        most = config.get("str_max_length")
    pattern = node.get("pattern")
    if pattern is not None:
        pattern = str(getattr(pattern, "pattern", pattern))
        found = st.from_regex(pattern, fullmatch=True) | st.from_regex(pattern)
        return found.filter(lambda text: len(text) >= least and (most is None or len(text) <= most))
    return st.text(min_size=least, max_size=most)


def _binaries(node: Node, config: Node) -> Strategy:
    least, most = node.get("min_length") or 0, node.get("max_length")
    if config.get("ser_json_bytes", "utf8") == "utf8":
        # Other bytes have no JSON.
        most = most if most is not None else least + 2 * _WIDEST
        wide = st.text(max_size=most).map(str.encode).filter(lambda data: least <= len(data) <= most)
        return st.text(st.characters(max_codepoint=127), min_size=least, max_size=most).map(str.encode) | wide
    return st.binary(min_size=least, max_size=most)


def _integers(node: Node, config: Node) -> Strategy:
    least, most = node.get("ge"), node.get("le")
    if node.get("gt") is not None:
        least = max(node["gt"] + 1, least) if least is not None else node["gt"] + 1
    if node.get("lt") is not None:
        most = min(node["lt"] - 1, most) if most is not None else node["lt"] - 1
    step = node.get("multiple_of")
    if step is None:
        return st.integers(least, most)
    lowest = None if least is None else -(-least // step)
    highest = None if most is None else most // step
    return st.integers(lowest, highest).map(lambda factor: factor * step)


def _floats(node: Node, config: Node) -> Strategy:
    # NaN and the infinities have no JSON of their own, and NaN does not equal itself.
    step = node.get("multiple_of")
    if step is not None:
        return st.integers(-1000, 1000).map(lambda factor: factor * step).filter(lambda number: _within(node, number))
    least, most = _limits(node, float)
    return st.floats(
        least,
        most,
        allow_nan=False,
        allow_infinity=False,
        exclude_min=least is not None and least == node.get("gt"),
        exclude_max=most is not None and most == node.get("lt"),
    )


def _decimals(node: Node, config: Node) -> Strategy:
    least, most = _limits(node, Decimal)
    places, digits = node.get("decimal_places"), node.get("max_digits")
    if digits is not None:
        whole = digits - (places or 0)
        widest = Decimal(10) ** whole - Decimal(1).scaleb(-(places or 0))
        least = -widest if least is None else max(least, -widest)
        most = widest if most is None else min(most, widest)
        places = places if places is not None else 0
    step = node.get("multiple_of")
    if step is not None:
        return st.integers(-1000, 1000).map(lambda factor: factor * step).filter(lambda number: _within(node, number))
    found = st.decimals(least, most, allow_nan=False, allow_infinity=False, places=places)
    return found.filter(lambda number: _within(node, number))


def _datetimes(node: Node, *, aware: bool = False) -> Strategy:
    least, most = _limits(node, lambda limit: limit.replace(tzinfo=None))
    constraint = node.get("tz_constraint")
    limit = next((node[name] for name in ("gt", "ge", "lt", "le") if node.get(name) is not None), None)
    if limit is not None:
        aware, constraint = aware or limit.tzinfo is not None, constraint or ("aware" if limit.tzinfo else "naive")
    zones: Any = st.none() | st.just(UTC)
    if aware or constraint == "aware" or isinstance(constraint, int):
        zones = st.just(UTC)
    elif constraint == "naive":
        zones = st.none()
    least, most = _past_or_future(node, least, most, datetime.now(UTC).replace(tzinfo=None), timedelta(days=1))
    found = st.datetimes(least or _FIRST_TIME, most or _LAST_TIME, timezones=zones)
    return found.filter(lambda moment: limit is None or _within(node, moment))


def _dates(node: Node, config: Node) -> Strategy:
    least, most = _limits(node, lambda limit: limit)
    least, most = _past_or_future(node, least, most, datetime.now(UTC).date(), timedelta(days=2))
    return st.dates(least or date.min, most or date.max).filter(lambda day: _within(node, day))


def _past_or_future(node: Node, least: Any, most: Any, now: Any, margin: timedelta) -> tuple[Any, Any]:
    if node.get("now_op") == "past":
        most = now - margin if most is None else min(most, now - margin)
    if node.get("now_op") == "future":
        least = now + margin if least is None else max(least, now + margin)
    return least, most


def _times(node: Node, config: Node) -> Strategy:
    zones: Any = st.just(UTC) if node.get("tz_constraint") == "aware" else st.none()
    return st.times(timezones=zones).filter(lambda time: _within(node, time))


def _durations(node: Node, config: Node) -> Strategy:
    least, most = _limits(node, lambda limit: limit)
    least = least if least is not None else min(-_LONGEST_TIME, most) if most is not None else -_LONGEST_TIME
    most = most if most is not None else max(_LONGEST_TIME, least)
    return st.timedeltas(least, most).filter(lambda duration: _within(node, duration))


def _urls(node: Node, config: Node) -> Strategy:
    schemes = node.get("allowed_schemes") or ["http", "https"]
    hosts = st.sampled_from(["example.com", "example.org:8080", "127.0.0.1"])
    paths = st.sampled_from(["/", "/a", "/a/b?c=d"])
    return st.tuples(st.sampled_from(list(schemes)), hosts, paths).map(
        lambda parts: f"{parts[0]}://{parts[1]}{parts[2]}"
    )


def _limits(node: Node, convert: Callable[[Any], Any]) -> tuple[Any, Any]:
    lower = [convert(node[name]) for name in ("gt", "ge") if node.get(name) is not None]
    upper = [convert(node[name]) for name in ("lt", "le") if node.get(name) is not None]
    return max(lower, default=None), min(upper, default=None)


def _within(node: Node, value: Any) -> bool:
    tests = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
    return all(test(value, node[name]) for name, test in tests.items() if node.get(name) is not None)


_LEAVES: Final[Mapping[str, Callable[[Node, Node], Strategy]]] = {
    "any": lambda _, __: _SCALARS,
    "none": lambda _, __: st.none(),
    "bool": lambda _, __: st.booleans(),
    "int": _integers,
    "float": _floats,
    "decimal": _decimals,
    "fraction": lambda _, __: st.fractions(),
    "complex": lambda _, __: st.complex_numbers(allow_nan=False, allow_infinity=False),
    "str": _texts,
    "bytes": _binaries,
    "date": _dates,
    "time": _times,
    "timedelta": _durations,
    "uuid": lambda node, _: st.uuids(version=node.get("version")),
    "url": _urls,
    "multi-host-url": _urls,
    "enum": lambda node, _: st.sampled_from(list(node["members"])),
    "literal": lambda node, _: st.sampled_from(list(node["expected"])),
    "missing-sentinel": lambda _, __: st.nothing(),
}
