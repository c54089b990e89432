"""changes(): typed change handlers, for every process or for one member of a work group."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

import nats.errors
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.subscriber.usecases import PullStreamSubscriber
from nats.aio.msg import Msg
from pydantic import BaseModel

from kvorm.backends import message
from kvorm.backends.base import BucketHandle, Deadline, RawChange
from kvorm.entry import CaughtUp, Entry, Marker
from kvorm.errors import DecodeError, KvormError
from kvorm.faststream.change import AnyChange, ChangeMsg, parse_change, subject
from kvorm.faststream.group import WorkGroup, next_change
from kvorm.faststream.installed import Provider, find
from kvorm.faststream.target import checked_model
from kvorm.keys import matches
from kvorm.model import CompiledMapping, compile_model
from kvorm.repository import Repository
from kvorm.store import Store
from kvorm.typed import Typed

ACK_WAIT: Final = timedelta(seconds=30)
_PAUSE_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.02
_CANCEL_SECONDS: Final = 1.0
_GROUP_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_log = logging.getLogger("kvorm")


class Registrator(Protocol):
    """What has handlers: a broker, a router, or FastStream's router for FastAPI."""

    @property
    def subscriber(self) -> Callable[..., Any]:
        """Make a subscriber."""
        ...


@dataclass(frozen=True)
class Wanted:
    """Which changes a handler wants, and as what."""

    mapping: CompiledMapping[Any]
    key_fields: Mapping[str, Any]
    durable: str | None
    ack_wait: timedelta
    updates_only: bool

    @property
    def filter(self) -> str:
        """Which raw keys."""
        return self.mapping.filter(self.key_fields)

    @property
    def subject(self) -> str:
        """What FastStream shows as the subject; where the KV has a namespace, the bucket's name is longer."""
        return subject(self.mapping.bucket.name, self.filter)

    def group(self, durable: str, bucket: str) -> WorkGroup:
        """Return the work group of that name on a bucket."""
        return WorkGroup(durable, bucket, self.filter, self.ack_wait, self.updates_only)


class ChangesSubscriber(PullStreamSubscriber):
    """A subscriber of FastStream that gets its messages from kvorm; everything after that is FastStream's."""

    wanted: Wanted

    def check(self) -> None:
        """Refuse what would start and deliver nothing.

        Raises:
            SetupError: the router has a prefix, which FastStream would put before the subject.
        """
        if self._outer_config.prefix:
            raise SetupError(
                f"KV: changes({self.wanted.mapping.model.__name__}) stands on a router with the prefix "
                f"{self._outer_config.prefix!r}; keys have none. Put it on a router without a prefix, or on the broker"
            )

    async def stop(self) -> None:
        """Stop, and return when the subscriptions are gone.

        FastStream drains the connection next, which would wait in vain for somebody to read what they still hold.
        """
        ending = {task for task in self.tasks if task is not asyncio.current_task()}
        await super().stop()
        while ending:
            # Again and again: nats-py waits with asyncio.wait_for, which in Python 3.11 may swallow a cancellation.
            for task in ending:
                task.cancel()
            _, ending = await asyncio.wait(ending, timeout=_CANCEL_SECONDS)

    async def deliver(self, handle: BucketHandle, raw: RawChange) -> None:
        """Run the handler on a change of a store without a server; what it raises is raised here."""
        provider = self._provider()
        if handle.settings.name != provider.repository(self.wanted.mapping.model).bucket.name:
            return
        if matches(self.wanted.filter, raw.raw_key) and (change := self._typed(handle, raw)) is not None:
            await self.process_message(ChangeMsg.told(change, subscription=self.wanted.subject))

    async def _create_subscription(self) -> None:
        """Begin, once the bucket is there."""
        self.check()
        provider = self._provider()
        repository = provider.repository(self.wanted.mapping.model)
        store = provider.store
        await store.handle(repository.bucket, Deadline(store.timeout))
        if self.wanted.durable is None:
            self.add_task(self._follow, (repository,))
            return
        group = self.wanted.group(self.wanted.durable, repository.bucket.name)
        async with group.joined(self.jetstream):
            pass  # What the server refuses is refused when the app starts.
        self.add_task(self._work, (group, store, repository))

    def _provider(self) -> Provider:
        config = self._outer_config
        return find(config.fd_config.context, self.wanted.mapping.model, config.extra_context.get("broker"))

    async def _follow(self, repository: Repository[Any]) -> None:
        """Hand over what a watch delivers, for ever; after an error go on where it was."""
        since: Entry[Any] | Marker | CaughtUp | None = None
        while True:
            try:
                async with repository.watch(
                    since=since,
                    updates_only=self.wanted.updates_only and since is None,
                    on_invalid=_set_aside,
                    **self.wanted.key_fields,
                ) as events:
                    async for event in events:
                        if isinstance(event, Entry | Marker):
                            await self._hand_over(ChangeMsg.told(event, subscription=self.wanted.subject))
                        if isinstance(event, Entry | Marker | CaughtUp):
                            since = event
            except KvormError as error:
                _log.warning("KV: the changes of %r stopped, and go on: %s", repository, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _work(self, group: WorkGroup, store: Store, repository: Repository[Any]) -> None:
        """Hand over what this member of a group gets, for ever; after an error join again."""
        while True:
            try:
                async with group.joined(self.jetstream) as subscription:
                    while True:
                        if (msg := await next_change(subscription)) is not None:
                            handle = await store.handle(repository.bucket, Deadline(store.timeout))
                            await self._work_on(msg, handle)
            except (KvormError, nats.errors.Error) as error:
                _log.warning("KV: the work group %r lost its place, and joins again: %r", group.name, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _work_on(self, msg: Msg, handle: BucketHandle) -> None:
        raw_key = msg.subject.removeprefix(subject(handle.settings.name, ""))
        metadata = msg.metadata
        raw = message.read(raw_key, msg.data, metadata.sequence.stream, metadata.timestamp, msg.headers or {})
        change = self._typed(handle, raw)
        if change is None:
            await msg.term()
        else:
            await self._hand_over(ChangeMsg.of(msg, change, subscription=self.wanted.subject))

    def _typed(self, handle: BucketHandle, raw: RawChange) -> AnyChange | None:
        """Return a change, or None for a key of another model and for a value that is set aside."""
        if self.wanted.mapping.key(raw.raw_key) is None:
            return None
        try:
            return Typed(self.wanted.mapping, handle).change(raw)
        except DecodeError as error:
            _set_aside(error)
            return None

    async def _hand_over(self, msg: ChangeMsg) -> None:
        # While it is not running FastStream drops messages: for a moment around "try it out", and before it is stopped.
        while not self.running:  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(_POLL_SECONDS)
        await self.consume(msg)


def changes(
    router: Registrator,
    model: type[BaseModel],
    *,
    durable: str | None = None,
    ack_wait: timedelta = ACK_WAIT,
    updates_only: bool = False,
    **key_fields: object,
) -> ChangesSubscriber:
    """Decorate a function with this to have it called with every `Change[Order]` of a model.

    Without `durable` every process gets the current state of each key when it starts, then all changes, in order; a
    handler that raises is logged, and the next change comes. With `durable` every kept change goes to one member of
    the group of that name, and comes again, after ever longer pauses, until a handler ended without an error: at
    least once, and not in order where there are several members. A value that does not decode is logged and set aside.

    Args:
        router: a broker or router of FastStream, or its router for FastAPI; without a prefix.
        model: whose changes.
        durable: the name of a work group.
        ack_wait: how long a handler of a group may take, before another member gets the change too.
        updates_only: begin with what comes from now on; for a group, when it is new.
        key_fields: as for `find`: only keys with these values.

    Raises:
        ModelError: the class is declared wrongly.
        InvalidKeyError: unknown or refused key fields.
        SetupError: `model` is no model, or `durable` or `ack_wait` is none.
    """
    _check_group(durable, ack_wait)
    wanted = Wanted(compile_model(checked_model(model, "changes")), key_fields, durable, ack_wait, updates_only)
    subscriber = router.subscriber(
        wanted.subject,
        stream=JStream(f"KV_{wanted.mapping.bucket.name}", declare=False),
        pull_sub=PullSub(batch_size=1),
        parser=parse_change,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        no_reply=True,
    )
    # FastStream's factory makes the plain class; ours differs in where the messages come from, in nothing else.
    subscriber.__class__ = ChangesSubscriber
    assert isinstance(subscriber, ChangesSubscriber)
    subscriber.wanted = wanted
    return subscriber


def _check_group(durable: object, ack_wait: object) -> None:
    if durable is not None and not (isinstance(durable, str) and _GROUP_NAME.fullmatch(durable)):
        raise SetupError(
            f"KV: durable={durable!r} is no name of a work group; use letters, digits, '-' and '_', as in 'billing'"
        )
    if not isinstance(ack_wait, timedelta) or ack_wait <= timedelta(0):
        raise SetupError(f"KV: ack_wait={ack_wait!r} must be a positive timedelta, for example timedelta(seconds=30)")


def check_change_handlers(broker: NatsBroker) -> None:
    """Look for change handlers of a broker that would start and then not get what they should.

    Raises:
        SetupError: one stands on a router with a prefix, or two would share the changes of one group.
    """
    groups: set[tuple[str, str]] = set()
    for subscriber in change_subscribers(broker):
        subscriber.check()
        bucket, durable = subscriber.wanted.mapping.bucket.name, subscriber.wanted.durable
        if durable is not None and (bucket, durable) in groups:
            raise SetupError(
                f"KV: two change handlers on bucket {bucket!r} say durable={durable!r}, and each would get a part of "
                f"the changes; give each a group of its own"
            )
        groups.add((bucket, durable or ""))


def change_subscribers(broker: NatsBroker) -> Iterator[ChangesSubscriber]:
    """Yield the change handlers of a broker and its routers."""
    for subscriber in broker.subscribers:
        if isinstance(subscriber, ChangesSubscriber):
            yield subscriber


def _set_aside(error: DecodeError) -> None:
    _log.error("KV: a change is set aside, no handler gets it: %s", error)
