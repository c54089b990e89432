"""Reads of many keys: which there are, their latest changes, and what they are without their values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final, TypeVar

from kvorm.backends.base import Deadline, RawChange
from kvorm.backends.nats.names import subject_pages
from kvorm.backends.nats.opened import OpenedStream
from kvorm.backends.nats.reading import LAG_SECONDS, Reading
from kvorm.errors import StoreError, StoreUnavailableError

T = TypeVar("T")
U = TypeVar("U")

_BATCH: Final = 256
"""Keys of one batched read; the server takes 1,024."""

_BATCHES_AT_ONCE: Final = 4
_READS_AT_ONCE: Final = 64
_FEW: Final = 2
"""So many keys are read one by one: that costs less than to ask the leader how far it is."""

_LAGGING_TRIES: Final = 5


class Many:
    """Reads of many keys of one opened stream."""

    def __init__(self, stream: OpenedStream, reading: Reading) -> None:
        self._stream = stream
        self._reading = reading

    async def names(self, filters: Sequence[str], timeout: timedelta) -> AsyncGenerator[list[str], None]:
        """Yield the raw keys that match a filter and have any change, in portions."""
        told: set[str] = set()

        async def ask(body: Mapping[str, Any]) -> dict[str, Any]:
            return await self._info(body, Deadline(timeout))

        for one in filters:
            async with aclosing(subject_pages(ask, self._stream.subject(one))) as pages:
                async for page in pages:
                    raw_keys = [self._stream.raw_key(subject) for subject in page.subjects]
                    if len(filters) > 1:
                        raw_keys = [raw_key for raw_key in raw_keys if raw_key not in told]
                        told.update(raw_keys)
                    yield raw_keys

    async def get_many(self, raw_keys: Sequence[str], deadline: Deadline) -> list[RawChange | None]:
        """Return the latest change of each key.

        A batch may lack a key that was written anew while it was read, so what is not found there is asked for alone.
        """
        found: dict[str, RawChange | None] = {}
        wanted = list(dict.fromkeys(raw_keys))
        if self._stream.allows_direct and len(wanted) > _FEW:
            # A replica that is not as far as the leader was when this began knows less than it must.
            least = 0 if self._stream.is_nearest else await self._last(deadline)
            batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
            reads = await side_by_side(
                lambda batch: self._batch(batch, least, deadline), batches, at_once=_BATCHES_AT_ONCE
            )
            for changes in reads:
                found.update((change.raw_key, change) for change in changes)
        others = [raw_key for raw_key in wanted if raw_key not in found]
        alone = await side_by_side(lambda raw_key: self._reading.get(raw_key, deadline), others, at_once=_READS_AT_ONCE)
        found.update(zip(others, alone, strict=True))
        return [found[raw_key] for raw_key in raw_keys]

    async def changes_after(self, keys: str, revision: int, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the changes of a filter after a revision, oldest first; fewer than `most` only where there are."""
        while True:
            changes = await self._reading.changes_after(keys, revision, most, deadline)
            if len(changes) >= most or not self._stream.is_replicated:
                return changes
            # A replica has the beginning of what its leader has: only the end may be missing.
            position = changes[-1].revision if changes else revision
            body = {"next_by_subj": self._stream.subject(keys), "seq": position + 1}
            if await self._stream.leader_get(body, deadline) is None:
                return changes
            if deadline.passed:
                raise StoreUnavailableError(
                    f"bucket {self._stream.settings.name!r}: the replicas lag behind their leader for "
                    f"{deadline.timeout.total_seconds():g} s"
                )
            await asyncio.sleep(LAG_SECONDS)

    async def _batch(self, raw_keys: Sequence[str], least: int, deadline: Deadline) -> Iterable[RawChange]:
        """Return the changes of some keys from a replica that is far enough, or none of them."""
        body = {"multi_last": [self._stream.subject(raw_key) for raw_key in raw_keys]}
        for _ in range(_LAGGING_TRIES):
            changes, up_to = await self._stream.direct_batch(body, deadline)
            if up_to >= least:
                if not self._stream.is_replicated:
                    return changes
                return [change for change in changes if self._reading.is_fresh(change.raw_key, change)]
            if not changes:
                break
            await asyncio.sleep(LAG_SECONDS)
        return []

    async def _last(self, deadline: Deadline) -> int:
        last: int = (await self._info(None, deadline))["state"]["last_seq"]
        return last

    async def _info(self, body: Mapping[str, Any] | None, deadline: Deadline) -> dict[str, Any]:
        """Ask the leader about the stream, until it is as far as what this store saw of it (hazard H8)."""
        while True:
            info = await self._stream.call("STREAM.INFO", body, deadline)
            if info["created"] != self._stream.incarnation:
                raise self._stream.made_anew()
            if info["state"]["last_seq"] >= self._reading.floor:
                return info
            name = self._stream.settings.name
            await self._stream.link.pause(deadline, StoreError(f"bucket {name!r}: the leader lags behind"))


async def side_by_side(work: Callable[[T], Awaitable[U]], items: Sequence[T], *, at_once: int) -> list[U]:
    """Do the work for each item, so many at a time; return the results in order. The first error ends the others."""
    results: dict[int, U] = {}
    to_do = iter(enumerate(items))

    async def do_some() -> None:
        for number, item in to_do:
            results[number] = await work(item)

    workers = [asyncio.ensure_future(do_some()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in range(len(items))]
