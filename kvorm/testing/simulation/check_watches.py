"""Whether watches told each change in order, once and completely, and views showed what was stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from kvorm.keys import matches
from kvorm.testing.simulation.checks import Violation
from kvorm.testing.simulation.record import Event, Record, Seen, Told, Watching
from kvorm.testing.simulation.truth import NEVER, SLACK, Life, Truth, Written


def check_watches(record: Record, truth: Truth) -> Iterator[Violation]:
    """S1-S5: ordered, unique, true, complete, and caught up once per start."""
    for watch in record.watches:
        if watch.ended:
            if watch.not_there and truth.was_gone(watch.start, watch.ended_at):
                continue
            yield Violation("S6", f"watch {watch.name} ended: {watch.ended}")
            continue
        parts = _between_resets(watch.events)
        for number, part in enumerate(parts):
            yield from _check_order(watch, part)
            # Its reader may have left it just after a reset.
            is_last = number == len(parts) - 1 and not (number and watch.stopped)
            yield from _check_caught_up(watch, part, is_last=is_last)
        yield from _check_truth(watch, truth)
        if truth.lives:
            if not watch.stopped:
                yield from _check_complete(watch, parts, truth)
            if len(truth.lives) == 1:
                yield from _check_initial(watch, parts[0], truth.lives[0])
                if len(parts) > 1:
                    yield Violation("S5", f"watch {watch.name} was reset, and the bucket is the same")


def _between_resets(events: Sequence[Event]) -> list[list[Event]]:
    parts: list[list[Event]] = [[]]
    for event in events:
        if event.what is Told.RESET:
            parts.append([])
        else:
            parts[-1].append(event)
    return parts


def _check_order(watch: Watching, part: Sequence[Event]) -> Iterator[Violation]:
    revisions = [event.what.revision for event in part if isinstance(event.what, Seen)]
    for one, following in pairwise(revisions):
        if one == following:
            yield Violation("S2", f"watch {watch.name} told revision {one} twice")
        elif one > following:
            yield Violation("S1", f"watch {watch.name} told revision {following} after {one}")


def _check_caught_up(watch: Watching, part: Sequence[Event], *, is_last: bool) -> Iterator[Violation]:
    times = sum(event.what is Told.CAUGHT_UP for event in part)
    if times > 1 or (is_last and not times):
        yield Violation("S4", f"watch {watch.name} said {times} times that it has caught up")


def _check_truth(watch: Watching, truth: Truth) -> Iterator[Violation]:
    for event in watch.events:
        if isinstance(event.what, Seen):
            stored = [life.at(event.what.revision) for life in truth.lives]
            if not any(one is not None and one.seen == event.what for one in stored):
                yield Violation("S1", f"watch {watch.name} told {event.what}, which is not stored")
            if not matches(watch.filter, event.what.key):
                yield Violation("S3", f"watch {watch.name} told {event.what}, which nobody asked for")


def _check_complete(watch: Watching, parts: Sequence[Sequence[Event]], truth: Truth) -> Iterator[Violation]:
    """S3: the last state of each key is told, also with what happened in between."""
    life = truth.lives[-1]
    first = watch.since if len(parts) == 1 else 0
    told = {event.what.revision for event in parts[-1] if isinstance(event.what, Seen)}
    for key, written in life.by_key.items():
        latest = written[-1]
        if latest.gone < life.end or not matches(watch.filter, key) or latest.revision <= first:
            continue
        if watch.updates_only and len(parts) == 1 and latest.at <= _begun(watch):
            continue
        if latest.revision not in told:
            yield Violation("S3", f"watch {watch.name} never told {latest}")


def _begun(watch: Watching) -> float:
    """Return when a watch of updates only was at the end of what there was."""
    return next((event.at for event in watch.events if event.what is Told.CAUGHT_UP), float("inf"))


def _check_initial(watch: Watching, part: Sequence[Event], life: Life) -> Iterator[Violation]:
    """S4: what existed at the start is told before the CaughtUp, in that state or a newer one."""
    end = next((number for number, event in enumerate(part) if event.what is Told.CAUGHT_UP), None)
    if end is None or watch.updates_only:
        return
    told: dict[str, int] = {}
    for event in part[:end]:
        if isinstance(event.what, Seen):
            told[event.what.key] = event.what.revision
    for key, written in life.by_key.items():
        before = [one for one in written if one.at <= watch.start - SLACK and one.gone > watch.start]
        if not before or not matches(watch.filter, key) or before[-1].revision <= watch.since:
            continue
        if _was_away([one for one in written if one.revision >= before[-1].revision], part[end].at):
            continue
        if told.get(key, 0) < before[-1].revision:
            yield Violation("S4", f"watch {watch.name} had caught up before it told of {before[-1]}")


def _was_away(written: Sequence[Written], until: float) -> bool:
    """Tell whether nothing of a key was there at some moment: it expired."""
    following = [*(one.at for one in written[1:]), NEVER]
    return any(one.gone <= until and one.gone < next_ - SLACK for one, next_ in zip(written, following, strict=True))


def check_views(record: Record) -> Iterator[Violation]:
    """S8: a view equals the bucket."""
    for view in record.views:
        if view.late:
            yield Violation("S8", f"a view did not come so far: {view.late}")
        elif view.shown != view.stored:
            yield Violation("S8", f"a view shows {view.shown}, stored is {view.stored}")
