"""Three nodes whose leader is stepped down, paused, stopped or killed under load: nothing lost, twice or stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cluster import FAULTS, leader_goes

STRIKES = {"step down": 5}
READS = 100


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_leader_goes(tmp_path: Path, fault: str) -> None:
    """`python -m tests.faults cluster` is the long form."""
    ended = await leader_goes(tmp_path, fault, accounts=50, strikes=STRIKES.get(fault, 1), reads=READS)
    assert not ended.outcome.errors
    assert not ended.outcome.lost(ended.stored)
    assert not ended.outcome.twice(ended.stored)
    assert ended.outcome.unknown.total() <= 2
    assert ended.outcome.transfers
    assert ended.chained > len(ended.stored.moves)
    assert not ended.broken
    assert not ended.stale
