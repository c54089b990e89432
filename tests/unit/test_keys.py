"""Keys on the wire, by example; `tests/property/test_keys.py` looks at all the others."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Literal
from uuid import UUID

import pydantic
import pytest

from kvorm import InvalidKeyError, Key, MemoryStore, Model, ModelError
from kvorm.keys import (
    MAX_RAW_KEY_BYTES,
    KeyShape,
    decode_token,
    encode_token,
    key_field,
    matches,
    split_prefix,
)
from kvorm.model import compile_model

TOKENS = [
    ("acme", "acme"),
    ("A-z_0/9", "A-z_0/9"),
    ("", "="),
    ("=", "=3D"),
    ("a.b", "a=2Eb"),
    ("*", "=2A"),
    (">", "=3E"),
    ("a b", "a=20b"),
    ("a:b", "a=3Ab"),
    ("é", "=C3=A9"),
    ("日", "=E6=97=A5"),
    ("😀", "=F0=9F=98=80"),
    ("\x00\n\x7f", "=00=0A=7F"),
    ("=2E", "=3D2E"),
]


@pytest.mark.parametrize(("text", "token"), TOKENS)
def test_tokens(text: str, token: str) -> None:
    assert encode_token(text) == token
    assert decode_token(token) == text


@pytest.mark.parametrize("token", ["=C3", "=FF", "=E6=97", "=C0=80", "=ED=A0=80", "=F8=88=80=80=80"])
def test_tokens_that_are_no_utf8(token: str) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        decode_token(token)


def test_text_without_a_utf8_form_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_token("\ud800")


class Wide(Model, bucket="wide", prefix="shop.v1"):
    name: Key[str]
    number: Key[int]
    flag: Key[bool]
    id: Key[UUID]
    day: Key[date]
    at: Key[datetime]


ID = UUID("12345678-1234-5678-1234-567812345678")
KEY = ("a.b", -5, True, ID, date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC))
RAW_KEY = f"shop.v1.a=2Eb.-5.true.{ID}.2026-01-02.2026-01-02T03=3A04=3A05=2E000060Z"


def test_a_raw_key_is_the_prefix_and_a_token_for_each_field() -> None:
    mapping = compile_model(Wide)
    assert mapping.raw_key(KEY, {}) == RAW_KEY
    assert mapping.key(RAW_KEY) == KEY


def test_times_travel_in_utc() -> None:
    east = (*KEY[:5], datetime(2026, 1, 2, 5, 4, 5, 60, tzinfo=timezone(timedelta(hours=2))))
    assert compile_model(Wide).raw_key(east, {}) == RAW_KEY


@pytest.mark.parametrize(
    "raw_key",
    [
        "",
        "shop",
        "shop.v1",
        RAW_KEY + ".x",
        RAW_KEY.replace("shop", "Shop"),
        RAW_KEY.replace("shop.v1", "shop.v2"),
        RAW_KEY.removeprefix("shop."),
        RAW_KEY.replace("=2E", "=2e", 1),
        RAW_KEY.replace("a=2Eb", "=61=2Eb"),
        RAW_KEY.replace("a=2Eb", "a=2Eb="),
        RAW_KEY.replace("a=2Eb", ""),
        RAW_KEY.replace("a=2Eb", "=C0=AE"),
        RAW_KEY.replace("-5", "-05"),
        RAW_KEY.replace("-5", "+5"),
        RAW_KEY.replace("-5", "5_0"),
        RAW_KEY.replace("-5", "-0"),
        RAW_KEY.replace("-5", "5=2E0"),
        RAW_KEY.replace("-5", "=D9=A5"),
        RAW_KEY.replace("-5", "1" * 5000),
        RAW_KEY.replace("true", "True"),
        RAW_KEY.replace("true", "1"),
        RAW_KEY.replace("true", "yes"),
        RAW_KEY.replace(str(ID), str(ID).upper().replace("-", "")),
        RAW_KEY.replace(str(ID), ID.hex),
        RAW_KEY.replace(str(ID), f"=7B{ID}=7D"),
        RAW_KEY.replace("2026-01-02.", "20260102."),
        RAW_KEY.replace("2026-01-02.", "2026-W01-5."),
        RAW_KEY.replace("2026-01-02.", "1767312000."),
        RAW_KEY.replace("Z", "=2B00=3A00"),
        RAW_KEY.replace("Z", ""),
        RAW_KEY.replace("2026-01-02T03", "2026-01-02=2003"),
        RAW_KEY.replace("=2E000060", "=2E00006"),
        RAW_KEY.replace("=3A05=2E000060Z", "Z"),
        RAW_KEY.replace("2026-01-02T03", "2026-01-02t03"),
    ],
)
def test_other_raw_keys_are_no_keys_of_the_model(raw_key: str) -> None:
    assert raw_key != RAW_KEY
    assert compile_model(Wide).key(raw_key) is None


class Note(Model, bucket="notes"):
    id: Key[str]


@pytest.mark.parametrize(("text", "raw_key"), [("_x", "=5Fx"), ("_", "=5F"), ("x_", "x_"), ("__", "=5F_")])
def test_no_raw_key_begins_with_an_underscore(text: str, raw_key: str) -> None:
    assert compile_model(Note).raw_key((text,), {}) == raw_key
    assert compile_model(Note).key(raw_key) == (text,)
    assert compile_model(Note).filter({"id": text}) == raw_key
    if raw_key != text:
        assert compile_model(Note).key(text) is None


@pytest.mark.parametrize("raw_key", ["=5fx", "=5F=78", "a=5F", "a=5Fx", "=5", "=", "==", "=G0", "=5F=", "a=", "=61"])
def test_escapes_where_none_belong(raw_key: str) -> None:
    key = compile_model(Note).key(raw_key)
    assert key == (("",) if raw_key == "=" else None)


def test_an_underscore_may_begin_a_later_token() -> None:
    class Pair(Model, bucket="pairs"):
        a: Key[str]
        b: Key[str]

    assert compile_model(Pair).raw_key(("_a", "_b"), {}) == "=5Fa._b"
    assert compile_model(Pair).key("=5Fa._b") == ("_a", "_b")
    assert compile_model(Pair).key("=5Fa.=5Fb") is None


def test_a_raw_key_has_a_longest_size() -> None:
    mapping = compile_model(Note)
    assert len(mapping.raw_key(("x" * MAX_RAW_KEY_BYTES,), {})) == MAX_RAW_KEY_BYTES
    with pytest.raises(
        InvalidKeyError, match="has 1025 bytes, at most 1024 are allowed: use shorter key fields, or a digest"
    ) as raised:
        mapping.raw_key(("x" * (MAX_RAW_KEY_BYTES + 1),), {})
    assert raised.value.key == ("x" * (MAX_RAW_KEY_BYTES + 1),)
    assert mapping.key("x" * (MAX_RAW_KEY_BYTES + 1)) is None


# Filters


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "shop.v1.*.*.*.*.*.*"),
        ({"name": "*"}, "shop.v1.=2A.*.*.*.*.*"),
        ({"flag": False, "number": "7"}, "shop.v1.*.7.false.*.*.*"),
        ({"at": "2026-01-02T04:00:00+01:00"}, "shop.v1.*.*.*.*.*.2026-01-02T03=3A00=3A00Z"),
    ],
)
def test_filters_name_what_is_known(values: dict[str, object], expected: str) -> None:
    assert compile_model(Wide).filter(values) == expected


def test_a_filter_of_unknown_fields() -> None:
    with pytest.raises(InvalidKeyError, match=r"the key of Note is \(id\); 'title' is none of them"):
        compile_model(Note).filter({"title": "x"})


@pytest.mark.parametrize(
    ("subject_filter", "raw_key", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*.*", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "b.b", False),
        ("a.*", "a", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.c", False),
        ("*.b", "a.b", True),
    ],
)
def test_matching(subject_filter: str, raw_key: str, expected: bool) -> None:
    assert matches(subject_filter, raw_key) is expected


# Prefixes and fields


def test_a_prefix_is_split_into_tokens() -> None:
    assert split_prefix("account") == ("account",)
    assert split_prefix("shop.account-1.x_y") == ("shop", "account-1", "x_y")


@pytest.mark.parametrize("prefix", ["", "a..b", "_a", "a._b", "a b", "*", "a\n"])
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(ModelError, match=r"for example prefix='account' or prefix='shop.account'"):
        split_prefix(prefix)


def test_email_addresses_are_text() -> None:
    # Pydantic itself would ask for another package as soon as a model has such a field.
    field = key_field("mail", pydantic.EmailStr)
    assert KeyShape((), [field]).raw_key(("a@example.com",)) == "a=40example=2Ecom"


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (str, [b"a", 1, None]),
        (int, ["1", True, 1.0, None]),
        (bool, [1, "true", None]),
        (UUID, [str(ID), ID.hex, None]),
        (date, ["2026-01-02", datetime(2026, 1, 2, tzinfo=UTC), None]),
        (datetime, ["2026-01-02", date(2026, 1, 2), datetime(2026, 1, 2), None]),  # noqa: DTZ001
    ],
)
def test_values_of_another_kind_are_refused(annotation: Any, values: list[object]) -> None:
    """An object bent around validation may hold them."""
    shape = KeyShape((), [key_field("id", annotation)])
    for value in values:
        with pytest.raises(InvalidKeyError, match=r"cannot be the key field 'id': it (is not|has no)"):
            shape.raw_key((value,))


def test_members_are_named_where_none_is_meant() -> None:
    shape = KeyShape((), [key_field("size", Literal["s", "l"])])
    with pytest.raises(InvalidKeyError, match=r"'m' cannot be the key field 'size': it is none of \['l', 's'\]"):
        shape.raw_key(("m",))
    with pytest.raises(InvalidKeyError, match="it is none of"):
        shape.raw_key(([],))


class Loud(str):
    """A str that shows itself otherwise."""

    __slots__ = ()

    def __str__(self) -> str:
        return "loud!"


def test_a_subclass_of_str_is_its_own_text() -> None:
    assert KeyShape((), [key_field("id", str)]).raw_key((Loud("quiet"),)) == "quiet"


# Keys that are kvorm's own


async def test_raw_keys_of_kvorm_are_invisible() -> None:
    store = MemoryStore()
    notes = store.repository(Note)
    await notes.save(Note(id="_x"))
    log = store.server.find("notes").log
    for raw_key in ("_x", "_", "_index.a"):
        log.append(raw_key, b'{"id": "_x"}', {})
    assert [key async for key in notes.keys()] == [("_x",)]  # noqa: SIM118
    assert [note async for note in notes.find(id="_x")] == [Note(id="_x")]
    assert await notes.count() == 1
    assert await notes.get("_x") == Note(id="_x")
    assert [change.raw_key for change in await notes.history("_x")] == ["=5Fx"]
    async with notes.watch(history=True) as events:
        assert [getattr(await anext(events), "raw_key", None) for _ in range(2)] == ["=5Fx", None]
