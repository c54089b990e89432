"""What `judge` finds wrong with what a watch told: the checker of the other tests has teeth."""

from __future__ import annotations

import pytest

from tests.faults.watching import NOTHING_WRONG, Told, Verdict, judge

STORED = [("a", 3), ("b", 4), ("a", 5), ("c", 6), ("b", 7)]
"""Caught up at 4: of `a` and `b` the latest there was, then all that came."""

RIGHT = [("a", 3), ("b", 4), ("a", 5), ("c", 6), ("b", 7)]


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (RIGHT, NOTHING_WRONG),
        ([("a", 2), *RIGHT], NOTHING_WRONG),  # pushed out since
        (RIGHT[2:], NOTHING_WRONG),  # began after what was there
        ([*RIGHT[:2], *RIGHT[3:]], Verdict(1, 0, 0)),
        (RIGHT[:-1], Verdict(1, 0, 0)),
        ([], Verdict(3, 0, 0)),
        ([*RIGHT[:3], *RIGHT[2:]], Verdict(0, 1, 0)),
        ([*RIGHT, *RIGHT], Verdict(0, 5, 1)),
        ([*RIGHT[:2], *reversed(RIGHT[2:])], Verdict(0, 0, 2)),
        ([*RIGHT[:3], ("b", 6), ("b", 7)], Verdict(1, 0, 0)),  # another key at that revision
    ],
)
def test_what_is_wrong_is_told(told: list[tuple[str, int]], verdict: Verdict) -> None:
    assert judge(Told(changes=told, start=4), STORED) == verdict
