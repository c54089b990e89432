"""What the codec costs beside pydantic's own methods, and beside msgspec (ADR 0002).

`python -m benchmarks.codec`. Every number is the time of the peer over the time of the row, both the best of many
interleaved repeats: 1.50x is half as fast again. The peers are `model_dump_json(by_alias=True, round_trip=True)` and
`model_validate_json(by_alias=True, by_name=True)`; the wire takes bytes, so `.encode()` has a row.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from pydantic import BaseModel

from kvorm.codec import Codec

REPEATS = 40
CALLS = 3_000

Work = Callable[[], object]


class Small(BaseModel):
    tenant: str
    id: UUID
    total: Decimal
    status: str = "new"
    created: datetime


class Line(BaseModel):
    sku: str
    count: int
    price: Decimal


class Address(BaseModel):
    street: str
    city: str
    code: str


class Nested(BaseModel):
    id: UUID
    name: str
    address: Address
    lines: list[Line]
    tags: set[str]
    note: str | None = None


SMALL = Small(tenant="acme", id=UUID(int=7), total=Decimal("9.90"), created=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC))
NESTED = Nested(
    id=UUID(int=7),
    name="order",
    address=Address(street="Keizersgracht 1", city="Amsterdam", code="1015 CJ"),
    lines=[Line(sku=f"sku-{n}", count=n, price=Decimal(n)) for n in range(5)],
    tags={"a", "b"},
)


def msgspec_unchecked() -> Callable[[BaseModel], bytes]:
    """Return the floor: what msgspec costs where nobody looks. It writes whatever lies in `__dict__`: not the law."""
    encode = msgspec.json.Encoder(enc_hook=operator.attrgetter("__dict__")).encode
    return lambda value: encode(value.__dict__)


def msgspec_checked(*samples: BaseModel) -> Callable[[BaseModel], bytes]:
    """Return msgspec behind a check of the exact type of every value, as the law needs it, compiled from samples.

    Of what was tried this was the fastest: types of one instance are looked up all at once, and only lists and times
    are looked into. A Struct, unlike a dict, leaves out the stamp and what else lies beside the fields.
    """
    shapes: dict[type, Callable[[BaseModel], object]] = {}

    def check_of(value: object) -> Callable[[Any], bool] | None:
        if isinstance(value, datetime):
            return lambda each: (
                each.tzinfo is UTC or each.utcoffset().microseconds == each.utcoffset().seconds % 60 == 0
            )
        if isinstance(value, list | set):
            types = frozenset(map(type, value))
            return lambda each: types.issuperset(map(type, each))
        return None

    def compiled(sample: BaseModel) -> Callable[[BaseModel], object]:
        names = tuple(type(sample).model_fields)
        pick = operator.itemgetter(*names)
        struct: Any = msgspec.defstruct(type(sample).__name__, [(name, object) for name in names], gc=False)
        values = pick(sample.__dict__)
        checks = [(at, check) for at, check in enumerate(map(check_of, values)) if check]
        known = {tuple(map(type, values)): checks}

        def shape(value: BaseModel) -> object:
            values = pick(value.__dict__)
            for at, check in known[tuple(map(type, values))]:
                if not check(values[at]):
                    raise TypeError(value)
            return struct(*values)

        return shape

    for sample in samples:
        shapes[type(sample)] = compiled(sample)
    encode = msgspec.json.Encoder(enc_hook=lambda value: shapes[type(value)](value)).encode
    return lambda value: encode(shapes[type(value)](value))


def ratios(peer: Work, rows: dict[str, Work]) -> dict[str, float]:
    """Return the peer's time over that of each row, taken in turns."""
    best = dict.fromkeys(["", *rows], float("inf"))
    for _ in range(REPEATS):
        for name, work in {"": peer, **rows}.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                work()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: best[""] / best[name] for name in rows}


def encoding(value: BaseModel) -> dict[str, float]:
    codec = Codec(type(value))
    unchecked = msgspec_unchecked()
    checked = msgspec_checked(SMALL, NESTED, NESTED.address, NESTED.lines[0])
    to_json = type(value).__pydantic_serializer__.to_json
    return ratios(
        lambda: value.model_dump_json(by_alias=True, round_trip=True),
        {
            "encode: kvorm": lambda: codec.encode(value),
            "encode: model_dump_json().encode()": lambda: value.model_dump_json(
                by_alias=True, round_trip=True
            ).encode(),
            "encode: pydantic-core, bare": lambda: to_json(value, by_alias=True, round_trip=True, warnings=False),
            "encode: msgspec, types checked": lambda: checked(value),
            "encode: msgspec, nothing checked": lambda: unchecked(value),
        },
    )


def decoding(value: BaseModel) -> dict[str, float]:
    codec = Codec(type(value))
    data = codec.encode(value)
    model, validator = type(value), type(value).__pydantic_validator__
    return ratios(
        lambda: model.model_validate_json(data, by_alias=True, by_name=True),
        {
            "decode: kvorm": lambda: codec.decode(data),
            "decode: msgspec + validate_python": lambda: validator.validate_python(
                msgspec.json.decode(data), by_alias=True, by_name=True
            ),
        },
    )


def main() -> None:
    small, nested = ({**encoding(value), **decoding(value)} for value in (SMALL, NESTED))
    print(f"{'speed beside pydantic':<40}{'small':>8}{'nested':>8}")
    for name, ratio in small.items():
        print(f"{name:<40}{ratio:>7.2f}x{nested[name]:>7.2f}x")


if __name__ == "__main__":
    main()
