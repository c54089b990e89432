"""Five bugs of domain code are found, within a number of stories, and nothing is found where there is none."""

from __future__ import annotations

import inspect
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import Phase, settings

import kvorm
from kvorm.testing.machine import RepositoryMachine
from kvorm.testing.servers import NatsServer
from tests.testing.domain import AppliesTwice, BlindDelete, BlindOverwrite, LostUpdate, StaleView
from tests.testing.machines import BankMachine, HallMachine, OneSeatMachine, UnluckyBankMachine

STORIES = 1000
SAME_EACH_TIME = settings(max_examples=300, derandomize=True, database=None)

RIGHT = [BankMachine, UnluckyBankMachine, HallMachine, OneSeatMachine]
WRONG: list[tuple[type[RepositoryMachine], str, type]] = [
    (BankMachine, "bank", LostUpdate),
    (BankMachine, "bank", BlindOverwrite),
    (UnluckyBankMachine, "bank", AppliesTwice),
    (HallMachine, "hall", StaleView),
    (OneSeatMachine, "hall", BlindDelete),
]


def with_bug(machine: type[RepositoryMachine], name: str, bug: type) -> type[RepositoryMachine]:
    return type(f"{machine.__name__}With{bug.__name__}", (machine,), {name: bug})


@pytest.mark.parametrize("machine", RIGHT)
def test_what_is_right_is_not_blamed(machine: type[RepositoryMachine]) -> None:
    machine.test(settings=SAME_EACH_TIME)()


@pytest.mark.parametrize(("machine", "name", "bug"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_bug_is_found(machine: type[RepositoryMachine], name: str, bug: type) -> None:
    with pytest.raises(AssertionError) as found:
        with_bug(machine, name, bug).test(settings=settings(SAME_EACH_TIME, max_examples=STORIES))()
    story = next(note for note in found.value.__notes__ if note.startswith("What happened"))
    # Two actors, or one and a fault, with one or two operations each.
    assert story.count("begins") >= 2 or "StoreTimeoutError" in story
    assert story.count("begins") <= 4


@pytest.mark.parametrize("machine", RIGHT)
def test_it_takes_no_more_than_thirty_lines(machine: type[RepositoryMachine]) -> None:
    assert len(inspect.getsource(machine).splitlines()) <= 30


def test_the_same_on_a_server(tmp_path: Path) -> None:
    few = settings(SAME_EACH_TIME, max_examples=20)
    quick = settings(SAME_EACH_TIME, max_examples=60, phases=[Phase.generate])
    with NatsServer(tmp_path) as server:

        def opened() -> kvorm.store.Connecting:
            return kvorm.connect(server.url, namespace=f"t{uuid4().hex[:12]}-")

        BankMachine.test(store=opened, settings=few)()
        HallMachine.test(store=opened, settings=few)()
        with pytest.raises(AssertionError):
            with_bug(BankMachine, "bank", BlindOverwrite).test(store=opened, settings=quick)()
