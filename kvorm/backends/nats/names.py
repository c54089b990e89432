"""The subjects that a stream holds, listed exactly while others write and erase."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

Ask: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the leader for STREAM.INFO."""

_OVERLAP: Final = 1_000
"""How many subjects of a page come again on the next one: so many may be erased between the two at no cost."""


class Page(NamedTuple):
    """Some of the subjects, in their order, and the last sequence of the stream when they were listed."""

    last: int
    subjects: list[str]


async def subject_pages(ask: Ask, subject_filter: str) -> AsyncGenerator[Page, None]:
    """Yield the subjects that match a filter and hold a message, each once; what is there all the time is not missed.

    The server sorts its subjects anew for each page and counts an offset into them, so that each one that was erased
    since shifts the others. A further page counts only if it begins at or before the last subject seen; else it is
    asked for from farther ahead. (Seen on server 2.15: pages of 100,000 in the order of their bytes.)
    """
    seen = ""
    offset, back = 0, _OVERLAP
    while True:
        info = await ask({"subjects_filter": subject_filter, "offset": offset})
        listed: list[str] = sorted(info["state"].get("subjects") or ())
        if offset and (not listed or listed[0] > seen):
            offset, back = max(0, offset - back), 2 * back
            continue
        back = _OVERLAP
        yield Page(info["state"]["last_seq"], listed[bisect_right(listed, seen) :])
        if not listed or offset + len(listed) >= info.get("total", 0):
            return
        seen = max(seen, listed[-1])
        offset += max(1, len(listed) - _OVERLAP)
