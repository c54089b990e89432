"""The in-memory stream: numbers, limits, expiry."""

from datetime import UTC, datetime, timedelta

import pytest

from kvorm.backends.log import Limits, Log, LogFullError, WrongLastSequenceError

SECOND = timedelta(seconds=1)
ROLLUP = {"Nats-Rollup": "sub"}


class Clock:
    """Time set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_time(self, duration: timedelta) -> None:
        self.now += duration


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new_log(clock: Clock, **limits: object) -> Log:
    return Log(Limits(**limits), clock)  # type: ignore[arg-type]


def sequences(log: Log, subject: str) -> list[int]:
    return [message.sequence for message in log.of(subject)]


def test_messages_are_numbered_as_they_come(clock: Clock) -> None:
    log = new_log(clock, per_subject=2)
    assert [log.append(subject, b"", {}) for subject in ("a", "b", "a", "a")] == [1, 2, 3, 4]
    assert sequences(log, "a") == [3, 4]
    assert sequences(log, "b") == [2]
    assert sequences(log, "c") == []
    assert log.last_sequence == 4
    assert sorted(log.subjects()) == ["a", "b"]


def test_a_message_is_as_it_was_sent(clock: Clock) -> None:
    log = new_log(clock)
    headers = {"A": "1"}
    log.append("a", b"x", headers)
    headers["A"] = "2"
    message = log.last("a")
    assert message is not None
    assert (message.subject, message.data, message.headers, message.written) == ("a", b"x", {"A": "1"}, clock.now)
    assert log.at(1) == message
    assert log.at(2) is None
    assert log.last("b") is None


def test_after_yields_the_rest_in_order(clock: Clock) -> None:
    log = new_log(clock, per_subject=2)
    for subject in ("a", "b", "a", "a"):
        log.append(subject, b"", {})
    assert [message.sequence for message in log.after(0)] == [2, 3, 4]
    assert [message.sequence for message in log.after(3)] == [4]
    assert list(log.after(4)) == []


def test_what_is_gone_does_not_pile_up(clock: Clock) -> None:
    log = new_log(clock)
    for _ in range(1000):
        log.append("a", b"", {})
    log.append("b", b"", {})
    assert [message.sequence for message in log.after(0)] == [1000, 1001]
    assert len(log._order) < 200


def test_an_expected_sequence_is_the_last_of_the_subject(clock: Clock) -> None:
    log = new_log(clock, per_subject=3)
    log.append("a", b"", {}, expected=0)
    log.append("b", b"", {})
    log.append("a", b"", {}, expected=1)
    for expected in (0, 1, 2, 4):
        with pytest.raises(WrongLastSequenceError):
            log.append("a", b"", {}, expected=expected)
    assert sequences(log, "a") == [1, 3]
    assert log.last_sequence == 3


def test_a_rollup_removes_what_was_before(clock: Clock) -> None:
    log = new_log(clock, per_subject=5)
    for _ in range(3):
        log.append("a", b"", {})
    log.append("b", b"", {})
    log.append("a", b"", ROLLUP)
    log.append("a", b"", {})
    assert sequences(log, "a") == [5, 6]
    assert sequences(log, "b") == [4]


def test_a_full_log_refuses(clock: Clock) -> None:
    log = new_log(clock, per_subject=2, max_bytes=20)
    log.append("a", b"x" * 9, {})
    with pytest.raises(LogFullError):
        log.append("b", b"x" * 10, {})
    log.append("b", b"x" * 9, {})
    with pytest.raises(LogFullError):
        log.append("a", b"", {})
    assert log.last_sequence == 2


def test_what_a_message_displaces_makes_room_for_it(clock: Clock) -> None:
    log = new_log(clock, per_subject=1, max_bytes=20)
    log.append("a", b"x" * 19, {})
    log.append("a", b"y" * 19, {})
    with pytest.raises(LogFullError):
        log.append("a", b"z" * 20, {})
    message = log.last("a")
    assert message is not None
    assert message.data == b"y" * 19


def test_headers_count(clock: Clock) -> None:
    log = new_log(clock, max_bytes=20)
    with pytest.raises(LogFullError):
        log.append("a", b"", {"Name": "value"})


# Expiry


def test_messages_live_for_max_age(clock: Clock) -> None:
    log = new_log(clock, per_subject=2, max_age=10 * SECOND)
    log.append("a", b"", {})
    clock.pass_time(5 * SECOND)
    log.append("a", b"", {})
    clock.pass_time(4.999 * SECOND)
    assert sequences(log, "a") == [1, 2]
    clock.pass_time(0.001 * SECOND)
    assert sequences(log, "a") == [2]
    clock.pass_time(5 * SECOND)
    assert sequences(log, "a") == []
    assert log.subjects() == []
    assert log.append("a", b"", {}, expected=0) == 3


def test_the_last_message_of_a_subject_leaves_a_marker(clock: Clock) -> None:
    log = new_log(clock, per_subject=2, max_age=10 * SECOND, marker_ttl=3 * SECOND)
    log.append("a", b"x", {})
    log.append("a", b"y", {})
    clock.pass_time(10 * SECOND)
    (marker,) = log.of("a")
    assert (marker.sequence, marker.data) == (3, b"")
    assert marker.headers == {"Nats-Marker-Reason": "MaxAge", "Nats-TTL": "3s", "Nats-Rollup": "sub"}
    clock.pass_time(3 * SECOND)
    assert log.subjects() == []
    assert log.last_sequence == 3


@pytest.mark.parametrize(
    ("headers", "leaves_one"),
    [({}, True), ({"KV-Operation": "DEL"}, True), ({"KV-Operation": "PURGE", **ROLLUP}, False)],
)
def test_a_purge_leaves_no_marker_of_expiry(clock: Clock, headers: dict[str, str], leaves_one: bool) -> None:
    """As seen on nats-server 2.15."""
    log = new_log(clock, max_age=10 * SECOND, marker_ttl=3 * SECOND)
    log.append("a", b"", headers)
    clock.pass_time(10 * SECOND)
    assert sequences(log, "a") == ([2] if leaves_one else [])


def test_markers_come_in_the_order_of_expiry(clock: Clock) -> None:
    log = new_log(clock, max_age=10 * SECOND, marker_ttl=60 * SECOND)
    for subject in ("c", "a", "b"):
        log.append(subject, b"", {})
        clock.pass_time(SECOND)
    clock.pass_time(10 * SECOND)
    log.expire()
    assert [message.subject for message in log.after(3)] == ["c", "a", "b"]


def test_a_message_written_over_does_not_expire_again(clock: Clock) -> None:
    log = new_log(clock, max_age=10 * SECOND, marker_ttl=60 * SECOND)
    log.append("a", b"", {})
    clock.pass_time(9 * SECOND)
    log.append("a", b"", {})
    clock.pass_time(9 * SECOND)
    assert sequences(log, "a") == [2]


def test_expired_bytes_are_free(clock: Clock) -> None:
    log = new_log(clock, max_age=10 * SECOND, max_bytes=10)
    log.append("a", b"x" * 9, {})
    clock.pass_time(10 * SECOND)
    assert log.append("b", b"x" * 9, {}) == 2


def test_the_next_expiry_is_known(clock: Clock) -> None:
    log = new_log(clock, max_age=10 * SECOND)
    assert log.next_expiry() is None
    log.append("a", b"", {})
    assert log.next_expiry() == clock.now + 10 * SECOND


# Other limits


def test_fewer_messages_per_subject_apply_at_once(clock: Clock) -> None:
    log = new_log(clock, per_subject=5)
    for subject in "aaabbc":
        log.append(subject, b"", {})
    log.restrict(Limits(per_subject=1))
    assert (sequences(log, "a"), sequences(log, "b"), sequences(log, "c")) == ([3], [5], [6])


def test_a_shorter_lifetime_applies_at_once(clock: Clock) -> None:
    log = new_log(clock, per_subject=2, max_age=60 * SECOND)
    log.append("a", b"", {})
    clock.pass_time(20 * SECOND)
    log.append("a", b"", {})
    log.restrict(Limits(per_subject=2, max_age=10 * SECOND))
    assert sequences(log, "a") == [2]
    log.restrict(Limits(per_subject=2))
    clock.pass_time(60 * SECOND)
    assert sequences(log, "a") == [2]


def test_its_own_lifetime_leaves_no_marker_over_what_is_older(clock: Clock) -> None:
    """As seen on nats-server 2.15: the older message is back, and its own end leaves one."""
    log = new_log(clock, per_subject=2, marker_ttl=60 * SECOND)
    log.append("a", b"x", {"Nats-TTL": "3s"})
    log.append("a", b"y", {"Nats-TTL": "1s"})
    clock.pass_time(SECOND)
    assert sequences(log, "a") == [1]
    clock.pass_time(2 * SECOND)
    (marker,) = log.of("a")
    assert marker.sequence == 3


def test_the_lifetime_of_all_leaves_one_marker_in_place_of_the_older(clock: Clock) -> None:
    log = new_log(clock, per_subject=2, max_age=10 * SECOND, marker_ttl=60 * SECOND)
    log.append("a", b"x", {})
    clock.pass_time(10 * SECOND)
    assert sequences(log, "a") == [2]
    log.append("a", b"y", {})
    assert sequences(log, "a") == [2, 3]
    clock.pass_time(10 * SECOND)
    assert sequences(log, "a") == [4]
