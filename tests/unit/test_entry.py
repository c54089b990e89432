"""Entries, markers and signs: matching, equality, pickling."""

import copy
import pickle
from datetime import UTC, datetime

import pytest

from kvorm import ABSENT, ANY, CaughtUp, Entry, Marker, Reset

WRITTEN = datetime(2026, 1, 2, tzinfo=UTC)


def entry(value: object = "x", revision: int = 3, incarnation: str = "life") -> Entry[object]:
    return Entry(value, revision, WRITTEN, ("acme", 1), "acme.1", "orders", incarnation)


def marker(revision: int = 3, incarnation: str = "life") -> Marker:
    return Marker(("acme", 1), "deleted", revision, WRITTEN, "acme.1", "orders", incarnation)


EVENTS = [entry(), marker(), CaughtUp(7, "life"), Reset()]


def described(event: object) -> str:
    match event:
        case Entry(value=value, revision=revision):
            return f"{value} at {revision}"
        case Marker(key=key, reason=reason):
            return f"{key} {reason}"
        case CaughtUp(revision=revision):
            return f"caught up at {revision}"
        case Reset():
            return "reset"
    raise AssertionError(event)


def test_events_match_by_name() -> None:
    assert [described(event) for event in EVENTS] == ["x at 3", "('acme', 1) deleted", "caught up at 7", "reset"]


def test_events_match_by_position() -> None:
    match entry():
        case Entry(value, revision):
            assert (value, revision) == ("x", 3)
    match marker():
        case Marker(key, reason):
            assert (key, reason) == (("acme", 1), "deleted")
    match CaughtUp(7):
        case CaughtUp(revision):
            assert revision == 7


def test_all_attributes_are_there() -> None:
    told = entry()
    assert (told.value, told.revision, told.written, told.key) == ("x", 3, WRITTEN, ("acme", 1))
    assert (told.raw_key, told.bucket, told.incarnation) == ("acme.1", "orders", "life")
    gone = marker()
    assert (gone.key, gone.reason, gone.revision, gone.written) == (("acme", 1), "deleted", 3, WRITTEN)
    assert (gone.raw_key, gone.bucket, gone.incarnation) == ("acme.1", "orders", "life")


def test_equal_are_the_same_facts_in_whatever_life() -> None:
    assert entry() == entry(incarnation="another")
    assert marker() == marker(incarnation="another")
    assert CaughtUp(7, "life") == CaughtUp(7)
    assert Reset() == Reset()
    assert len({marker(), marker(), CaughtUp(7), CaughtUp(7), Reset(), Reset(), entry(), entry()}) == 4


def test_other_facts_and_other_classes_are_not_equal() -> None:
    assert entry() != entry(revision=4)
    assert entry() != entry(value="y")
    assert marker() != marker(revision=4)
    assert CaughtUp(7) != CaughtUp(8)
    assert all(one != other for one in EVENTS for other in EVENTS if one is not other)
    assert CaughtUp(7) != 7


def test_an_entry_of_an_unhashable_value_is_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(entry(value=[]))


def test_repr_tells_what_matters() -> None:
    assert repr(CaughtUp(7, "life")) == "CaughtUp(revision=7)"
    assert repr(Reset()) == "Reset()"
    assert repr(entry()).startswith("Entry(value='x', revision=3, written=")
    assert repr(marker()).startswith("Marker(key=('acme', 1), reason='deleted', revision=3, ")


def test_no_further_attributes() -> None:
    for event in EVENTS:
        with pytest.raises(AttributeError):
            event.note = "x"  # type: ignore[attr-defined, union-attr]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_survive_pickling_and_copying(event: Entry[object] | Marker | CaughtUp | Reset) -> None:
    for other in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert type(other) is type(event)
        assert other == event
        assert getattr(other, "incarnation", None) == getattr(event, "incarnation", None)


def test_expectations_are_single_objects() -> None:
    for expect in (ABSENT, ANY):
        assert pickle.loads(pickle.dumps(expect)) is expect
        assert copy.deepcopy(expect) is expect
    assert (repr(ABSENT), repr(ANY)) == ("ABSENT", "ANY")
    assert ABSENT != ANY
