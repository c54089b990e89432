"""Key fields to subject tokens and back, and filters over any subset of them.

A raw key is the tokens of the prefix, then one token per key field, joined by dots. The encoding is injective both
ways: two tuples never share a raw key, and a token that does not encode back to itself is no key of the model.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum, Flag
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import pydantic
from typing_extensions import TypeAliasType

from kvorm.entry import Key
from kvorm.errors import InvalidKeyError, ModelError

MAX_RAW_KEY_BYTES = 1024
"""The longest raw key, on every store. The server's own limit is its control line of 4,096 bytes (hazard H25)."""

_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_/-]+")
_OTHER_BYTE = re.compile(rb"[^A-Za-z0-9_/-]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_call = cast("Callable[[Callable[[Any], str], Any], str]", operator.call)
_PREFIX = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_-]*(\.[A-Za-z0-9-][A-Za-z0-9_-]*)*")


def encode_token(text: str) -> str:
    """Return `text` as one subject token: plain characters as they are, each other byte of its UTF-8 as `=XX`.

    Raises:
        ValueError: the text has no UTF-8 form (lone surrogates).
    """
    if _PLAIN_TOKEN.fullmatch(text):
        return text
    if not text:
        return "="
    return _OTHER_BYTE.sub(lambda match: b"=%02X" % ord(match[0]), text.encode()).decode()


def decode_token(token: str) -> str:
    """Return the text of a token; the caller checks that it encodes back to the same token.

    Raises:
        ValueError: the escaped bytes are not UTF-8.
    """
    if "=" not in token:
        return token
    if token == "=":
        return ""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), token).encode("latin-1").decode()


def join_tokens(tokens: Sequence[str]) -> str:
    """Return the raw key of encoded tokens.

    A leading `_` of the whole raw key is escaped: raw keys beginning with `_` belong to kvorm itself.
    """
    raw_key = ".".join(tokens)
    return "=5F" + raw_key[1:] if raw_key.startswith("_") else raw_key


def split_prefix(prefix: Any) -> tuple[str, ...]:
    """Return the tokens of a model's prefix.

    Raises:
        ModelError: it is not one or more dot-separated tokens of `[A-Za-z0-9-][A-Za-z0-9_-]*`.
    """
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise ModelError(
            f"prefix={prefix!r} is not a prefix: write one or more tokens of letters, digits, '-' and '_' "
            f"(not first), joined by dots, for example prefix='account' or prefix='shop.account'"
        )
    return tuple(prefix.split("."))


_NOTHING = "(?!)"


@dataclass(frozen=True, slots=True)
class KeyField:
    """One key field: its name, and its values as text and back.

    `to_text` raises ValueError for a value that is not of the field's kind; `from_text` for a text that is none of
    its values, and may accept a text that is not canonical: the caller compares by encoding it again. `plain` is a
    regular expression of texts that are canonical and stand for themselves in a token; it need not match all of them.
    """

    name: str
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]
    plain: str = _NOTHING


class KeyShape:
    """How the keys of one model look on the wire: the prefix and the key fields in their order."""

    def __init__(self, prefix: Sequence[str], fields: Sequence[KeyField]) -> None:
        self.prefix = tuple(prefix)
        self.fields = tuple(fields)
        self._to_text = tuple(field.to_text for field in fields)
        self._from_text = tuple(field.from_text for field in fields)
        self._start = "".join(f"{token}." for token in prefix)
        self.plain = self._plain_spelling()
        """Matches raw keys that need no decoding, each as its only spelling: a group for each field."""
        self._is_plain = self.plain.fullmatch
        self.are_texts = all(field.from_text is str for field in fields)
        """Whether the texts of all fields are their values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyShape):
            return NotImplemented
        return self.prefix == other.prefix and self._names() == other._names()

    def __hash__(self) -> int:
        return hash((self.prefix, self._names()))

    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def length(self) -> int:
        """The number of tokens of each raw key."""
        return len(self.prefix) + len(self.fields)

    def values(self, texts: tuple[str, ...]) -> Key:
        """Return the values that the texts of all key fields stand for.

        Raises:
            ValueError: one stands for none of its field's values.
        """
        if self.are_texts:
            return texts
        return tuple([from_text(text) for from_text, text in zip(self._from_text, texts, strict=True)])

    def raw_key(self, key: Key) -> str:
        """Return the raw key of the values of all key fields.

        Raises:
            InvalidKeyError: a value is not of its field's kind, has no UTF-8 form, or the raw key is too long.
        """
        assert len(key) == len(self.fields), key
        try:
            texts = list(map(_call, self._to_text, key))
            # Most texts stand for themselves; one with a dot would make a token too many.
            plain_key = self._start + ".".join(texts)
            if self._is_plain(plain_key) and len(plain_key) <= MAX_RAW_KEY_BYTES:
                return plain_key
            tokens = [encode_token(text) for text in texts]
        except ValueError:
            tokens = [self._token(field, value, key) for field, value in zip(self.fields, key, strict=True)]
        raw_key = join_tokens([*self.prefix, *tokens] if self.prefix else tokens)
        if len(raw_key) > MAX_RAW_KEY_BYTES:
            raise InvalidKeyError(
                f"the raw key of {key!r} has {len(raw_key)} bytes, at most {MAX_RAW_KEY_BYTES} are allowed: "
                f"use shorter key fields, or a digest of the long one",
                key=key,
            )
        return raw_key

    def texts(self, raw_key: str) -> list[str] | None:
        """Return the text of each key field, or None if the raw key has another shape."""
        tokens = raw_key.split(".")
        start = len(self.prefix)
        if len(tokens) != self.length or tuple(tokens[:start]) != self.prefix:
            return None
        try:
            return [decode_token(token) for token in tokens[start:]]
        except ValueError:
            return None

    def _plain_spelling(self) -> re.Pattern[str]:
        fields = "".join(f"\\.({field.plain})" for field in self.fields)
        prefix = "".join(f"\\.{token}" for token in self.prefix)
        return re.compile(f"(?!_){prefix}{fields}".replace("\\.", "", 1))

    def filter(self, values: Mapping[str, object]) -> str:
        """Return the subject filter for the keys with these values; fields not named match anything.

        Raises:
            InvalidKeyError: as `raw_key`.
        """
        shown = tuple(values.values())
        tokens = [
            self._token(field, values[field.name], shown) if field.name in values else "*" for field in self.fields
        ]
        return join_tokens([*self.prefix, *tokens])

    def overlaps(self, other: KeyShape) -> bool:
        """Whether a raw key of one could be a raw key of the other."""
        common = min(len(self.prefix), len(other.prefix))
        if self.prefix == other.prefix or not common:
            return True
        return self.length == other.length and self.prefix[:common] == other.prefix[:common]

    def _token(self, field: KeyField, value: object, key: object) -> str:
        try:
            return encode_token(field.to_text(value))
        except ValueError as error:
            raise InvalidKeyError(f"{value!r} cannot be the key field {field.name!r}: {error}", key=key) from error


def key_field(name: str, annotation: Any) -> KeyField:
    """Return how values of an annotated key field travel.

    Raises:
        ModelError: values of this type have no single text; the message says why and what to use.
    """
    kind = _bare_type(annotation)
    if get_origin(kind) is Literal:
        return _member_field(name, _literal_members(get_args(kind)))
    if isinstance(kind, type):
        if issubclass(kind, Enum):
            return _enum_field(name, kind)
        for base, (to_text, from_text, plain) in _KINDS.items():
            if issubclass(kind, base):
                return KeyField(name, to_text, from_text, plain)
    raise ModelError(
        f"key field {name!r} is annotated {annotation!r}: {_why_not(kind)}. Key fields are str, int, bool, UUID, Enum, "
        f"Literal, date or aware datetime, and subclasses and aliases of these"
    )


def _bare_type(annotation: Any) -> Any:
    """Strip Annotated, NewType and type aliases."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif _is_alias(annotation):
            annotation = annotation.__value__
        elif _is_alias(origin):
            annotation = origin.__value__[get_args(annotation)]
        else:
            return _PYDANTIC_KINDS.get(annotation, annotation) if isinstance(annotation, type) else annotation


def _is_alias(annotation: Any) -> bool:
    # typing.TypeAliasType exists from Python 3.12 on and may be another class than typing_extensions' own.
    return isinstance(annotation, TypeAliasType) or type(annotation).__name__ == "TypeAliasType"


# Type checkers see these as Annotated, at run time they are classes.
_PYDANTIC_KINDS: dict[Any, type] = {
    pydantic.AwareDatetime: datetime,
    pydantic.PastDatetime: datetime,
    pydantic.FutureDatetime: datetime,
    pydantic.PastDate: date,
    pydantic.FutureDate: date,
    pydantic.EmailStr: str,
}


def _str_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("it is not a str")
    return str.__str__(value)


def _int_text(value: object) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("it is not an int")
    return int.__repr__(value)


def _bool_text(value: object) -> str:
    if not isinstance(value, bool):
        raise ValueError("it is not a bool")
    return "true" if value else "false"


def _bool_value(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"{text!r} is neither 'true' nor 'false'")
    return text == "true"


def _uuid_text(value: object) -> str:
    if not isinstance(value, UUID):
        raise ValueError("it is not a UUID")
    return str(value)


def _date_text(value: object) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("it is not a date")
    return date.isoformat(value)


def _datetime_text(value: object) -> str:
    if not isinstance(value, datetime):
        raise ValueError("it is not a datetime")
    if value.utcoffset() is None:
        raise ValueError("it has no time zone; give an aware datetime, for example datetime.now(UTC)")
    try:
        utc = value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("in UTC it is outside the years 1 to 9999") from error
    return utc.replace(tzinfo=None).isoformat() + "Z"


# bool before int and datetime before date, their bases.
_KINDS: dict[type, tuple[Callable[[Any], str], Callable[[str], Any], str]] = {
    bool: (_bool_text, _bool_value, "true|false"),
    int: (_int_text, int, "0|-?[1-9][0-9]*"),
    str: (_str_text, str, "[A-Za-z0-9_/-]+"),
    UUID: (_uuid_text, UUID, "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    datetime: (_datetime_text, datetime.fromisoformat, _NOTHING),
    date: (_date_text, date.fromisoformat, _NOTHING),
}


def _literal_members(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return each member of a Literal with the plain value that travels for it."""
    members: list[tuple[Any, Any]] = []
    for value in values:
        if get_origin(value) is Literal or _is_alias(value):
            members += _literal_members(get_args(_bare_type(value)))
        else:
            members.append((value, value.value if isinstance(value, Enum) else value))
    return members


def _enum_field(name: str, kind: type[Enum]) -> KeyField:
    if issubclass(kind, Flag):
        raise ModelError(f"key field {name!r}: combinations of {kind.__name__} have no value of their own; use an Enum")
    return _member_field(name, [(member, member.value) for member in kind])


def _member_field(name: str, members: Sequence[tuple[Any, Any]]) -> KeyField:
    texts: dict[tuple[type, Any], str] = {}
    by_text: dict[str, Any] = {}
    for member, value in members:
        if not isinstance(value, str | int):
            raise ModelError(
                f"key field {name!r}: the member {member!r} is not a str, int or bool and has no single text"
            )
        text = _bool_text(value) if isinstance(value, bool) else _int_text(value) if isinstance(value, int) else value
        if by_text.setdefault(text, member) != member or type(by_text[text]) is not type(member):
            raise ModelError(
                f"key field {name!r}: its members {by_text[text]!r} and {member!r} would share the key {text!r}; "
                f"rename one of them"
            )
        # `use_enum_values` keeps the plain value on the object.
        texts[type(member), member] = texts[type(value), value] = text

    def to_text(value: object) -> str:
        try:
            return texts[type(value), value]
        except (KeyError, TypeError):
            raise ValueError(f"it is none of {sorted(by_text)}") from None

    def from_text(text: str) -> object:
        if text not in by_text:
            raise ValueError(f"{text!r} is none of {sorted(by_text)}")
        return by_text[text]

    return KeyField(name, to_text, from_text)


def _why_not(kind: Any) -> str:
    if isinstance(kind, TypeVar):
        return "a type variable is open; parametrise the generic model first, for example Box[int]"
    if get_origin(kind) in {Union, UnionType}:
        if NoneType in get_args(kind):
            return "a key field always has a value; leave None out"
        return "members of a union could share a text (1 and '1')"
    if kind is float or kind is complex:
        return "equal numbers have many texts; use int or str"
    if isinstance(kind, type) and issubclass(kind, bytes | bytearray):
        return "bytes are no text; use their hex or base64 as str"
    if kind is pydantic.NaiveDatetime:
        return "a time without a zone names no moment; use an aware datetime"
    return "its values have no single text"


def matches(subject_filter: str, raw_key: str) -> bool:
    """Whether a raw key lies in a filter, whose `*` stands for one token and whose last `>` for all further ones."""
    wanted, tokens = subject_filter.split("."), raw_key.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        tokens = tokens[: len(wanted)] if len(tokens) > len(wanted) else []
    return len(wanted) == len(tokens) and all(one in ("*", other) for one, other in zip(wanted, tokens, strict=True))


def matches_any(filters: Sequence[str], raw_key: str) -> bool:
    """Whether a raw key lies in one of these filters."""
    return any(matches(one, raw_key) for one in filters)
