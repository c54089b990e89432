"""Buckets as streams: open, create, change, and notice when one was deleted or made anew."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from nats.aio.client import Client

from kvorm.backends.base import Deadline, Reads
from kvorm.backends.nats import health
from kvorm.backends.nats.bucket import NatsBucket
from kvorm.backends.nats.config import from_stream, stream_name, to_stream, updated
from kvorm.backends.nats.connecting import Reports
from kvorm.backends.nats.direct import Received
from kvorm.backends.nats.link import JetStreamError, Link
from kvorm.backends.nats.replies import STREAM_NOT_FOUND
from kvorm.backends.nats.transport import Listening
from kvorm.backends.nats.watches import Watches
from kvorm.bucket import Bucket
from kvorm.errors import (
    BucketNotFoundError,
    KvormError,
    ModelError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from kvorm.health import BucketHealth, Health

_OLDEST_SERVER: Final = (2, 11, 0)
_NAME_IN_USE: Final = 10058
_NO_PEERS: Final = 10005
_NO_STORE: Final = 10049
_DELETED: Final = ".STREAM.DELETED."


class NatsBackend:
    """Buckets on the server or cluster behind one connection."""

    def __init__(self, client: Client, *, domain: str | None, reads: Reads) -> None:
        self._link = Link(client, domain=domain)
        self._reads: Reads = reads
        self._handles: dict[str, NatsBucket] = {}
        self._advisories: dict[str, Listening] = {}
        self._watches = Watches(self._link)

    def heed(self, reports: Reports) -> None:
        """Learn at once what the server does not allow; it tells so beside the requests it does not answer."""
        reports.heed(self._link.denied)
        reports.heed(self._watches.denied)

    async def check_server(self, deadline: Deadline) -> None:
        """Refuse a server that cannot do the work.

        Raises:
            UnsupportedError: it is older than 2.11, or has no JetStream for this account.
        """
        await self._link.ready(deadline)
        version = self._link.server_version
        if version < _OLDEST_SERVER:
            raise UnsupportedError(
                f"the NATS server is {'.'.join(map(str, version))}, kvorm needs 2.11 or newer: upgrade the server"
            )
        await self._link.call("INFO", deadline=deadline)

    async def open(self, name: str, *, deadline: Deadline) -> NatsBucket:
        """Open an existing bucket."""
        await self._heed_advisories(name, deadline)
        return self._opened(name, await self._info(name, deadline))

    async def create(self, bucket: Bucket, *, deadline: Deadline) -> NatsBucket:
        """Create a bucket, or open it where another client was faster."""
        if bucket.replicas is None and self._link.in_cluster:
            raise ModelError(
                f"bucket {bucket.name!r} does not exist yet, and on a cluster its number of copies must be said: "
                f"say replicas=3, or 1 on purpose"
            )
        await self._heed_advisories(bucket.name, deadline)
        config = to_stream(bucket, self._link.server_version)
        try:
            info = await self._create_stream(config, deadline)
        except JetStreamError as error:
            if error.code != _NAME_IN_USE:
                raise UnsupportedError(f"the server does not create bucket {bucket.name!r}: {error}") from error
            info = await self._info(bucket.name, deadline)
        return self._opened(bucket.name, info)

    async def update(self, bucket: Bucket, *, deadline: Deadline) -> NatsBucket:
        """Change an existing bucket into what is declared."""
        info = await self._info(bucket.name, deadline)
        config = updated(info["config"], bucket)
        try:
            info = await self._link.call(f"STREAM.UPDATE.{config['name']}", config, deadline=deadline)
        except JetStreamError as error:
            raise UnsupportedError(
                f"the server does not change bucket {bucket.name!r} into what is declared, nothing was changed: {error}"
            ) from error
        return self._opened(bucket.name, info)

    async def health(self, names: Sequence[str], *, deadline: Deadline) -> Health:
        """Tell how the server and these buckets are."""
        start = time.monotonic()
        try:
            await self._link.call("INFO", deadline=deadline)
        except (KvormError, JetStreamError) as error:
            # JetStream may be what is missing, and a server be there that says so.
            if isinstance(error, StoreUnavailableError | StoreTimeoutError | StoreClosedError) and not isinstance(
                error.__cause__, JetStreamError
            ):
                return Health(reachable=False, warnings=(str(error),))
            return Health(reachable=True, server=self._link.server_name, warnings=(str(error),))
        round_trip = timedelta(seconds=time.monotonic() - start)
        buckets = {name: await self._bucket_health(name, deadline) for name in names}
        return Health(
            reachable=True,
            round_trip=round_trip,
            jetstream=True,
            server=self._link.server_name,
            buckets=buckets,
            warnings=tuple(warning for bucket in buckets.values() for warning in bucket.warnings),
        )

    async def _bucket_health(self, name: str, deadline: Deadline) -> BucketHealth:
        try:
            return health.of_stream(name, await self._info(name, deadline))
        except BucketNotFoundError as error:
            return BucketHealth(exists=False, warnings=(str(error),))
        except (KvormError, JetStreamError) as error:
            return BucketHealth(warnings=(f"bucket {name!r}: {error}",))

    async def close(self) -> None:
        """End the watches and the subscriptions; the connection is its owner's to close."""
        self._handles.clear()
        await self._watches.close()
        await self._link.close()
        advisories, self._advisories = list(self._advisories.values()), {}
        for listening in advisories:
            await listening.end()

    async def _create_stream(self, config: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Create a stream, or wait until the server can.

        It cannot for a moment while it has not heard of a node of its cluster yet, and now and then while it removes
        the account's last stream, whose directory goes, too.
        """
        while True:
            try:
                return await self._link.call(f"STREAM.CREATE.{config['name']}", config, deadline=deadline)
            except JetStreamError as error:
                too_few = error.code == _NO_PEERS and "offline" in error.description
                if not (too_few or error.code == _NO_STORE):
                    raise
                await self._link.pause(deadline, error)

    async def _info(self, name: str, deadline: Deadline) -> dict[str, Any]:
        try:
            return await self._link.call(f"STREAM.INFO.{stream_name(name)}", deadline=deadline)
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            raise BucketNotFoundError(f"bucket {name!r} does not exist", bucket=name) from error

    def _opened(self, name: str, info: Mapping[str, Any]) -> NatsBucket:
        """Return the handle of a bucket as it is now: the one in use unless the bucket is another one."""
        settings = from_stream(info["config"])
        known = self._handles.get(name)
        if known is not None and known.incarnation == info["created"]:
            known.refresh(info["config"], settings)
            return known
        if known is not None:
            known.outdate()
        handle = self._handles[name] = NatsBucket(
            self._link, info["created"], info["config"], settings, reads=self._reads, watches=self._watches
        )
        return handle

    async def _heed_advisories(self, name: str, deadline: Deadline) -> None:
        """Learn of it when the bucket is deleted or made anew.

        The server sends the advisory before it answers the one who asked for that, so a write that follows the
        answer finds its handle outdated. A reconnection outdates handles as well.
        """
        if name in self._advisories:
            return

        stream = stream_name(name)

        def on_advisory(advisory: Received) -> None:
            if name in self._handles:
                self._handles[name].outdate()
            # Over changed settings and under another leader a watch goes on as it is.
            if _DELETED in advisory.subject:
                self._watches.doubt(stream)

        await self._link.ready(deadline)
        subject = f"$JS.EVENT.ADVISORY.STREAM.*.{stream}"
        # Kept before the await: two that open the bucket at once shall not subscribe twice.
        self._advisories[name] = await self._link.transport.subscribe(subject, on_advisory)
