"""The law of the codec, on generated classes: the same as pydantic's own methods, in what it writes and takes."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from kvorm.codec import Codec, CodecFailure
from kvorm.errors import ModelError
from tests.property.generated_models import NAMES, Address, Node, Rich, Sample, alias_soup, samples

REFUSED = object()

# Compiling a class takes milliseconds, and some drawn ones cannot be.
slowly = functools.partial(
    settings, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def reference_encode(value: BaseModel) -> Any:
    try:
        return value.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
    except Exception:
        return REFUSED


def reference_decode(model: type[BaseModel], data: bytes) -> Any:
    try:
        return model.model_validate_json(data, by_alias=True, by_name=True)
    except Exception:
        return REFUSED


def encode(codec: Codec[Any], value: BaseModel) -> Any:
    try:
        return codec.encode(value)
    except CodecFailure as failure:
        assert failure.reason
        assert failure.__cause__ is not None
        return REFUSED


def decode(codec: Codec[Any], data: bytes) -> Any:
    try:
        return codec.decode(data)
    except CodecFailure as failure:
        assert failure.reason
        assert failure.__cause__ is not None
        return REFUSED


def canonical(data: bytes) -> str:
    """Return JSON that is the same text exactly for equal JSON: 1, 1.0 and true differ, NaN equals itself."""
    return json.dumps(json.loads(data), sort_keys=True)


def same(left: Any, right: Any) -> bool:
    if left is REFUSED or right is REFUSED:
        return left is right
    # The text for NaN, which does not equal itself.
    return type(left) is type(right) and (left == right or repr(left) == repr(right))


def codec_of(sample: Sample) -> Codec[Any] | None:
    try:
        return Codec(type(sample.value))
    except ModelError:
        return None


@slowly(max_examples=250)
@given(samples())
def test_writes_what_the_class_writes_and_reads_it_back(sample: Sample) -> None:
    codec = codec_of(sample)
    if codec is None:
        return
    expected = reference_encode(sample.value)
    written = encode(codec, sample.value)
    if expected is REFUSED or written is REFUSED:
        assert written is expected
        return
    assert canonical(written) == canonical(expected)
    read = decode(codec, written)
    assert same(read, reference_decode(codec.model, expected))
    excluded = any(field.exclude for field in codec.model.model_fields.values())
    if sample.faithful and not excluded:
        assert read == sample.value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["13", 13]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*NAMES, "in"]), inner, max_size=2),
    max_leaves=3,
)


@st.composite
def hostile(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a mutation of `data`: members dropped, renamed and retyped, text cut, doubled and broken."""
    how = draw(st.sampled_from(["members", "members", "members", "cut", "byte", "other", "junk"]))
    if how == "cut":
        return data[: draw(st.integers(0, max(len(data) - 1, 0)))]
    if how == "byte":
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        return data[:at] + draw(st.binary(max_size=2)) + data[at + 1 :]
    if how == "other":
        return json.dumps(draw(json_values)).encode()
    if how == "junk":
        return draw(st.sampled_from([b"", b"\x00", b"\xff\xfe{}", b"{}{}", b"[" * 300, b'{"a":1,"a":2}', b" null "]))
    tree = json.loads(data)
    place = tree
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key: Any = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and draw(st.booleans()):
            place = place[key]
            continue
        match draw(st.sampled_from(["drop", "rename", "retype", "text"])):
            case "drop":
                del place[key]
            case "rename" if isinstance(place, dict):
                place[draw(st.sampled_from([*NAMES, "A", "fieldC", "new"]))] = place.pop(key)
            case "text":
                place[key] = str(place[key])
            case _:
                place[key] = draw(json_values)
        break
    return json.dumps(tree).encode()


@slowly(max_examples=250)
@given(samples(), st.data())
def test_takes_and_refuses_what_the_class_takes_and_refuses(sample: Sample, data: st.DataObject) -> None:
    codec = codec_of(sample)
    if codec is None:
        return
    written = reference_encode(sample.value)
    if written is REFUSED:
        return
    for _ in range(3):
        mutated = data.draw(hostile(written))
        assert same(decode(codec, mutated), reference_decode(codec.model, mutated))


@st.composite
def alias_soups(draw: st.DrawFn) -> type[BaseModel]:
    """Draw a class of fields whose names and aliases meet in every way."""
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        options = dict(draw(alias_soup))
        if draw(st.booleans()):
            options |= {"default": -1, "exclude": draw(st.booleans())}
        elif draw(st.integers(0, 9)) == 0:
            options["exclude"] = True
        fields[name] = (Any, Field(**options))
    config = ConfigDict(extra=draw(st.sampled_from(["ignore", "forbid", "allow"])))
    return create_model("Soup", __config__=config, **fields)


@slowly(max_examples=400)
@given(alias_soups())
def test_a_class_is_refused_exactly_if_it_cannot_read_its_dump(model: type[BaseModel]) -> None:
    fields = model.model_fields
    value = model.model_construct()
    for at, (name, field) in enumerate(fields.items()):
        # A dict, so that a path finds something in it; no two are equal.
        value.__dict__[name] = -1 if field.exclude else {"in": at}
    written = reference_encode(value)
    read = reference_decode(model, written)
    readable = read is not REFUSED and vars(read) == vars(value)
    try:
        Codec(model)
    except ModelError as error:
        assert not readable, error
    else:
        assert readable


def test_an_instance_of_a_subclass_is_written_as_the_class() -> None:
    class Secret(Rich):
        password_hash: str = "leaked"

    value = Secret(name="n", inner=Address(street="s", postCode="p"))
    assert b"leaked" in Codec(Secret).encode(value)
    written = Codec(Rich).encode(value)
    assert canonical(written) == canonical(b'{"name":"n","inner":{"street":"s","postCode":"p"}}')


@pytest.mark.parametrize("depth", [50, 150, 240, 400])
def test_depth_is_refused_as_pydantic_refuses_it(depth: int) -> None:
    node = Node(value=0)
    for value in range(depth):
        node = Node.model_construct(value=value, next=node, children=[])
    codec = Codec(Node)
    written = encode(codec, node)
    assert written == reference_encode(node)
    if written is not REFUSED:
        assert same(decode(codec, written), reference_decode(Node, written))
