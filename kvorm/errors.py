"""Every error that kvorm raises: classes are causes, attributes are typed, messages say what to do.

All of them survive pickling, so that they may cross a process pool or a task queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypeAlias

from kvorm.entry import Entry, Expect, Marker


def _rebuild(cls: type[KvormError], args: tuple[Any, ...], state: dict[str, Any]) -> KvormError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class KvormError(Exception):
    """The root of everything kvorm raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ModelError(KvormError):
    """A class is declared wrongly; the message says how to mend the declaration."""


class InvalidKeyError(KvormError, ValueError):
    """A key cannot be formed from what was given; nothing was sent.

    Attributes:
        key: what was given.
    """

    def __init__(self, message: str, *, key: object = None) -> None:
        super().__init__(message)
        self.key = key


class CodecError(KvormError):
    """A model could not become bytes, or bytes could not become a model."""


class EncodeError(CodecError):
    """The object is not a valid instance of its own class: it could not be read back. Nothing was sent.

    Attributes:
        bucket, key: where it was to be stored; `key` is the raw key, or None where none could be formed.
        reason: what is wrong with it.
    """

    def __init__(self, message: str, *, bucket: str, key: str | None, reason: str) -> None:
        super().__init__(message)
        self.bucket = bucket
        self.key = key
        self.reason = reason


class DecodeError(CodecError):
    """Stored bytes are not a valid model.

    Attributes:
        bucket, key: where they are stored; `key` is the raw key.
        revision: of the entry that does not decode.
        data: its bytes, untouched.
        reason: what is wrong with them.
    """

    def __init__(self, *, bucket: str, key: str, revision: int, data: bytes, reason: str) -> None:
        super().__init__(
            f"{bucket}/{key} at revision {revision} is not a valid value: {reason}. "
            f"Mend it by writing the key anew, or read on with on_invalid='skip'."
        )
        self.bucket = bucket
        self.key = key
        self.revision = revision
        self.data = data
        self.reason = reason


class NotFoundError(KvormError):
    """What was asked for is not there."""


class BucketNotFoundError(NotFoundError):
    """The bucket does not exist, or was deleted while in use.

    Attributes:
        bucket: its full name.
    """

    def __init__(self, message: str, *, bucket: str) -> None:
        super().__init__(message)
        self.bucket = bucket


class KeyNotFoundError(NotFoundError):
    """The key has no live value, or not the revision that was asked for.

    Attributes:
        bucket, key: where it was looked for; `key` is the raw key.
        marker: what says that it was deleted, purged or expired; None if nothing does.
    """

    def __init__(self, message: str, *, bucket: str, key: str, marker: Marker | None = None) -> None:
        super().__init__(message)
        self.bucket = bucket
        self.key = key
        self.marker = marker


Current: TypeAlias = "Entry[Any] | Marker | DecodeError | None"


class ConflictError(KvormError):
    """A write was refused because its expectation did not hold; nothing was stored.

    Attributes:
        bucket, key: where; `key` is the raw key.
        expected: the revision, or ABSENT.
        current: what is there, read when the write was refused: an Entry, a Marker, the DecodeError of a
            value that is not valid, or None.
    """

    def __init__(self, message: str, *, bucket: str, key: str, expected: Expect, current: Current) -> None:
        super().__init__(message)
        self.bucket = bucket
        self.key = key
        self.expected = expected
        self.current = current


class KeyExistsError(ConflictError):
    """ABSENT was expected and the key has a live value."""


class RevisionMismatchError(ConflictError):
    """A revision was expected and the key's latest is another."""


class BulkError(KvormError, ExceptionGroup[Exception]):
    """Some items of a call on many were not stored; each tells why.

    Attributes:
        saved: index of the item -> revision it is stored at.
        failed: index of the item -> why it is not.
    """

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        saved: Mapping[int, int] | None = None,
        failed: Mapping[int, Exception] | None = None,
    ) -> Self:
        """Make the group; `__init__` adds what belongs to the items."""
        return super().__new__(cls, message, exceptions)

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        saved: Mapping[int, int] | None = None,
        failed: Mapping[int, Exception] | None = None,
    ) -> None:
        super().__init__(message, exceptions)
        self.saved: Mapping[int, int] = dict(saved or {})
        self.failed: Mapping[int, Exception] = dict(failed or {})

    @classmethod
    def of(cls, *, saved: Mapping[int, int], failed: Mapping[int, Exception]) -> Self:
        """Return the error for a call whose items ended as told."""
        message = f"{len(failed)} of {len(failed) + len(saved)} items failed; see .failed by index"
        return cls(message, [failed[index] for index in sorted(failed)], saved, failed)

    def derive(self, excs: Sequence[Any], /) -> Any:
        """Return a group of some of the exceptions; what was saved stays told (for `split` and `except*`)."""
        kept = {index: error for index, error in self.failed.items() if error in excs}
        return BulkError(self.message, excs, self.saved, kept)


class ValueTooLargeError(KvormError):
    """The value is larger than the bucket or the server takes; nothing was sent.

    Attributes:
        bucket, key: where it was to be stored; `key` is the raw key.
        size, limit: bytes of the value, and how many may be stored.
    """

    def __init__(self, *, bucket: str, key: str, size: int, limit: int) -> None:
        super().__init__(
            f"{bucket}/{key}: the value has {size} bytes, {_most(limit)}. "
            f"Split it, or raise max_value_bytes of the bucket (and max_payload of the server)."
        )
        self.bucket = bucket
        self.key = key
        self.size = size
        self.limit = max(limit, 0)


def _most(limit: int) -> str:
    if limit > 0:
        return f"at most {limit} can be stored"
    return "at most 0 can be stored, because the headers of a write alone take all that a message may have"


class Difference(NamedTuple):
    """One setting of a bucket that is not what its declaration says."""

    declared: object
    actual: object


class BucketMismatchError(KvormError):
    """An existing bucket is not what its declaration says; nothing was changed.

    Attributes:
        bucket: its full name.
        differences: setting -> declared and actual value.
    """

    def __init__(self, message: str, *, bucket: str, differences: Mapping[str, Difference]) -> None:
        super().__init__(message)
        self.bucket = bucket
        self.differences = dict(differences)


class UnsupportedError(KvormError):
    """The server or the bucket cannot do this; the message says which version or setting can."""


class StoreError(KvormError):
    """The store could not do its work.

    Attributes:
        stored: raised by `load`: how many objects are stored for certain, from the first on; otherwise None.
    """

    stored: int | None = None


class StoreUnavailableError(StoreError):
    """The server could not be reached, or had no leader, for the whole time budget; nothing was stored."""


class StoreTimeoutError(StoreError):
    """No answer within the time budget. For a write: the outcome is unknown.

    Attributes:
        timeout: the budget that ended.
    """

    def __init__(self, message: str, *, timeout: timedelta) -> None:
        super().__init__(message)
        self.timeout = timeout


class PermissionDeniedError(StoreError):
    """Login, subject or inbox was refused.

    Attributes:
        subject: what may not be used; None if the login itself was refused.
    """

    def __init__(self, message: str, *, subject: str | None = None) -> None:
        super().__init__(message)
        self.subject = subject


class StoreClosedError(StoreError):
    """The store, or the connection it was given, is closed."""


__all__ = [
    "BucketMismatchError",
    "BucketNotFoundError",
    "BulkError",
    "CodecError",
    "ConflictError",
    "DecodeError",
    "Difference",
    "EncodeError",
    "InvalidKeyError",
    "KeyExistsError",
    "KeyNotFoundError",
    "KvormError",
    "ModelError",
    "NotFoundError",
    "PermissionDeniedError",
    "RevisionMismatchError",
    "StoreClosedError",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "UnsupportedError",
    "ValueTooLargeError",
]
