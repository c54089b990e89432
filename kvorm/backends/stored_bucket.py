"""A bucket on the side of the memory server: what all its clients share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import uuid4

from kvorm.backends.log import Clock, Limits, Log
from kvorm.bucket import Bucket

_KEPT_IF_UNSAID: Final = (
    "replicas",
    "max_value_bytes",
    "max_bytes",
    "compression",
    "marker_ttl",
    "placement",
    "description",
)
_EXPIRY_CHECK_SECONDS: Final = 0.1


class StoredBucket:
    """Its settings, its log, and who waits for a change."""

    def __init__(self, settings: Bucket, clock: Clock) -> None:
        self.settings = settings
        self.incarnation = f"memory:{uuid4()}"
        self.exists = True
        self.log = Log(_limits(settings), clock)
        self.changed = asyncio.Event()
        self.clock = clock

    def apply(self, bucket: Bucket) -> None:
        """Take over what a declaration says."""
        said = {name: value for name in _KEPT_IF_UNSAID if (value := getattr(bucket, name)) is not None}
        metadata = {**self.settings.metadata, **bucket.metadata}
        self.settings = replace(self.settings, history=bucket.history, ttl=bucket.ttl, metadata=metadata, **said)
        self.log.restrict(_limits(self.settings))

    def end(self) -> None:
        """Tell those who use it that it is gone."""
        self.exists = False
        self.announce()

    def announce(self) -> None:
        """Wake all who wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def expire(self) -> None:
        """Let pass what has outlived its time."""
        before = self.log.last_sequence
        self.log.expire()
        if self.log.last_sequence != before:
            self.announce()

    async def wait_for_change(self) -> None:
        """Return once something may have changed, expiry included."""
        seconds: float | None = None
        next_expiry = self.log.next_expiry()
        if next_expiry is not None:
            # The clock may be set by hand, so the time until then says nothing for sure.
            seconds = min(_EXPIRY_CHECK_SECONDS, max(0.001, (next_expiry - self.clock()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()


def _limits(settings: Bucket) -> Limits:
    return Limits(
        per_subject=settings.history,
        max_age=settings.ttl,
        marker_ttl=settings.marker_ttl,
        max_bytes=settings.max_bytes,
    )
