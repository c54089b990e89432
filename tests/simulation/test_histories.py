"""Simulated histories keep every promise, and a seed shows the same whenever it is run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest

from kvorm.testing.simulation import Report, Traits, run

HISTORIES = int(os.environ.get("KVORM_HISTORIES", "600"))

PLAIN = Traits()

ONCE_BROKEN = [
    (6821, PLAIN),  # W11, as 6887, 9748 and 12112: save_many said of what it had sent that nothing was
    (6887, PLAIN),
    (9748, PLAIN),
    (12112, PLAIN),
    (7149, PLAIN),  # C3: a connection that was lost just as it was made went on with its pings
    (23195, PLAIN),  # save_many took its time budget anew after it had waited for the bucket
    (13343, PLAIN),  # S4: caught up before a key was told that was written anew again and again
    (20, Traits(lifetime=0.2)),  # W1: stored again when it had expired before its answer came
    (405, Traits(loads=True, batches=False)),  # W11: load said of what it had sent that nothing was
    (715, Traits(made_anew=0.0)),  # W4: written into another bucket, after a wait for the connection
    (47, Traits(lifetime=0.2)),  # S8: a marker of a second was gone before a replica that stood still told of it
    (98, Traits(lifetime=0.2)),
    (29088, Traits(lifetime=1.0, made_anew=0.3)),  # S8: a view in a new bucket waited for what it had asked of the old
    (55127, Traits(made_anew=0.3)),  # S6: an answer that took a second was the last word about a bucket made anew
    (81401, Traits(made_anew=0.3, batches=False)),  # W1: stored again in a bucket made anew while it was looked for
    (207434, Traits(lifetime=0.2, batches=False)),  # R5: told by a replica that stood still, and gone when it went on
    (275371, Traits(lifetime=0.2, batches=False)),  # W5: refused for its own write of before, which expired meanwhile
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()  # lost connections are what this is about
    yield
    logging.disable(logging.NOTSET)


def test_promises_are_kept() -> None:
    report = Report()
    for seed in range(HISTORIES):
        report.add(run(seed))
    assert report.violations == []
    assert report.acknowledged > 5 * HISTORIES
    assert report.events > 5 * HISTORIES
    assert report.faults.keys() >= {
        *("connection cut", "connection stranded", "server restarted", "leader lost", "bucket made anew")
    }


@pytest.mark.parametrize(("seed", "traits"), ONCE_BROKEN)
def test_what_once_broke_a_promise_keeps_it(seed: int, traits: Traits) -> None:
    assert run(seed, traits=traits).violations == []


def test_all_traits_are_drawn() -> None:
    drawn = [Traits.drawn(seed) for seed in range(100)]
    assert {each.lifetime for each in drawn} == {None, 0.2, 1.0, 3.0}
    assert {each.made_anew for each in drawn} == {None, 0.0, 0.3}
    assert {(each.nearest, each.loads, each.batches) for each in drawn} == set(product([False, True], repeat=3))


def test_a_seed_shows_the_same_in_another_process() -> None:
    """Neither the addresses of objects nor the hashes of texts have a say in it."""
    code = "import logging; from kvorm.testing.simulation import run; logging.disable(); print(*map(run, range(40)))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_seed_shows_the_same_again(replicas: int) -> None:
    for seed in range(10):
        assert run(seed, replicas=replicas) == run(seed, replicas=replicas)
