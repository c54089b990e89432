"""Runs checks over a store of one's own, without any test tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

from kvorm.testing.contract.harness import Harness

H = TypeVar("H", bound=Harness)

LONGEST: Final = timedelta(seconds=60)
"""How long one check may take."""


class Result(NamedTuple):
    """What a check came to: no error if the store kept its promise."""

    check: str
    error: Exception | None

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return self.error is None


async def run(
    checks: Iterable[Callable[[H], Any]],
    surroundings: Callable[[], AbstractAsyncContextManager[H]],
    *,
    longest: timedelta = LONGEST,
) -> list[Result]:
    """Run checks one after the other, each in surroundings of its own; return what each came to.

        results = await run(CHECKS, lambda: MemoryHarness(wrap=my_wrapper))
        assert not [result for result in results if not result.passed]

    Args:
        checks: such as `CHECKS`, or some of them.
        surroundings: makes the place under test anew for each.
        longest: how long each may take.
    """
    return [await _run_one(check, surroundings, longest) for check in checks]


async def _run_one(
    check: Callable[[H], Any], surroundings: Callable[[], AbstractAsyncContextManager[H]], longest: timedelta
) -> Result:
    try:
        async with asyncio.timeout(longest.total_seconds()), surroundings() as harness:
            await check(harness)
    except Exception as error:
        return Result(check.__name__, error)
    return Result(check.__name__, None)
