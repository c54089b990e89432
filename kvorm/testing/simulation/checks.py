"""Whether what clients were told agrees with what was stored; each violation names the clause it breaks.

The clauses are those of the contract suite. Revisions are the witness: what a call says of one is compared with what
the log has under it, and with when it came there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvorm.testing.simulation.record import Call, Outcome, Record
from kvorm.testing.simulation.truth import SLACK, Truth, Written

_SLOW: float = 0.7
"""Seconds that a call may take beyond its budget: the last answer is waited for in steps."""

_NEWS_SECONDS: float = 1.5
"""How long a store may take to learn that a bucket was made anew."""

_WRITES = ("save", "delete", "purge", "load")


class Violation(NamedTuple):
    """A broken promise."""

    clause: str
    what: str

    def __str__(self) -> str:
        return f"{self.clause}: {self.what}"


def check_writes(record: Record, truth: Truth) -> Iterator[Violation]:
    """W1-W5, W9, W11: what was told stored is, once; what was told refused is not, and was rightly refused."""
    tags = Counter(one.tag or "" for one in truth.written() if one.tag is not None)
    known = {call.tag for call in record.calls if call.tag is not None}
    for tag, times in tags.items():
        if tag not in known:
            yield Violation("W1", f"{tag} is stored, and nobody wrote it")
        elif times > 1:
            yield Violation("W1", f"{tag} is stored {times} times")
    marked: Counter[int] = Counter()
    for call in record.calls:
        if call.kind not in _WRITES:
            continue
        if call.kind == "load" and call.outcome is Outcome.DONE:
            yield from _check_loaded(call, truth)
        elif call.outcome is Outcome.DONE:
            yield from _check_stored(call, truth)
            if call.tag is None and len(truth.lives) == 1:
                marked[call.revision] += 1
        elif call.outcome in (Outcome.REFUSED, Outcome.NOT_STORED) and call.tag in tags:
            yield Violation("W2" if call.outcome is Outcome.REFUSED else "W11", f"it is stored: {call}")
        if call.outcome is Outcome.REFUSED:
            yield from _check_refused(call, truth)
    for revision, times in marked.items():
        if times > 1:
            yield Violation("W1", f"{times} calls were told that they wrote marker {revision}")


def _check_stored(call: Call, truth: Truth) -> Iterator[Violation]:
    found = [
        (life, one)
        for life in truth.lives
        if (one := life.at(call.revision)) is not None and one.key == call.key and one.tag == call.tag
    ]
    if not found:
        yield Violation("W1", f"nothing of it is stored at that revision: {call}")
        return
    # Another life may have a like marker at that revision.
    life, one = next((each for each in found if call.start <= each[1].at <= call.end), found[-1])
    if not call.start - SLACK <= one.at <= call.end + SLACK and call.tag is not None and not call.own:
        yield Violation("W1", f"it was stored at {one.at:.4f}, outside the call: {call}")
    if call.expected is None or _crossed(call, truth):
        return
    before = [other for other in life.by_key[call.key] if other.revision < one.revision]
    latest = before[-1] if before and before[-1].gone >= one.at - SLACK else None
    if not _meets(latest, life.created, call):
        yield Violation("W4", f"it was stored over {latest}: {call}")


def _check_loaded(call: Call, truth: Truth) -> Iterator[Violation]:
    if not any(
        one.tag == call.tag and one.key == call.key and call.start - SLACK <= one.at <= call.end + SLACK
        for one in truth.written()
    ):
        yield Violation("W1", f"it was not stored during the call: {call}")


def _check_refused(call: Call, truth: Truth) -> Iterator[Violation]:
    if call.expected is None:
        if call.kind == "save":
            yield Violation("W4", f"a write with ANY was refused: {call}")
        return
    if _crossed(call, truth):
        return
    states = truth.states(call.key, call.start, call.end)
    if all(_meets(state.latest, state.life, call) for state in states):
        yield Violation("W5", f"nothing contradicted what it expected: {call}")


def _crossed(call: Call, truth: Truth) -> bool:
    """Whether a write was on its way when its store could not know yet that there is another bucket now."""
    return any(call.start - _NEWS_SECONDS <= life.start <= call.end for life in truth.lives[1:])


def _meets(latest: Written | None, life: str, call: Call) -> bool:
    """Whether a write may be stored over this, in this life of the bucket: in another one it was never saved."""
    is_known = call.life in ("", life)
    if is_known and latest is not None and latest.tag is not None and latest.tag in call.own:
        return True
    if call.expected == 0 or not is_known:
        return call.kind == "save" and (latest is None or latest.tag is None)
    return latest is not None and latest.revision == call.expected


def check_reads(record: Record, truth: Truth) -> Iterator[Violation]:
    """R1-R6: what was read was so at some moment of the call, and no store goes back."""
    newest: dict[tuple[int, str], int] = {}
    for call in sorted(record.calls, key=lambda call: call.end):
        if len(truth.lives) == 1:
            yield from _check_floor(call, newest)
        if call.outcome not in (Outcome.DONE, Outcome.ABSENT):
            continue
        yield from _check_read(call, truth, newest)


def _check_read(call: Call, truth: Truth, newest: Mapping[tuple[int, str], int]) -> Iterator[Violation]:
    match call.kind:
        case "get" | "delete" | "purge":
            yield from _check_get(call, truth, _since(call, call.key, truth, newest))
        case "history" if not call.nearest:
            yield from _check_history(call, truth)
        case "list":
            for key in {*truth.keys, *(one.key for one in call.seen)}:
                yield from _check_listed(call, key, truth, _since(call, key, truth, newest))
        case _:
            pass


def _since(call: Call, key: str, truth: Truth, newest: Mapping[tuple[int, str], int]) -> float:
    """Return the earliest moment that a call may answer as of, for one key.

    Its start; where any replica may answer, the moment of what this store knew to be stored.
    """
    if not call.nearest:
        return call.start
    known = truth.lives[0].at(newest.get((call.client, key), 0)) if len(truth.lives) == 1 else None
    return known.at if known is not None else 0.0


def _check_floor(call: Call, newest: dict[tuple[int, str], int]) -> Iterator[Violation]:
    """R2, its second sentence: never older than what this store wrote or read."""
    if call.kind not in ("get", "save"):
        return
    place = call.client, call.key
    if call.kind == "get" and call.outcome is Outcome.DONE:
        revision = call.seen[0].revision
        if revision < newest.get(place, 0):
            yield Violation("R2", f"this store knew of revision {newest[place]} before: {call}")
        newest[place] = max(revision, newest.get(place, 0))
    elif call.kind == "save" and call.outcome is Outcome.DONE:
        newest[place] = max(call.revision, newest.get(place, 0))


def _check_get(call: Call, truth: Truth, since: float) -> Iterator[Violation]:
    states = [state.latest for state in truth.states(call.key, since, call.end)]
    if call.kind != "get":
        if call.outcome is Outcome.ABSENT and all(one is not None and one.tag is not None for one in states):
            yield Violation("R1", f"the key was there all the time: {call}")
        return
    if call.outcome is Outcome.ABSENT:
        if all(one is not None and one.tag is not None for one in states):
            yield Violation("R2", f"the key was there all the time: {call}")
    elif not any(one is not None and one.seen == call.seen[0] for one in states):
        yield Violation("R2", f"at no moment of the call that was the latest: {call}; it was {states}")


def _check_history(call: Call, truth: Truth) -> Iterator[Violation]:
    """R4: all that was kept as of one moment."""
    moments = {call.start, call.end}
    for life in truth.lives:
        for one in life.by_key.get(call.key, ()):
            moments.update(moment for moment in (one.at, one.gone) if call.start <= moment <= call.end)
    lives = truth.lives_during(call.start, call.end)
    possible = [life.held(call.key, moment) for life in lives for moment in moments]
    for life in lives:
        for one in life.by_key.get(call.key, ()):
            if one.reason == "expired" and call.start <= one.at <= call.end:
                possible += life.expiring(call.key, one.at)
    if call.seen not in possible and not (len(truth.lives) > 1 and not call.seen):
        yield Violation("R4", f"at no moment that was all that was kept: {call}; it was {possible}")


def _check_listed(call: Call, key: str, truth: Truth, since: float) -> Iterator[Violation]:
    """R5: what was live throughout, not what was never live, once."""
    told = [one for one in call.seen if one.key == key]
    live = [state.latest for state in truth.states(key, since, call.end)]
    live = [one if one is not None and one.tag is not None else None for one in live]
    if not told and all(live):
        yield Violation("R5", f"{key} was live all the time: {call}")
    if told and not any(live):
        yield Violation("R5", f"{key} was never live: {call}")
    if len(told) > 1:
        yield Violation("R5", f"{key} came {len(told)} times: {call}")
    for one in told:
        if one.revision and not any(latest is not None and latest.seen == one for latest in live):
            yield Violation("R5", f"{one} was at no moment the latest: {call}")


def check_errors(record: Record) -> Iterator[Violation]:
    """Every call ends in its time, with an error of kvorm's own if any."""
    for call in record.calls:
        if call.outcome is Outcome.FAILED:
            yield Violation("errors", f"{call}")
        # A list and a load have their budget for each portion.
        if call.kind not in ("list", "count", "load") and call.end - call.start > record.budget + _SLOW:
            yield Violation("budget", f"it took {call.end - call.start:.2f} s of {record.budget:g} s: {call}")
        if (
            call.outcome is not Outcome.DONE
            and call.start > record.healed
            and call.outcome
            in (
                Outcome.NOT_STORED,
                Outcome.UNKNOWN,
            )
        ):
            yield Violation("errors", f"all was well again: {call}")


def check_leaks(record: Record) -> Iterator[Violation]:
    """C2, C3: nothing stays behind."""
    for left in record.left:
        yield Violation("C3", left)
