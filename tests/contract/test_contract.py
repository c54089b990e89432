"""Every clause on every store."""

import asyncio
import importlib
import pkgutil
import re

import pytest

from kvorm.testing import contract
from kvorm.testing.contract import CHECKS, SERVER_CHECKS, Check, ServerCheck, clauses
from kvorm.testing.contract.harness import Harness
from kvorm.testing.contract.on_nats import NatsHarness

LONGEST_SECONDS = 30.0

CLAUSES = {"W2", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "R1", "R3", "R4", "R5", "R6", "R7", "R8"}
CLAUSES |= {"E1", "E2", "I1", "I2", "I3", "S1", "S2", "S4", "S5", "S7", "S8", "C1", "C2"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_store(check: Check, harness: Harness) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        await check(harness)


@pytest.mark.parametrize("harness", ["server", "cluster"], indirect=True)
@pytest.mark.parametrize("check", SERVER_CHECKS, ids=lambda check: check.__name__)
async def test_server(check: ServerCheck, harness: NatsHarness) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        await check(harness)


def test_each_clause_has_a_check() -> None:
    named = {clause for check in (*CHECKS, *SERVER_CHECKS) for clause in clauses(check)}
    assert not CLAUSES - named


def test_each_check_is_listed_once() -> None:
    listed = [check.__name__ for check in (*CHECKS, *SERVER_CHECKS)]
    written = [
        name
        for module in pkgutil.iter_modules(contract.__path__, f"{contract.__name__}.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if re.match(r"[a-z]\d+_|api_", name) and getattr(value, "__module__", None) == module.name
    ]
    assert sorted(listed) == sorted(written)
