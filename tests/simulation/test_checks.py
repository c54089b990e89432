"""Each checker finds the violation that it is for, in a history made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from kvorm.testing.simulation.check_watches import check_views, check_watches
from kvorm.testing.simulation.checks import Violation, check_errors, check_leaks, check_reads, check_writes
from kvorm.testing.simulation.record import Call, Event, Outcome, Record, Seen, Told, Viewed, Watching
from kvorm.testing.simulation.truth import NEVER, Life, Truth, Written

KEY = "a.1"


def truth(*written: Written) -> Truth:
    return Truth([Life("", 0.0, NEVER, written)])


ONE = Written(KEY, 1, "x", 1.0)
TWO = Written(KEY, 2, "y", 2.0)
BOTH = truth(ONE, TWO)


def save(tag: str, start: float, end: float, outcome: Outcome, revision: int = 0, expected: int | None = 0) -> Call:
    return Call(0, "save", KEY, start, end, outcome, tag, expected, revision=revision)


FIRST = save("x", 0.5, 1.5, Outcome.DONE, 1)
SECOND = save("y", 1.6, 2.5, Outcome.DONE, 2, expected=1)


def clauses(found: Iterable[Violation]) -> set[str]:
    return {violation.clause for violation in found}


def get(start: float, end: float, *seen: Seen) -> Call:
    return Call(1, "get", KEY, start, end, Outcome.DONE if seen else Outcome.ABSENT, seen=list(seen))


def listed(start: float, end: float, *seen: Seen) -> Call:
    return Call(1, "list", "", start, end, Outcome.DONE, seen=list(seen))


def test_what_is_right_passes() -> None:
    reads = [get(0.1, 0.9), get(1.2, 1.3, ONE.seen), get(1.9, 2.1, TWO.seen), listed(1.1, 3, TWO.seen)]
    record = Record([FIRST, SECOND, *reads])
    assert not clauses(check_writes(record, BOTH))
    assert not clauses(check_reads(record, BOTH))


def test_a_write_that_is_lost() -> None:
    assert clauses(check_writes(Record([FIRST, SECOND]), truth(ONE))) == {"W1"}


def test_a_write_that_is_stored_twice() -> None:
    again = truth(ONE, Written(KEY, 2, "x", 1.2))
    assert clauses(check_writes(Record([FIRST]), again)) == {"W1"}


def test_a_refused_write_that_is_stored() -> None:
    refused = save("y", 1.6, 2.5, Outcome.REFUSED, expected=7)
    assert clauses(check_writes(Record([FIRST, refused]), BOTH)) == {"W2"}


def test_a_write_that_was_sent_after_it_was_given_up() -> None:
    given_up = save("y", 0.1, 0.2, Outcome.NOT_STORED)
    assert clauses(check_writes(Record([FIRST, given_up]), BOTH)) == {"W11"}


def test_an_expectation_that_did_not_hold() -> None:
    blind = save("y", 1.6, 2.5, Outcome.DONE, 2, expected=0)
    assert clauses(check_writes(Record([FIRST, blind]), BOTH)) == {"W4"}


def test_a_refusal_without_reason() -> None:
    refused = save("z", 1.6, 1.7, Outcome.REFUSED, expected=1)
    assert clauses(check_writes(Record([FIRST, SECOND, refused]), BOTH)) == {"W5"}


def test_a_stale_read() -> None:
    assert clauses(check_reads(Record([get(2.1, 2.2, ONE.seen)]), BOTH)) == {"R2"}
    assert clauses(check_reads(Record([get(2.1, 2.2)]), BOTH)) == {"R2"}


def test_a_partial_history() -> None:
    partial = Call(1, "history", KEY, 2.1, 2.2, Outcome.DONE, seen=[TWO.seen])
    assert clauses(check_reads(Record([partial]), BOTH)) == {"R4"}


def test_a_list_that_lacks_a_key_or_has_one_that_is_not_there() -> None:
    assert clauses(check_reads(Record([listed(2.1, 2.2)]), BOTH)) == {"R5"}
    assert clauses(check_reads(Record([listed(0.1, 0.2, Seen(KEY, 0, None))]), BOTH)) == {"R5"}
    assert clauses(check_reads(Record([listed(2.1, 2.2, TWO.seen, TWO.seen)]), BOTH)) == {"R5"}


def watched(*events: Event, start: float = 0.0) -> set[str]:
    return clauses(check_watches(Record(watches=[Watching("w", start, events=list(events))]), BOTH))


CAUGHT_UP = Event(0.1, Told.CAUGHT_UP)


def test_watches() -> None:
    one, two = Event(1.1, ONE.seen), Event(2.1, TWO.seen)
    assert not watched(CAUGHT_UP, one, two)
    assert watched(CAUGHT_UP, two, one) == {"S1"}
    assert watched(CAUGHT_UP, one, two, two) == {"S2"}
    assert watched(CAUGHT_UP, one) == {"S3"}
    assert watched(one, two) == {"S4"}
    assert watched(CAUGHT_UP, one, CAUGHT_UP, two) == {"S4"}
    assert watched(Event(3.1, Told.CAUGHT_UP), two, start=3.0) == {"S4"}
    assert watched(CAUGHT_UP, one, Event(1.5, Told.RESET), CAUGHT_UP, two) == {"S5"}


def test_a_watch_that_ended() -> None:
    assert clauses(check_watches(Record(watches=[Watching("w", 0.0, ended="why")]), BOTH)) == {"S6"}


def test_a_view_that_differs() -> None:
    assert clauses(check_views(Record(views=[Viewed(3.0, {KEY: "x"}, {KEY: "y"})]))) == {"S8"}


def test_what_is_left_and_what_takes_too_long() -> None:
    assert clauses(check_leaks(Record(left=["consumer x"]))) == {"C3"}
    slow = get(1.0, 9.0, TWO.seen)
    assert clauses(check_errors(Record([slow], budget=1.0, healed=NEVER))) == {"budget"}
