"""Which entries leave without a word, and when the store is asked for them."""

from datetime import UTC, datetime, timedelta

from kvorm.backends.base import RawEntry, RawMarker
from kvorm.bucket import Bucket
from kvorm.lifetimes import Lifetimes

SECOND = timedelta(seconds=1)
SILENT = Bucket("b", ttl=SECOND)


def entry(raw_key: str = "a", revision: int = 1, *, age: timedelta = SECOND, ttl: timedelta | None = None) -> RawEntry:
    return RawEntry(raw_key, b"", revision, datetime.now(UTC) - age, {}, ttl=ttl)


def test_an_entry_is_due_at_the_end_of_its_lifetime() -> None:
    lifetimes = Lifetimes()
    lifetimes.note(entry("young", age=timedelta(0)), "y", SILENT)
    lifetimes.note(entry("old", age=2 * SECOND), "o", SILENT)
    lifetimes.note(entry("older", age=3 * SECOND), "o", SILENT)
    assert [one.raw_key for one in lifetimes.take_due(1)] == ["older"]
    assert [one.raw_key for one in lifetimes.take_due(9)] == ["old"]
    assert lifetimes.take_due(9) == []
    assert lifetimes


def test_only_what_nothing_tells_of_is_noted() -> None:
    minute = 60 * SECOND
    loud, history = Bucket("b", ttl=SECOND, marker_ttl=minute), Bucket("b", marker_ttl=minute, history=2)
    hasty = Bucket("b", ttl=SECOND, marker_ttl=SECOND)
    lifetimes = Lifetimes()
    for raw, settings in [
        (entry(), Bucket("b")),
        (entry(), loud),
        (entry(ttl=SECOND), loud),
        (entry(ttl=timedelta.max), SILENT),
        (entry(), history),
    ]:
        lifetimes.note(raw, "held", settings)
        assert not lifetimes
    for raw, settings in [
        (entry(), SILENT),
        (entry(ttl=SECOND), Bucket("b")),
        (entry(ttl=SECOND), history),
        (entry(), hasty),
    ]:
        lifetimes.note(raw, "held", settings)
        assert len(lifetimes.take_due(9)) == 1


def test_a_key_that_is_written_again_counts_anew() -> None:
    lifetimes = Lifetimes()
    lifetimes.note(entry("a"), "old", SILENT)
    (old,) = lifetimes.take_due(1)
    lifetimes.note(entry("a", 2), "new", SILENT)
    lifetimes.ask_again(old)
    assert [one.held for one in lifetimes.take_due(9)] == ["new"]
    lifetimes.note(entry("a", 3), "newest", SILENT)
    lifetimes.note(RawMarker("a", "deleted", 4, datetime.now(UTC)), None, SILENT)
    assert not lifetimes
    assert lifetimes.take_due(9) == []


def test_a_clock_behind_the_servers_asks_late_and_not_never() -> None:
    lifetimes = Lifetimes()
    lifetimes.note(entry(age=timedelta(days=-1), ttl=timedelta(0)), "held", Bucket("b"))
    assert len(lifetimes.take_due(1)) == 1


def test_what_was_written_often_is_kept_once() -> None:
    lifetimes = Lifetimes()
    for revision in range(10_000):
        lifetimes.note(entry("a", revision), revision, SILENT)
    assert len(lifetimes._queue) < 100
    assert [one.held for one in lifetimes.take_due(9)] == [9_999]
