"""Every clause on every store."""

import asyncio
import importlib
import pkgutil
import re

import pytest

from kvorm.testing import contract
from kvorm.testing.contract import (
    CHECKS,
    CLAUSES,
    NETWORK_CHECKS,
    SERVER_CHECKS,
    Check,
    NetworkCheck,
    ServerCheck,
    clauses,
)
from kvorm.testing.contract.harness import Harness
from kvorm.testing.contract.on_nats import NatsHarness, ProxiedHarness

LONGEST_SECONDS = 30.0


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_store(check: Check, harness: Harness) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        await check(harness)


@pytest.mark.parametrize("harness", ["server", "cluster"], indirect=True)
@pytest.mark.parametrize("check", SERVER_CHECKS, ids=lambda check: check.__name__)
async def test_server(check: ServerCheck, harness: NatsHarness) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        await check(harness)


ANYWHERE = [check for check in NETWORK_CHECKS if "W11" not in clauses(check)]
"""The clients of a cluster learn of its other nodes, and go around the proxy where it lets nothing pass."""


@pytest.mark.parametrize(
    ("place", "check"),
    [*(("server", check) for check in NETWORK_CHECKS), *(("cluster", check) for check in ANYWHERE)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_network(check: NetworkCheck, place: str, request: pytest.FixtureRequest) -> None:
    if place == "server":
        harness = ProxiedHarness(request.getfixturevalue("nats_server").url)
    else:
        harness = ProxiedHarness(request.getfixturevalue("nats_cluster").urls, replicas=3)
    async with asyncio.timeout(LONGEST_SECONDS), harness:
        await check(harness)


def test_each_clause_has_checks_where_it_says() -> None:
    places = {"store": CHECKS, "server": SERVER_CHECKS, "proxy": NETWORK_CHECKS}
    of = {place: {clause for check in checks for clause in clauses(check)} for place, checks in places.items()}
    assert {clause.number: clause.needs for clause in CLAUSES} == {
        clause.number: tuple(place for place, numbers in of.items() if clause.number in numbers) for clause in CLAUSES
    }
    assert set().union(*of.values()) == {clause.number for clause in CLAUSES}


def test_each_check_is_listed_once() -> None:
    listed = [check.__name__ for check in (*CHECKS, *SERVER_CHECKS, *NETWORK_CHECKS)]
    written = [
        name
        for module in pkgutil.iter_modules(contract.__path__, f"{contract.__name__}.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if re.match(r"[a-z]\d+_|api_", name) and getattr(value, "__module__", None) == module.name
    ]
    assert sorted(listed) == sorted(written)
