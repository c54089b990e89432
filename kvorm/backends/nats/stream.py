"""What the leader of a stream says of it: which life it is, how far it is, what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from kvorm.backends.base import Deadline
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.names import subject_pages
from kvorm.backends.nats.replies import NO_MESSAGE, STREAM_NOT_FOUND


class State(NamedTuple):
    """A stream as it is now."""

    created: str
    last: int
    replicated: bool


class Stream:
    """A stream behind a connection.

    Every question may raise StoreTimeoutError, StoreUnavailableError, StoreClosedError, PermissionDeniedError,
    UnsupportedError and JetStreamError.
    """

    def __init__(self, link: Link, name: str, subjects: Sequence[str]) -> None:
        self.link = link
        self.name = name
        # The filters of who asks.
        self.subjects = subjects

    async def state(self, deadline: Deadline) -> State | None:
        """Return how it is, or None if there is none."""
        try:
            info = await self.link.call(f"STREAM.INFO.{self.name}", deadline=deadline)
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            return None
        return State(info["created"], info["state"]["last_seq"], info["config"].get("num_replicas", 1) > 1)

    async def next_after(self, sequence: int, deadline: Deadline) -> int | None:
        """Return the first sequence above one that matches a filter, or None if nothing does."""
        found: list[int] = []
        for subject in self.subjects:
            body = {"next_by_subj": subject, "seq": sequence + 1}
            try:
                answer = await self.link.call(f"STREAM.MSG.GET.{self.name}", body, deadline=deadline)
            except JetStreamError as error:
                if error.code != NO_MESSAGE:
                    raise
            else:
                found.append(answer["message"]["seq"])
        return min(found, default=None)

    async def matching(self, deadline: Deadline) -> tuple[int, set[str]]:
        """Return a last sequence, and the subjects that match a filter and hold a message then or later."""
        last: int | None = None
        found: set[str] = set()

        async def ask(body: Mapping[str, Any]) -> dict[str, Any]:
            return await self.link.call(f"STREAM.INFO.{self.name}", body, deadline=deadline)

        for subject in self.subjects:
            async with aclosing(subject_pages(ask, subject)) as pages:
                async for page in pages:
                    last = page.last if last is None else last
                    found.update(page.subjects)
        return last or 0, found
