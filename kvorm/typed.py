"""Bytes with their place become typed entries, and refused writes become the user's errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from msgspec.structs import replace
from pydantic import BaseModel

from kvorm.backends import message
from kvorm.backends.base import BucketHandle, RawChange, RawEntry, RawMarker, RefusedError
from kvorm.codec import CodecFailure
from kvorm.entry import ABSENT, Entry, Expect, Key, Marker
from kvorm.errors import (
    ConflictError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    KeyExistsError,
    KeyNotFoundError,
    RevisionMismatchError,
)
from kvorm.model import CompiledMapping
from kvorm.stamp import Stamp, set_stamp, stamp_of

M = TypeVar("M", bound=BaseModel)

OnInvalid: TypeAlias = Literal["raise", "skip"] | Callable[[DecodeError], object]
"""What to do with a value that does not decode: raise it, log and leave it out, or tell a function and leave it out."""

_SCHEMA: Final = 1
_log = logging.getLogger("kvorm")


class Typed(Generic[M]):
    """One model's entries in one opened bucket."""

    def __init__(self, mapping: CompiledMapping[M], handle: BucketHandle) -> None:
        self.mapping = mapping
        self.handle = handle
        self.bucket = handle.settings.name
        self.incarnation = handle.incarnation

    def encode(self, value: M) -> tuple[str, bytes]:
        """Return an object's raw key and its bytes, proven to read back under the same key.

        Raises:
            InvalidKeyError: no key can be formed from its key fields.
            EncodeError: it is not a valid instance of its own class.
        """
        if not self.mapping.is_instance(value):
            raise self._not_valid(value, None, f"it is no {self.mapping.model.__name__}")
        raw_key = self.mapping.raw_key_of(value)
        try:
            data, read_back = self.mapping.codec.prove(value)
            stored_key = raw_key if read_back is value else self.mapping.raw_key_of(read_back)
        except (CodecFailure, InvalidKeyError) as error:
            raise self._not_valid(value, raw_key, str(error)) from error
        if stored_key != raw_key:
            raise self._not_valid(value, raw_key, f"read back, its key fields would say {stored_key!r}")
        return raw_key, data

    def change(self, raw: RawChange) -> Entry[M] | Marker:
        """Return an entry, its value stamped, or a marker.

        Raises:
            DecodeError: the bytes are no valid value of the model under this key.
        """
        return self.entry(raw) if isinstance(raw, RawEntry) else self.marker(raw)

    def marker(self, raw: RawMarker) -> Marker:
        """Return a marker with the key it stands for."""
        key = self.mapping.key(raw.raw_key) or ()
        return Marker(key, raw.reason, raw.revision, raw.written, raw.raw_key, self.bucket, self.incarnation)

    def entry(self, raw: RawEntry) -> Entry[M]:
        """Return an entry, its value stamped.

        Raises:
            DecodeError: as `change`.
        """
        value, key = self._read(raw)
        return Entry(value, raw.revision, raw.written, key, raw.raw_key, self.bucket, self.incarnation)

    def value(self, raw: RawEntry) -> M:
        """Return the stamped value alone.

        Raises:
            DecodeError: as `change`.
        """
        value, _ = self._read(raw)
        return value

    def stamp(self, value: M, raw_key: str, revision: int, *, erased: bool = False) -> None:
        """Let an object remember where and at which revision it is stored, or was erased."""
        set_stamp(value, Stamp(self.incarnation, self.bucket, raw_key, revision, erased))

    def expectation(self, value: M, raw_key: str) -> Expect:
        """Return what a write of this object expects: the revision it carries, if that was read right here."""
        stamp = self._own_stamp(value, raw_key)
        return ABSENT if stamp is None or stamp.revision is None else stamp.revision

    def is_own(self, raw: RawChange | None, value: M) -> bool:
        """Whether a change was written by this very object, in a write that it knows no outcome of."""
        if raw is None or raw.operation_id is None:
            return False
        stamp = self._own_stamp(value, raw.raw_key)
        return stamp is not None and raw.operation_id in stamp.open_operations

    def leave_open(self, value: M, raw_key: str, operation_id: str) -> None:
        """Let an object remember a write of which nobody told whether it is stored."""
        stamp = self._own_stamp(value, raw_key) or Stamp(self.incarnation, self.bucket, raw_key, None)
        set_stamp(value, replace(stamp, open_operations=(*stamp.open_operations, operation_id)))

    def _own_stamp(self, value: M, raw_key: str) -> Stamp | None:
        """Return the stamp of an object that was read or written right here, under this key."""
        stamp = stamp_of(value)
        if stamp is None or stamp.raw_key != raw_key:
            return None
        return stamp if stamp.bucket == self.bucket and stamp.incarnation == self.incarnation else None

    def live(self, raw: RawChange | None, raw_key: str) -> RawEntry:
        """Return what was found as an entry.

        Raises:
            KeyNotFoundError: nothing is there, or a marker.
        """
        if isinstance(raw, RawEntry):
            return raw
        raise self.not_found(raw, raw_key)

    def not_found(self, raw: RawMarker | None, raw_key: str, *, revision: int | None = None) -> KeyNotFoundError:
        """Return the error for a key, or a revision of it, that has no value."""
        marker = self.marker(raw) if raw is not None else None
        what = f"{self.bucket}/{raw_key}" + (f" at revision {revision}" if revision is not None else "")
        if marker is not None:
            told = f"{what} was {marker.reason} at {marker.written:%Y-%m-%d %H:%M:%S} UTC (revision {marker.revision})"
            return KeyNotFoundError(told, bucket=self.bucket, key=raw_key, marker=marker)
        hint = "; it was pushed out of the history, or is another key's" if revision is not None else ""
        return KeyNotFoundError(f"{what} does not exist{hint}", bucket=self.bucket, key=raw_key)

    def conflict(self, refused: RefusedError, raw_key: str, expected: Expect) -> ConflictError:
        """Return the error that tells what was expected, what is there, and what to do."""
        raw = refused.current
        current: Entry[M] | Marker | DecodeError | None
        try:
            current = None if raw is None else self.change(raw)
        except DecodeError as error:
            current = error
        where = f"{self.bucket}/{raw_key}"
        there = "nothing is there" if raw is None else f"its latest revision is {raw.revision}"
        if isinstance(raw, RawMarker):
            there += f" ({raw.reason})"
        if expected is ABSENT:
            return KeyExistsError(
                f"{where} exists already: {there}. The object carries no revision of it (it was made anew, or parsed "
                f"again): get() the entry and change that, or use get_or_create(), update() or expect=",
                bucket=self.bucket,
                key=raw_key,
                expected=expected,
                current=current,
            )
        return RevisionMismatchError(
            f"{where} is not at revision {expected} any more: {there}. Somebody else wrote since it was read: get() it "
            f"again and decide anew, or let update() do that",
            bucket=self.bucket,
            key=raw_key,
            expected=expected,
            current=current,
        )

    def _read(self, raw: RawEntry) -> tuple[M, Key]:
        if raw.headers:
            self._check_headers(raw)
        mapping, raw_key = self.mapping, raw.raw_key
        try:
            value = mapping.codec.decode(raw.data)
            key = mapping.key_of(value)
            stored_key = raw_key if mapping.spells(raw_key, key) else mapping.shape.raw_key(key)
        except (CodecFailure, InvalidKeyError) as error:
            raise self._undecodable(raw, str(error)) from error
        if stored_key != raw_key:
            raise self._undecodable(raw, f"its own key fields say {stored_key!r}")
        set_stamp(value, Stamp(self.incarnation, self.bucket, raw_key, raw.revision))
        return value, key

    def _check_headers(self, raw: RawEntry) -> None:
        codec = raw.headers.get(message.CODEC)
        if codec is not None:
            raise self._undecodable(raw, f"it was written with the codec {codec!r}, which this kvorm does not know")
        schema = raw.headers.get(message.SCHEMA, str(_SCHEMA))
        if schema != str(_SCHEMA):
            raise self._undecodable(raw, f"it has schema version {schema}, this reader knows version {_SCHEMA}")

    def _undecodable(self, raw: RawEntry, reason: str) -> DecodeError:
        return DecodeError(bucket=self.bucket, key=raw.raw_key, revision=raw.revision, data=raw.data, reason=reason)

    def _not_valid(self, value: object, raw_key: str | None, reason: str) -> EncodeError:
        where = f"{self.bucket}/{raw_key}" if raw_key is not None else self.bucket
        return EncodeError(
            f"{where}: this {type(value).__name__} could not be read back, nothing was sent: {reason}. Build and "
            f"change objects through validation (the constructor, validate_assignment), not around it",
            bucket=self.bucket,
            key=raw_key,
            reason=reason,
        )


def left_out(error: DecodeError, on_invalid: OnInvalid) -> None:
    """Do with a value that does not decode what the caller said.

    Raises:
        DecodeError: the caller said "raise".
    """
    if on_invalid == "raise":
        raise error
    if on_invalid == "skip":
        _log.warning("left out: %s", error)
    else:
        on_invalid(error)
