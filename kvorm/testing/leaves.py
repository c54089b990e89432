"""Strategies for the leaves of a core schema: texts, numbers, moments, and classes that Pydantic knows by name."""

from __future__ import annotations

import ipaddress
import operator
import pathlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr

Node: TypeAlias = Mapping[str, Any]
Strategy: TypeAlias = st.SearchStrategy[Any]

WIDEST: Final = 4
"""How many more than the least number of items a collection has."""

_FIRST_TIME: Final = datetime(1, 1, 1)  # noqa: DTZ001 (Hypothesis adds the zone)
_LAST_TIME: Final = datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001 (as above)
_LONGEST_TIME: Final = timedelta(days=4000)

BY_CLASS: Final[Mapping[type[Any], Strategy]] = {
    ipaddress.IPv4Address: st.ip_addresses(v=4),
    ipaddress.IPv6Address: st.ip_addresses(v=6),
    ipaddress.IPv4Network: st.ip_addresses(v=4).map(ipaddress.IPv4Network),
    ipaddress.IPv6Network: st.ip_addresses(v=6).map(ipaddress.IPv6Network),
    ipaddress.IPv4Interface: st.ip_addresses(v=4).map(ipaddress.IPv4Interface),
    ipaddress.IPv6Interface: st.ip_addresses(v=6).map(ipaddress.IPv6Interface),
    pathlib.Path: st.sampled_from(["a", "a/b.txt", "/"]).map(pathlib.Path),
    pathlib.PurePath: st.sampled_from(["a", "a/b.txt", "/"]).map(pathlib.PurePath),
    SecretStr: st.text(max_size=WIDEST).map(SecretStr),
    SecretBytes: st.binary(max_size=WIDEST).map(SecretBytes),
}
BY_FUNCTION: Final[Mapping[str, Strategy]] = {
    "EmailStr._validate": st.from_regex(r"[a-z]{1,8}@example\.(com|org)", fullmatch=True),
    "validate_str_is_valid_iana_tz": st.sampled_from(["UTC", "Europe/Amsterdam", "America/New_York"]),
}
SCALARS: Final = st.none() | st.booleans() | st.integers() | st.text()


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
        most = most if most is not None else least + 2 * WIDEST
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


def datetimes(node: Node, *, aware: bool = False) -> Strategy:
    """Return the strategy for moments; `aware`: with a zone, whatever the node says."""
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


LEAVES: Final[Mapping[str, Callable[[Node, Node], Strategy]]] = {
    "any": lambda _, __: SCALARS,
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
