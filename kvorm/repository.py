"""Repository[T]: typed objects in one bucket, each save checked against the revision it was read at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, get_args, get_origin

from pydantic import BaseModel

from kvorm.backends.base import BucketHandle, Deadline, MarkReason, RawEntry, Replay
from kvorm.bucket import Bucket
from kvorm.bulk import Deletes, Load, Saves
from kvorm.entry import CaughtUp, Entry, Expect, Head, Key, Marker, Page
from kvorm.errors import (
    DecodeError,
    InvalidKeyError,
    ModelError,
)
from kvorm.feed import Feed, Start
from kvorm.follower import WhatOfInvalid
from kvorm.lists import Lists, check_limit, first_revision
from kvorm.model import CompiledMapping, Mapping, compile_model
from kvorm.operation import CARRIED, Apply, Carried, Operation, check_expect, check_revision
from kvorm.typed import OnInvalid, Typed, left_out
from kvorm.view import View
from kvorm.watch import Watch

M = TypeVar("M", bound=BaseModel)


class Buckets(Protocol):
    """What a repository needs of a store: its buckets, opened."""

    @property
    def timeout(self) -> timedelta:
        """The budget of one operation."""
        ...

    def claim(self, mapping: CompiledMapping[Any], bucket: str | None) -> Bucket:
        """Return the declaration of the bucket under its full name.

        Raises:
            ModelError: another model of this store has keys there that could be the same.
        """
        ...

    async def handle(self, bucket: Bucket, deadline: Deadline) -> BucketHandle:
        """Open the bucket as it is now, creating it at first use."""
        ...


class Repository(Generic[M]):
    """Typed objects of one class in one bucket.

    Every operation may raise StoreUnavailableError (nothing was stored), StoreTimeoutError (for a write: the outcome
    is unknown), PermissionDeniedError, StoreClosedError, BucketNotFoundError, BucketMismatchError (at first use) and
    UnsupportedError; each method names the others. Keys are passed by position or by field name and go through the
    key fields' own validation; InvalidKeyError says what is wrong with them before anything is sent.

    Args:
        model: a `Model`, or with `mapping` any Pydantic class.
        store: where it lives.
        mapping: what a plain class says about its storage.
        bucket: another bucket than the declared one, with the same settings.
        timeout: the whole budget of one operation, instead of the store's.

    Raises:
        ModelError: the class is declared wrongly, or clashes with another one of this store.
    """

    def __init__(
        self,
        model: type[M],
        store: Buckets,
        *,
        mapping: Mapping | None = None,
        bucket: str | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        self._mapping = compile_model(model, mapping)
        self._store = store
        self._bucket = store.claim(self._mapping, bucket)
        self._timeout = store.timeout if timeout is None else timeout
        self._typed: Typed[M] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.__name__}, bucket={self.bucket.name!r})"

    @property
    def model(self) -> type[M]:
        """The class of the objects."""
        return self._mapping.model

    @property
    def bucket(self) -> Bucket:
        """The bucket's declaration, under its full name."""
        return self._bucket

    # Reading one key

    async def get(self, *key: object, revision: int | None = None, **key_fields: object) -> M:
        """Return the latest live object, or that of an older `revision`.

        Raises:
            KeyNotFoundError: no live value, or that revision is not (any more) one of this key.
            DecodeError: the stored bytes are no valid object.
        """
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("get") as operation:
            return operation.typed.value(await operation.entry(raw_key, revision))

    async def get_or_none(self, *key: object, **key_fields: object) -> M | None:
        """Return the latest live object, or None.

        Raises:
            DecodeError: the stored bytes are no valid object.
        """
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("get") as operation:
            raw = await operation.handle.get(raw_key, deadline=operation.deadline)
            return operation.typed.value(raw) if isinstance(raw, RawEntry) else None

    async def entry(self, *key: object, revision: int | None = None, **key_fields: object) -> Entry[M]:
        """Return the latest live entry, or that of an older `revision`.

        Raises:
            KeyNotFoundError: no live value, or that revision is not (any more) one of this key.
            DecodeError: the stored bytes are no valid object.
        """
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("get") as operation:
            return operation.typed.entry(await operation.entry(raw_key, revision))

    async def exists(self, *key: object, **key_fields: object) -> bool:
        """Whether the key has a live value, valid or not."""
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("exists") as operation:
            return isinstance(await operation.handle.get(raw_key, deadline=operation.deadline), RawEntry)

    async def history(
        self, *key: object, on_invalid: OnInvalid = "raise", **key_fields: object
    ) -> list[Entry[M] | Marker]:
        """Return every kept entry and marker of the key as of one moment, oldest first; nothing for an unknown key.

        Raises:
            DecodeError: stored bytes are no valid object, and `on_invalid` is "raise".
        """
        raw_key = self._mapping.raw_key(key, key_fields)
        changes: list[Entry[M] | Marker] = []
        async with self._operation("history") as operation:
            for raw in await operation.handle.history(raw_key, deadline=operation.deadline):
                try:
                    changes.append(operation.typed.change(raw))
                except DecodeError as error:
                    left_out(error, on_invalid)
        return changes

    # Writing one key

    async def save(self, value: M, *, expect: Expect | Carried = CARRIED) -> int:
        """Store the object if nobody wrote its key since it was read; return the new revision.

        All or nothing. An object that was never read or stored here expects its key to be ABSENT. The new revision
        is stamped on the object; after an error the object is as it was.

        Args:
            value: an instance of the repository's class.
            expect: `ANY`, `ABSENT` or a revision, instead of what the object carries.

        Raises:
            KeyExistsError: ABSENT was expected and the key has a live value.
            RevisionMismatchError: a revision was expected and the latest is another.
            EncodeError: the object could not be read back as a valid one; nothing was sent.
            ValueTooLargeError: nothing was sent.
            ValueError: `expect` is none of the three.
        """
        check_expect(expect)
        async with self._operation("save") as operation:
            return await operation.save(value, expect)

    async def get_or_create(self, value: M) -> M:
        """Return what is stored under the object's key, or the object itself, stored now.

        Raises:
            DecodeError: the stored bytes are no valid object.
            EncodeError, ValueTooLargeError: the object cannot be stored; nothing was sent.
        """
        async with self._operation("get_or_create") as operation:
            return await operation.get_or_create(value)

    async def update(self, *key: object, apply: Apply[M], **key_fields: object) -> M:
        """Change what is stored and save it, again from the start whenever another writer was faster.

        `apply` gets the object as stored and returns the new one, or changes it in place and returns None; it may be
        async, may run several times and must keep the key. Returns the saved object.

        Raises:
            KeyNotFoundError: no live value.
            InvalidKeyError: `apply` changed a key field.
            RevisionMismatchError: other writers were faster until the time budget ended; nothing was stored.
            DecodeError, EncodeError, ValueTooLargeError: nothing was stored.
        """
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("update") as operation:
            return await operation.update(raw_key, apply)

    async def delete(self, *key: object, **key_fields: object) -> int:
        """Delete an object or a key, keeping its history; return the marker's revision.

        `delete(obj)` is checked against the revision of the object, like a save. `delete(*key)` deletes whatever is
        there now, again if another writer got between.

        Raises:
            KeyNotFoundError: nothing live is there; nothing was written.
            KeyExistsError: the object was never read here and the key is live.
            RevisionMismatchError: somebody wrote since the object was read.
        """
        return await self._mark("deleted", key, key_fields)

    async def purge(self, *key: object, **key_fields: object) -> int:
        """Delete an object or a key together with its history; return the marker's revision.

        As `delete`, but `purge(*key)` also erases the history of a deleted key.

        Raises:
            KeyNotFoundError: nothing is there to erase; nothing was written.
            KeyExistsError, RevisionMismatchError: as `delete`.
        """
        return await self._mark("purged", key, key_fields)

    async def restore(self, *key: object, revision: int, **key_fields: object) -> int:
        """Store the bytes of an older revision again, as a new one; return that.

        Raises:
            KeyNotFoundError: that revision is not (any more) an entry of this key.
            DecodeError: its bytes are no valid object; nothing was stored.
            RevisionMismatchError, KeyExistsError: somebody wrote meanwhile; nothing was stored.
        """
        check_revision("revision", revision)
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation("restore") as operation:
            return await operation.restore(raw_key, revision)

    # Many keys

    async def find(
        self,
        *,
        where: Callable[[M], object] | None = None,
        limit: int | None = None,
        on_invalid: OnInvalid = "raise",
        **key_fields: object,
    ) -> AsyncGenerator[M, None]:
        """Yield every live object whose key fields have these values; the server filters. In no order.

        Each key comes once. What is live from the start to the end is not missed, however often it is written
        meanwhile; nothing comes that was not live at some time in it. Some hundred objects are held at a time.

        Args:
            where: yield only objects for which this is true. A scan on this side: each value is moved and decoded.
            limit: yield no more than so many.
            on_invalid: what to do with a value that does not decode.
            key_fields: any of them.

        Raises:
            DecodeError: stored bytes are no valid object, and `on_invalid` is "raise".
            BucketNotFoundError: also where the bucket was made anew meanwhile.
            ValueError: `limit` is no int from 1 on.
        """
        lists, left = self._lists("find", key_fields), _as_limit(limit)
        # With `where` nobody knows how many must be looked at.
        async with aclosing(lists.entries(limit if where is None else None)) as portions:
            async for typed, entries in portions:
                for raw in entries:
                    value = lists.value(typed, raw, on_invalid)
                    if value is not None and (where is None or where(value)):
                        yield value
                        if left is not None:
                            left -= 1
                            if not left:
                                return

    async def keys(
        self, *, where: Callable[[Key], object] | None = None, limit: int | None = None, **key_fields: object
    ) -> AsyncGenerator[Key, None]:
        """Yield the key of every live entry whose key fields have these values: what `get(*key)` takes.

        Exact as `find`. No values are moved.

        Args:
            where: yield only keys for which this is true; told on this side.
            limit: yield no more than so many.
            key_fields: any of them.

        Raises:
            ValueError: `limit` is no int from 1 on.
        """
        left = _as_limit(limit)
        async with aclosing(self._lists("keys", key_fields).keys()) as portions:
            async for portion in portions:
                keys = portion if where is None else [key for key in portion if where(key)]
                for key in keys[:left]:
                    yield key
                if left is not None:
                    left -= len(keys)
                    if left <= 0:
                        return

    async def heads(self, **key_fields: object) -> AsyncGenerator[Head, None]:
        """Yield every live entry without its value: key, revision, when it was written, and size. As `keys`."""
        lists = self._lists("heads", key_fields)
        async with aclosing(lists.heads()) as portions:
            async for heads in portions:
                for raw in heads:
                    head = lists.head(raw, self._bucket.name)
                    if head is not None:
                        yield head

    async def count(self, **key_fields: object) -> int:
        """Return how many live entries have these key fields: exact as `keys`, and no values are moved."""
        return await self._lists("count", key_fields).count()

    async def page(
        self, *, limit: int, after: int | None = None, on_invalid: OnInvalid = "raise", **key_fields: object
    ) -> Page[M]:
        """Return some of the live entries, in the order of their revisions: a page of a listing.

        The next page begins behind this one's `.after`; the last one has None there. Of all pages together: an entry
        that is not written meanwhile comes once, one that is written may come again on a later page.

        Args:
            limit: the most entries on the page.
            after: the `.after` of the page before; None for the first.
            on_invalid: what to do with a value that does not decode.
            key_fields: any of them.

        Raises:
            DecodeError: stored bytes are no valid object, and `on_invalid` is "raise".
            ValueError: `limit` is no int from 1 on, or `after` no revision.
        """
        check_limit(limit)
        return await self._lists("page", key_fields).page(limit, first_revision(after), on_invalid)

    async def get_many(self, keys: Iterable[Key], *, on_invalid: OnInvalid = "raise") -> list[M | None]:
        """Return the latest live object of each key, in the order asked; None where there is none.

        Raises:
            DecodeError: stored bytes are no valid object, and `on_invalid` is "raise"; otherwise None stands there.
        """
        raw_keys = [self._mapping.raw_key(_as_key(key), {}) for key in keys]
        found: list[M | None] = []
        async with self._operation("get_many") as operation:
            for raw in await operation.handle.get_many(raw_keys, deadline=operation.deadline):
                value: M | None = None
                try:
                    value = operation.typed.value(raw) if isinstance(raw, RawEntry) else None
                except DecodeError as error:
                    left_out(error, on_invalid)
                found.append(value)
        return found

    async def save_many(self, values: Iterable[M], *, expect: Expect | Carried = CARRIED) -> list[int]:
        """Save each object, many under way at a time; return their revisions in order.

        Each is checked, validated and stamped as by `save`, as soon as its outcome is known, and has the whole time
        budget from when it is sent. Once the store is found unreachable, those not yet sent are not sent.

        Raises:
            BulkError: some were not stored; the others are. Where two have the same key, nothing was sent.
        """
        check_expect(expect)
        async with self._operation("save_many") as operation:
            return await Saves(operation, values, partial(self._operation, "save"), expect).run()

    async def delete_many(self, items: Iterable[M | Key]) -> list[int]:
        """Delete objects or keys (tuples of key fields), many at a time; return the markers' revisions in order.

        Each is checked and stamped as by `delete`, with the time budget of `save_many`.

        Raises:
            BulkError: some were not deleted; the others are. Where two have the same key, nothing was sent.
        """
        async with self._operation("delete_many") as operation:
            return await Deletes(operation, items, partial(self._operation, "delete")).run()

    async def load(
        self, values: Iterable[M] | AsyncIterable[M], *, progress: Callable[[int], object] | None = None
    ) -> int:
        """Store objects in this order, whatever is there, and return their number: the fast way in for many.

        Each is validated, none is checked against a revision (the last writer wins) or stamped. Some hundred of them
        are held at a time; the time budget is that of each such portion.

        Args:
            values: any number of objects, from an iterable or an asynchronous one.
            progress: told the number stored so far, again and again.

        Raises:
            StoreError: it stopped; the first `.stored` objects are stored, and of those after them some may be only if
                it is a StoreTimeoutError or the store was closed. An object that cannot be stored is its `__cause__`.
        """
        async with self._operation("load") as operation:
            return await Load(operation, progress).run(values)

    def watch(
        self,
        *,
        since: int | Entry[Any] | Marker | CaughtUp | None = None,
        history: bool = False,
        updates_only: bool = False,
        on_invalid: OnInvalid = "raise",
        **key_fields: object,
    ) -> Watch[M]:
        """Watch the keys whose key fields have these values: what is there, a CaughtUp, then every change.

        Args:
            since: go on after this revision, or after what an earlier watch delivered. Where that is not possible, a
                Reset comes and the current state follows.
            history: begin with every kept change instead of the latest of each key.
            updates_only: begin with what comes from now on.
            on_invalid: what to do with a value that does not decode.
            key_fields: as for `find`.

        Raises:
            InvalidKeyError: unknown or refused key fields.
            ValueError: more than one of `since`, `history` and `updates_only`, or a `since` that is none.
        """
        if since is not None and not isinstance(since, Entry | Marker | CaughtUp):
            check_revision("since", since, or_else="an Entry, Marker, CaughtUp or ", least=0)
        if (since is not None) + history + updates_only > 1:
            raise ValueError("since=, history= and updates_only= say three different starts; give one of them")
        start = Replay.HISTORY if history else Replay.NOTHING if updates_only else Replay.CURRENT
        return Watch(self._feed(key_fields, start if since is None else since), on_invalid)

    def view(self, *, on_invalid: WhatOfInvalid = "keep", **key_fields: object) -> View[M]:
        """Return a live local copy of the objects under a filter: `async with orders.view(tenant="acme") as view`.

        It is complete on entering, kept up to date by a task of its own, and read without I/O.

        Args:
            on_invalid: what to do with a value that does not decode, beside keeping its error in `view.invalid`:
                nothing more, end the view with it ("raise"), log it ("skip"), or tell a function.
            key_fields: as for `find`.

        Raises:
            InvalidKeyError: unknown or refused key fields.
        """
        feed = self._feed(key_fields, Replay.CURRENT)
        return View(self._mapping, feed, on_invalid=on_invalid, timeout=self._timeout)

    # Steps

    def _operation(self, name: str) -> _Running[M]:
        return _Running(name, self._begin)

    async def _begin(self) -> Operation[M]:
        deadline = Deadline(self._timeout)
        handle = await self._store.handle(self._bucket, deadline)
        if self._typed is None or self._typed.handle is not handle:
            self._typed = Typed(self._mapping, handle)
        return Operation(self._typed, deadline)

    async def _mark(self, reason: MarkReason, key: Sequence[object], key_fields: dict[str, object]) -> int:
        if len(key) == 1 and isinstance(key[0], BaseModel):
            value = key[0]
            if not isinstance(value, self.model) or key_fields:
                raise InvalidKeyError(f"give one {self.model.__name__}, or the values of its key fields", key=value)
            async with self._operation(reason) as operation:
                return await operation.mark_object(value, reason)
        raw_key = self._mapping.raw_key(key, key_fields)
        async with self._operation(reason) as operation:
            return await operation.mark_key(raw_key, reason)

    def _lists(self, name: str, key_fields: dict[str, object]) -> Lists[M]:
        return Lists(self._mapping, self._mapping.filter(key_fields), partial(self._operation, name))

    def _feed(self, key_fields: dict[str, object], start: Start) -> Feed[M]:
        return Feed(self._mapping, self._opened, self._mapping.filter(key_fields), start)

    async def _opened(self) -> BucketHandle:
        async with self._operation("watch") as operation:
            return operation.handle


class _Running(Generic[M]):
    """One operation from its start to its end: the one point that each of them passes (tracing hooks in here)."""

    __slots__ = ("_begin", "_name")

    def __init__(self, name: str, begin: Callable[[], Awaitable[Operation[M]]]) -> None:
        self._name = name
        self._begin = begin

    async def __aenter__(self) -> Operation[M]:
        """Open the bucket as it is now; the time budget begins."""
        return await self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is to be done at the end yet."""


def model_of(repository: type[Repository[M]]) -> type[M]:
    """Return the class that a repository class was written for.

    Raises:
        ModelError: it does not say.
    """
    for cls in repository.__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Repository):
                (model,) = get_args(base)
                if isinstance(model, type):
                    return model
    raise ModelError(
        f"{repository.__name__} does not say its model: write class {repository.__name__}(Repository[Order])"
    )


def _as_limit(limit: int | None) -> int | None:
    if limit is not None:
        check_limit(limit)
    return limit


def _as_key(key: Key) -> Key:
    if not isinstance(key, tuple):
        raise InvalidKeyError(f"{key!r} is no tuple of key fields, as keys() yields them", key=key)
    return key
