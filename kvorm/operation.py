"""One operation on one opened bucket: the steps that reading and writing a single key are made of."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from pydantic import BaseModel

from kvorm.backends.base import Deadline, MarkReason, RawEntry, RawMarker, RefusedError
from kvorm.backends.message import new_operation_id
from kvorm.entry import ABSENT, Absent, Any_, Expect
from kvorm.errors import (
    ConflictError,
    InvalidKeyError,
    PermissionDeniedError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from kvorm.stamp import stamp_of
from kvorm.typed import Typed

M = TypeVar("M", bound=BaseModel)

Apply: TypeAlias = Callable[[M], M | Awaitable[M | None] | None]
"""Returns the new object, or changes the one it gets and returns None; sync or async."""

_FIRST_RETRY_SECONDS: Final = 0.002
_LONGEST_RETRY_SECONDS: Final = 0.25
# The server takes a larger expected revision for none at all, and stores the write.
_LAST_REVISION: Final = 2**63 - 1

OPEN: Final = (StoreTimeoutError, StoreClosedError, PermissionDeniedError, asyncio.CancelledError)
"""What may leave the outcome of a write open; its object keeps the operation id then."""


class Carried(Enum):
    """The type of `CARRIED`, which is its only member."""

    CARRIED = "what the object carries"


CARRIED: Final = Carried.CARRIED
"""Expect the revision that the object itself carries, or ABSENT if it carries none."""

_NO_REVISION: Final = (Absent, Any_, Carried)
"""What else than a revision a write may expect. A union spelled out in the check would be built for each write."""


class _OvertakenError(Exception):
    """Another writer was faster; apart from what `apply` itself may raise."""

    def __init__(self, conflict: ConflictError) -> None:
        super().__init__(conflict)
        self.conflict = conflict


class Operation(Generic[M]):
    """A handle on the bucket as it is now, the model's side of it, and a time budget."""

    def __init__(self, typed: Typed[M], deadline: Deadline) -> None:
        self.handle = typed.handle
        self.deadline = deadline
        self.typed = typed

    async def entry(self, raw_key: str, revision: int | None) -> RawEntry:
        """Return the latest entry of a key, or that of a revision.

        Raises:
            KeyNotFoundError: there is none.
        """
        if revision is None:
            return self.typed.live(await self.handle.get(raw_key, deadline=self.deadline), raw_key)
        check_revision("revision", revision)
        raw = await self.handle.get_revision(raw_key, revision, deadline=self.deadline)
        if not isinstance(raw, RawEntry):
            raise self.typed.not_found(raw, raw_key, revision=revision)
        return raw

    def expectation(self, value: M, raw_key: str, expect: Expect | Carried) -> Expect:
        """Return what a save of this object expects."""
        return self.typed.expectation(value, raw_key) if isinstance(expect, Carried) else expect

    async def save(self, value: M, expect: Expect | Carried) -> int:
        """Store an object and stamp it; return the new revision."""
        raw_key, data = self.typed.encode(value)
        first = expected = self.expectation(value, raw_key, expect)
        while True:
            try:
                return await self._put(value, raw_key, data, expected)
            except RefusedError as refused:
                if self.may_save_again(refused, value, expect):
                    expected = _revision(refused)
                elif first is ABSENT and expected is not ABSENT and not isinstance(refused.current, RawEntry):
                    expected = ABSENT  # what it had stored itself is gone again
                else:
                    raise self.typed.conflict(refused, raw_key, expected) from refused

    async def get_or_create(self, value: M) -> M:
        """Return what is stored under the object's key, or the object, stored now."""
        raw_key, data = self.typed.encode(value)
        raw = await self.handle.get(raw_key, deadline=self.deadline)
        if not isinstance(raw, RawEntry):
            try:
                await self._put(value, raw_key, data, ABSENT)
            except RefusedError as refused:
                # Another writer was faster; what it stored is the answer.
                raw = refused.current
            else:
                return value
        return self.typed.value(self.typed.live(raw, raw_key))

    async def update(self, raw_key: str, apply: Apply[M]) -> M:
        """Change what is stored and save it, again from the start whenever another writer was faster."""
        pauses = _retry_pauses()
        lost: ConflictError | None = None
        while True:
            try:
                return await self._update_once(raw_key, apply)
            except _OvertakenError as overtaken:
                lost, pause = overtaken.conflict, next(pauses)
                if self.deadline.remaining() <= pause + self._shortest_try():
                    raise lost from overtaken
            except StoreUnavailableError as error:
                # The time ended in the midst of a further try.
                if lost is not None and self.deadline.passed:
                    raise lost from error
                raise
            await asyncio.sleep(pause)

    async def restore(self, raw_key: str, revision: int) -> int:
        """Store the bytes of an older revision again; return the new one."""
        old = await self.entry(raw_key, revision)
        self.typed.value(old)
        latest = await self.handle.get(raw_key, deadline=self.deadline)
        expect = latest.revision if latest is not None else ABSENT
        try:
            return await self.handle.put(
                raw_key,
                old.data,
                expect=expect,
                headers=old.headers,
                operation_id=new_operation_id(),
                deadline=self.deadline,
            )
        except RefusedError as refused:
            raise self.typed.conflict(refused, raw_key, expect) from refused

    def may_save_again(self, refused: RefusedError, value: M, expect: Expect | Carried) -> bool:
        """Whether what is there was written by this very object, in an earlier write that it learned no outcome of."""
        return isinstance(expect, Carried) and self.typed.is_own(refused.current, value)

    async def mark_object(self, value: M, reason: MarkReason) -> int:
        """Delete or purge an object, checked against the revision it carries; return the marker's."""
        raw_key = self.typed.mapping.raw_key_of(value)
        expected = self.typed.expectation(value, raw_key)
        try:
            if isinstance(expected, Absent | Any_):
                current = await self.entry(raw_key, None)
                if not self.typed.is_own(current, value):
                    raise RefusedError(current)
                expected = current.revision
            elif (stamp := stamp_of(value)) is not None and stamp.erased:
                await self._check_not_erased(raw_key, expected, reason)
            revision = await self._mark(value, raw_key, reason, expected)
        except RefusedError as refused:
            raise self.typed.conflict(refused, raw_key, expected) from refused
        self.typed.stamp(value, raw_key, revision, erased=True)
        return revision

    async def mark_key(self, raw_key: str, reason: MarkReason) -> int:
        """Delete or purge whatever is there, again if another writer got between; return the marker's revision."""
        pauses = _retry_pauses()
        while True:
            current = await self.handle.get(raw_key, deadline=self.deadline)
            if current is None or (isinstance(current, RawMarker) and not _has_history(current, reason)):
                raise self.typed.not_found(current, raw_key)
            try:
                return await self.handle.mark(
                    raw_key,
                    reason,
                    expect=current.revision,
                    operation_id=new_operation_id(),
                    deadline=self.deadline,
                )
            except RefusedError as refused:
                pause = next(pauses)
                if self.deadline.remaining() <= pause + self._shortest_try():
                    raise StoreUnavailableError(
                        f"{self.typed.bucket}/{raw_key}: other writers were faster for "
                        f"{self.deadline.timeout.total_seconds():g} s; it was not {reason}"
                    ) from refused
            await asyncio.sleep(pause)

    def _shortest_try(self) -> float:
        """Return the seconds that a further try must have: cut short, its outcome would be unknown."""
        return self.deadline.timeout.total_seconds() / 10

    async def _update_once(self, raw_key: str, apply: Apply[M]) -> M:
        raw = await self.entry(raw_key, None)
        value = await _applied(apply, self.typed.value(raw))
        data = self._encode_same_key(value, raw_key)
        try:
            await self._put(value, raw_key, data, raw.revision)
        except RefusedError as refused:
            raise _OvertakenError(self.typed.conflict(refused, raw_key, raw.revision)) from refused
        return value

    async def _put(self, value: M, raw_key: str, data: bytes, expect: Expect) -> int:
        operation_id = new_operation_id()
        try:
            revision = await self.handle.put(
                raw_key, data, expect=expect, headers={}, operation_id=operation_id, deadline=self.deadline
            )
        except OPEN:
            self.typed.leave_open(value, raw_key, operation_id)
            raise
        self.typed.stamp(value, raw_key, revision)
        return revision

    async def _mark(self, value: M, raw_key: str, reason: MarkReason, expect: int) -> int:
        while True:
            operation_id = new_operation_id()
            try:
                return await self.handle.mark(
                    raw_key, reason, expect=expect, operation_id=operation_id, deadline=self.deadline
                )
            except RefusedError as refused:
                if not self.typed.is_own(refused.current, value):
                    raise
                expect = _revision(refused)
                if isinstance(refused.current, RawMarker) and refused.current.reason == reason:
                    return expect  # it was done already, and the object did not learn of it
            except OPEN:
                self.typed.leave_open(value, raw_key, operation_id)
                raise

    async def _check_not_erased(self, raw_key: str, expected: int, reason: MarkReason) -> None:
        """Refuse a marker over the object's own marker: it would say the same twice."""
        latest = await self.handle.get(raw_key, deadline=self.deadline)
        if isinstance(latest, RawMarker) and latest.revision == expected and not _has_history(latest, reason):
            raise self.typed.not_found(latest, raw_key)

    def _encode_same_key(self, value: M, raw_key: str) -> bytes:
        new_key, data = self.typed.encode(value)
        if new_key != raw_key:
            raise InvalidKeyError(
                f"apply changed the key from {raw_key!r} to {new_key!r}; save the object under its new key and delete "
                f"the old one instead",
                key=self.typed.mapping.key_of(value),
            )
        return data


def check_revision(option: str, revision: object, or_else: str = "", *, least: int = 1) -> None:
    """Refuse what is no revision.

    Raises:
        ValueError: it is no int from `least` on, or larger than the server can read.
    """
    if not isinstance(revision, int) or isinstance(revision, bool) or not least <= revision <= _LAST_REVISION:
        raise ValueError(f"{option}={revision!r} must be {or_else}a revision, an int from {least} on")


def check_expect(expect: Any) -> None:
    """Refuse what is no condition of a write.

    Raises:
        ValueError: it is neither ABSENT nor ANY nor a revision.
    """
    if not isinstance(expect, _NO_REVISION):
        check_revision("expect", expect, or_else="ABSENT, ANY or ")


def _revision(refused: RefusedError) -> int:
    return refused.current.revision if refused.current is not None else 0


def _has_history(marker: RawMarker, reason: MarkReason) -> bool:
    return reason == "purged" and marker.reason == "deleted"


async def _applied(apply: Apply[M], value: M) -> M:
    result = apply(value)
    if inspect.isawaitable(result):
        result = await result
    return value if result is None else result


def _retry_pauses() -> Iterator[float]:
    """Yield growing, jittered seconds to wait between two tries."""
    longest = _FIRST_RETRY_SECONDS
    while True:
        yield random.uniform(0, longest)
        longest = min(_LONGEST_RETRY_SECONDS, 2 * longest)
