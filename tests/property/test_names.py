"""The list of a stream's subjects: exact, whatever comes and goes between its pages."""

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvorm.backends.nats import names
from kvorm.backends.nats.names import subject_pages

SUBJECTS = st.integers(0, 60).map("s{:02}".format)


class Server:
    """Sorts its subjects anew for each page; between two pages some come and some go."""

    def __init__(self, there: set[str], changes: list[tuple[set[str], set[str]]], page: int) -> None:
        self._there = there
        self._changes = changes
        self._page = page
        self.asked = 0

    async def info(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.asked and self._changes:
            come, gone = self._changes.pop()
            self._there = (self._there | come) - gone
        self.asked += 1
        listed = sorted(self._there)
        # The server says null where a page is empty.
        subjects = dict.fromkeys(listed[body["offset"] : body["offset"] + self._page], 1) or None
        return {"state": {"last_seq": 7, "subjects": subjects}, "total": len(listed)}


async def listed(server: Server) -> list[str]:
    return [subject async for page in subject_pages(server.info, "s") for subject in page.subjects]


@given(
    st.sets(SUBJECTS, min_size=20),
    st.lists(st.tuples(st.sets(SUBJECTS, max_size=20), st.sets(SUBJECTS, min_size=5, max_size=20)), max_size=8),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_what_is_there_throughout_comes_once(
    there: set[str], changes: list[tuple[set[str], set[str]]], more: int, overlap: int
) -> None:
    gone = set[str]().union(*(gone for _, gone in changes))
    ever = there.union(*(come for come, _ in changes))
    with_overlap, names._OVERLAP = names._OVERLAP, overlap  # type: ignore[misc]
    try:
        found = asyncio.run(listed(Server(there, list(changes), overlap + more)))
    finally:
        names._OVERLAP = with_overlap  # type: ignore[misc]
    assert len(found) == len(set(found))
    assert there - gone <= set(found) <= ever


def test_a_quiet_server_is_asked_once_a_page() -> None:
    server = Server({f"s{number:05}" for number in range(25_000)}, [], 10_000)
    assert len(asyncio.run(listed(server))) == 25_000
    # Each page overlaps the one before by a thousand.
    assert server.asked == 3
