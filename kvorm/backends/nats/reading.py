"""Reads of single keys: as fresh as promised, by the cheapest path that keeps that."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from kvorm.backends.base import Deadline, RawChange, RawMarker
from kvorm.backends.nats.floors import Floors
from kvorm.backends.nats.opened import OpenedStream
from kvorm.errors import StoreError, StoreUnavailableError

_HISTORY_BATCH: Final = 128
LAG_SECONDS: Final = 0.005
"""How long to wait for a replica to catch up with what is known of its leader."""


class Reading:
    """Reads of one opened stream, and what was seen of it."""

    def __init__(self, stream: OpenedStream) -> None:
        self._stream = stream
        self._floors = Floors()

    async def get(self, raw_key: str, deadline: Deadline) -> RawChange | None:
        """Return the latest change of a key."""
        if self._stream.is_nearest:
            change = await self._stream.direct_get(f".{self._stream.subject(raw_key)}", b"", deadline)
            # The only replica knows all that was acknowledged.
            if not self._stream.is_replicated or self.is_fresh(raw_key, change):
                return change
        return await self.from_leader(raw_key, deadline)

    async def from_leader(self, raw_key: str, deadline: Deadline) -> RawChange | None:
        """Return the latest change as the leader has it, never older than what this store saw.

        A leader that was paused answers for a moment as of then (hazard H8).
        """
        while True:
            change = await self._stream.leader_get({"last_by_subj": self._stream.subject(raw_key)}, deadline)
            if self.is_fresh(raw_key, change):
                return change
            if await self._stream.last_sequence(deadline) >= self._floors.of(raw_key):
                # It is past what was seen: that has expired, or was erased.
                self._floors.forget(raw_key)
            else:
                name = self._stream.settings.name
                await self._stream.link.pause(deadline, StoreError(f"{name}/{raw_key}: the leader lags behind"))

    def is_fresh(self, raw_key: str, change: RawChange | None, *, least: int = 0) -> bool:
        """Whether an answer is as far as what this store saw, and as `least`; remember it then."""
        revision = change.revision if change is not None else 0
        if revision < max(least, self._floors.of(raw_key)):
            return False
        self.seen(raw_key, revision)
        return True

    def seen(self, raw_key: str, revision: int) -> None:
        """Take note that this store read or wrote a key at this revision, or before it."""
        if self._stream.is_replicated:
            self._floors.raise_to(raw_key, revision)

    @property
    def floor(self) -> int:
        """The highest revision this store has read or written in the bucket."""
        return self._floors.highest

    async def get_revision(self, raw_key: str, revision: int, deadline: Deadline) -> RawChange | None:
        """Return that revision of that key."""
        if self._stream.is_nearest:
            found = await self._stream.direct_get("", msgspec.json.encode({"seq": revision}), deadline)
        else:
            found = await self._stream.leader_get({"seq": revision}, deadline)
        return found if found is not None and found.raw_key == raw_key else None

    async def history(self, raw_key: str, deadline: Deadline) -> list[RawChange]:
        """Return every kept change of a key as of one moment.

        The server reads on while others write: what a later write has pushed out or a purge has erased is dropped
        again, which leaves what the key had when the last change listed was its latest.
        """
        changes = await self._all_changes(raw_key, deadline)
        if len(changes) > self._stream.settings.history:
            await self._stream.look_anew(deadline)
        erasing = [at for at, change in enumerate(changes) if _erases_history(change)]
        return changes[erasing[-1] if erasing else 0 :][-self._stream.settings.history :]

    async def _all_changes(self, raw_key: str, deadline: Deadline) -> list[RawChange]:
        """Return the changes of a key from a server that is as far as this read must be.

        Asking the leader for one after the other would never end while somebody writes as fast.
        """
        while True:
            least = self._floors.of(raw_key)
            if self._stream.is_replicated and not self._stream.is_nearest:
                latest = await self.from_leader(raw_key, deadline)
                if latest is None:
                    return []
                least = latest.revision
            changes: list[RawChange] = []
            while True:
                after = changes[-1].revision if changes else 0
                more = await self.changes_after(raw_key, after, _HISTORY_BATCH, deadline)
                changes += more
                if len(more) < _HISTORY_BATCH:
                    break
            if self.is_fresh(raw_key, changes[-1] if changes else None, least=least):
                return changes
            if deadline.passed:
                raise StoreUnavailableError(
                    f"{self._stream.settings.name}/{raw_key}: the replicas lag behind their leader for "
                    f"{deadline.timeout.total_seconds():g} s"
                )
            # Also to learn that what was seen has expired or was erased since.
            await self.from_leader(raw_key, deadline)
            await asyncio.sleep(LAG_SECONDS)

    async def changes_after(self, keys: str, revision: int, most: int, deadline: Deadline) -> list[RawChange]:
        """Return the changes of a key, or of a filter, after a revision: oldest first, up to `most`."""
        subject = self._stream.subject(keys)
        if self._stream.allows_direct:
            body = {"next_by_subj": subject, "seq": revision + 1, "batch": most}
            return (await self._stream.direct_batch(body, deadline)).changes
        changes: list[RawChange] = []
        while len(changes) < most:
            change = await self._stream.leader_get({"next_by_subj": subject, "seq": revision + 1}, deadline)
            if change is None:
                break
            changes.append(change)
            revision = change.revision
        return changes


def _erases_history(change: RawChange) -> bool:
    return isinstance(change, RawMarker) and change.reason != "deleted"
