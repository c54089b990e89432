"""Lists are exact under fire (R5, R2), and the judge who says so has teeth."""

from math import inf
from pathlib import Path

import pytest

from kvorm.testing.servers import NatsCluster, NatsServer
from tests.faults.listing import Load, Report, peer_under_fire, under_fire
from tests.faults.lives import RIGHT, Life, Lives, Wrong, judge, judge_count, old

CALLS, WAVE = 25, 50
"""`python -m tests.faults lists` makes more of both, over more keys."""

PEER_CALLS = 300
"""With ten values a key and the wave, four of five of nats-py's lists are wrong; at history 1 one of a hundred."""


def assert_exact(report: Report, calls: int) -> None:
    print(report)
    assert report.calls == {"find": calls, "keys": calls, "count": calls}
    assert report.wrong.total() == report.wrong_calls.total() == report.unlike == 0
    assert all(report.writes[kind] for kind in ("created", "rewritten", "deleted", "purged", "erased", "expiring"))


@pytest.mark.parametrize("history", [1, 10])
async def test_lists_are_exact_under_fire(tmp_path: Path, history: int) -> None:
    with NatsServer(tmp_path) as server:
        report = await under_fire([server.url], [server.url], Load(history, calls=CALLS, wave=WAVE))
    assert_exact(report, CALLS)


async def test_lists_of_a_cluster_are_exact_and_not_old(nats_cluster: NatsCluster) -> None:
    """Those who write and those who list are connected to different nodes."""
    load = Load(history=10, replicas=3, calls=CALLS, wave=WAVE)
    assert_exact(await under_fire(nats_cluster.urls[:1], nats_cluster.urls[1:], load), CALLS)


async def test_the_same_judge_finds_the_lists_of_nats_py_wrong(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        report = await peer_under_fire([server.url], Load(history=10, calls=PEER_CALLS, wave=WAVE), until_wrong=True)
    print(report)
    assert report.wrong_calls.total()


# The judge alone: planted answers to a list that began at 10 and ended at 20.

STANDING = ("s", 1)
ALIVE = {
    "long before": Life(1, 2),
    "just before": Life(9, 10),
    "ends just after": Life(1, 2, 20, 21),
    "ends long after": Life(1, 2, 30, 31),
    "never acknowledged to end": Life(1, 2, 20, inf),
}
PERHAPS = {
    "acknowledged meanwhile": Life(9, 11),
    "made meanwhile": Life(12, 13),
    "sent, never acknowledged": Life(9),
    "sent at the end": Life(20),
    "ended meanwhile": Life(1, 2, 15, 16),
    "may have ended before": Life(1, 2, 9, 10),
    "came and went": Life(12, 13, 14, 15),
}
GONE = {"ended before": Life(1, 2, 8, 9), "made after": Life(21, 22), "sent after": Life(20.5)}


def lives_of(*lives: Life) -> Lives:
    return Lives({STANDING}, {("a", 1): list(lives)})


@pytest.mark.parametrize("name", ALIVE)
def test_what_was_live_throughout_must_be_told(name: str) -> None:
    lives = lives_of(ALIVE[name])
    assert judge(lives, [STANDING, ("a", 1)], 10, 20) == RIGHT
    assert judge(lives, [STANDING], 10, 20) == Wrong(missing=1)
    assert judge(lives, [STANDING], 10, 20, "a") == Wrong(missing=1, never=1)
    assert [judge_count(lives, number, 10, 20).counted for number in (1, 2, 3)] == [1, 0, 1]


@pytest.mark.parametrize("name", PERHAPS)
def test_what_was_live_at_some_time_may_be_told(name: str) -> None:
    lives = lives_of(PERHAPS[name])
    assert judge(lives, [STANDING, ("a", 1)], 10, 20) == judge(lives, [STANDING], 10, 20) == RIGHT
    assert [judge_count(lives, number, 10, 20).counted for number in (0, 1, 2, 3)] == [1, 0, 0, 1]


@pytest.mark.parametrize("name", GONE)
def test_what_was_not_live_may_not_be_told(name: str) -> None:
    lives = lives_of(GONE[name])
    assert judge(lives, [STANDING], 10, 20) == RIGHT
    assert judge(lives, [STANDING, ("a", 1)], 10, 20) == Wrong(never=1)
    assert [judge_count(lives, number, 10, 20).counted for number in (0, 1, 2)] == [1, 0, 1]


def test_a_key_of_two_lives_need_not_be_told_but_once() -> None:
    lives = lives_of(Life(1, 2, 11, 12), Life(13, 14))
    assert judge(lives, [STANDING], 10, 20) == judge(lives, [STANDING, ("a", 1)], 10, 20) == RIGHT
    assert judge(lives, [STANDING, ("a", 1), ("a", 1)], 10, 20) == Wrong(twice=1)


def test_a_standing_key_must_be_told_and_an_unknown_one_not() -> None:
    assert judge(Lives({STANDING}), [], 10, 20) == Wrong(missing=1)
    assert judge(Lives({STANDING}), [STANDING, ("x", 1)], 10, 20) == Wrong(never=1)
    assert judge(Lives({STANDING}), [], 10, 20, "a") == RIGHT


def test_a_value_behind_what_was_acknowledged_is_old() -> None:
    acknowledged = {("a", 1): 3, ("a", 2): 3}
    assert old({("a", 1): 3, ("a", 2): 4, ("a", 3): 1}, acknowledged) == 0
    assert old({("a", 1): 2, ("a", 2): 4}, acknowledged) == 1
