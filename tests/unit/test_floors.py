"""What a store has seen of each key is remembered for the keys used last."""

from kvorm.backends.nats import floors
from kvorm.backends.nats.floors import Floors


def test_a_floor_rises_and_never_falls() -> None:
    seen = Floors()
    assert seen.of("a") == 0
    seen.raise_to("a", 3)
    seen.raise_to("a", 2)
    assert seen.of("a") == 3
    assert seen.of("b") == 0


def test_nothing_is_remembered_of_what_was_never_there() -> None:
    seen = Floors()
    seen.raise_to("a", 0)
    assert seen.of("a") == 0


def test_what_is_gone_is_forgotten() -> None:
    seen = Floors()
    seen.raise_to("a", 3)
    seen.forget("a")
    seen.forget("a")
    assert seen.of("a") == 0


def test_the_keys_used_last_are_kept() -> None:
    seen = Floors()
    for number in range(floors.MOST_KEYS):
        seen.raise_to(str(number), 1)
    seen.raise_to("0", 1)
    seen.raise_to("one more", 1)
    assert seen.of("0") == 1
    assert seen.of("1") == 0
    assert seen.of("one more") == 1
