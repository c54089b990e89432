"""Lifetimes as other clients write them."""

import subprocess
import sys
from datetime import timedelta

import pytest

from kvorm.backends import message
from kvorm.backends.message import FOR_EVER

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        ("1s", 1),
        ("1.5s", 1),
        ("1500ms", 1),
        ("1m", 60),
        ("1h2m3s", 3723),
        ("2h", 7200),
        ("1m0s", 60),
        ("1.5h", 5400),
    ],
)
def test_a_lifetime_is_whole_seconds(text: str, seconds: int) -> None:
    assert message.ttl({"Nats-TTL": text}) == seconds * SECOND


def test_no_lifetime_and_an_endless_one() -> None:
    assert message.ttl({}) is None
    for text in ("abc", "", "5x", "-1s", "1s2"):
        assert message.ttl({"Nats-TTL": text}) is None
    assert message.ttl({"Nats-TTL": "never"}) == FOR_EVER


@pytest.mark.parametrize(
    ("own", "bucket", "lifetime"),
    [
        (None, None, None),
        (None, SECOND, SECOND),
        (2 * SECOND, SECOND, SECOND),
        (SECOND, 2 * SECOND, SECOND),
        (SECOND, None, SECOND),
        (FOR_EVER, SECOND, None),
    ],
)
def test_the_shorter_lifetime_counts(
    own: timedelta | None, bucket: timedelta | None, lifetime: timedelta | None
) -> None:
    assert message.lifetime(own, bucket) == lifetime


def test_operation_ids_differ() -> None:
    drawn = [message.new_operation_id() for _ in range(1_000)]
    assert len(set(drawn)) == len(drawn)
    assert {len(one) for one in drawn} == {20}


def test_a_forked_process_draws_ids_of_its_own() -> None:
    code = """
import os
from kvorm.backends.message import new_operation_id
new_operation_id()  # others are in stock now
if os.fork():
    os.wait()
print(*(new_operation_id() for _ in range(300)), flush=True)
"""
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(drawn)) == len(drawn) == 600
