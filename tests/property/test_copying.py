"""The law of copies, on generated classes: equal to what `deepcopy` makes, and as far from the original."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel

from kvorm.codec import Codec, CodecFailure
from kvorm.copying import copier
from kvorm.errors import ModelError
from tests.property.generated_models import Sample, samples

# Compiling a class takes milliseconds, and some drawn ones cannot be.
slowly = functools.partial(
    settings, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def read(sample: Sample) -> BaseModel | None:
    """Return an instance as a view holds it: read from JSON."""
    try:
        codec: Codec[Any] = Codec(type(sample.value))
        return codec.decode(codec.encode(sample.value))
    except (ModelError, CodecFailure):
        return None


def changeable(value: object) -> Iterator[object]:
    """Yield all inside that a caller could change without going around its class."""
    if isinstance(value, BaseModel):
        if not value.model_config.get("frozen"):
            yield value
            yield value.__pydantic_fields_set__
        for inner in (*vars(value).values(), value.__pydantic_extra__, value.__pydantic_private__):
            yield from changeable(inner)
    elif isinstance(value, list | set):
        yield value
        for inner in value:
            yield from changeable(inner)
    elif isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from changeable(inner)
    elif isinstance(value, tuple | frozenset):
        for inner in value:
            yield from changeable(inner)
    elif dataclasses.is_dataclass(value):
        yield value
        yield from changeable(vars(value))


@slowly(max_examples=300)
@given(samples())
def test_a_copy_equals_a_deepcopy_and_is_apart_from_the_original(sample: Sample) -> None:
    value = read(sample)
    if value is None:
        return
    value.__dict__["__kvorm_stamp__"] = ("incarnation", "bucket", "key", 3, None)
    copied, deep = copier(type(value))(value), copy.deepcopy(value)
    # The text for NaN, which does not equal itself.
    assert copied == deep or repr(copied) == repr(deep)
    assert vars(copied).keys() == vars(deep).keys()
    assert copied.model_fields_set == deep.model_fields_set
    assert copied.__pydantic_private__ == deep.__pydantic_private__
    mine = [id(part) for part in changeable(copied)]
    theirs = [id(part) for part in changeable(deep)]
    assert len(mine) == len(theirs)
    assert set(mine).isdisjoint(id(part) for part in changeable(value))
