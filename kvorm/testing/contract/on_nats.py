"""The checks' surroundings on a real server or cluster: a plain nats-py client beside the stores."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from secrets import token_hex
from types import TracebackType
from typing import Any, Final, Self

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import APIError

from kvorm.bucket import Bucket
from kvorm.store import NatsStore, Store, connect
from kvorm.testing.contract.harness import Stored, eventually
from kvorm.testing.proxy import FlakyProxy

_NO_MESSAGE: Final = 10037
_NOT_YET: Final = (10005, 10049)
"""A node has not been heard of yet; a directory is just being removed."""
_REQUEST_SECONDS: Final = 10.0


class NatsHarness:
    """A running server or cluster; a context manager that closes its stores and deletes its buckets."""

    def __init__(self, urls: str | Sequence[str], *, replicas: int | None = None, own_clients: bool = False) -> None:
        """Say where; `replicas` is what new buckets ask for, needed on a cluster.

        With `own_clients` each store stands on a nats-py client that the harness made, as `NatsStore` takes it.
        """
        self.replicas = replicas
        self._own_clients = own_clients
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self._resources = AsyncExitStack()
        self._names: list[str] = []
        self._client: Client

    async def __aenter__(self) -> Self:
        self._client = await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for name in self._names:
                await self.call(f"STREAM.DELETE.KV_{name}")
        finally:
            await self._resources.aclose()

    def new_name(self) -> str:
        """Return the name of a bucket that does not exist."""
        name = f"c-{token_hex(6)}"
        self._names.append(name)
        return name

    async def open(
        self, *, namespace: str = "", create_buckets: bool = True, timeout: timedelta = timedelta(seconds=10)
    ) -> Store:
        """Connect one more store."""
        if self._own_clients:
            client = await self.connect()
            store = NatsStore(client, namespace=namespace, create_buckets=create_buckets, timeout=timeout)
            closing = AsyncExitStack()
            closing.push_async_callback(client.close)
            store.keep(closing)
            return await self._resources.enter_async_context(store)
        connecting = connect(self._urls, namespace=namespace, create_buckets=create_buckets, timeout=timeout)
        return await self._resources.enter_async_context(connecting)

    async def connect(self) -> Client:
        """Return one more nats-py client."""
        client = Client()
        options: dict[str, Any] = {"servers": self._urls, "allow_reconnect": False}
        await client.connect(**options)
        self._resources.push_async_callback(client.close)
        return client

    async def let_pass(self, duration: timedelta) -> None:
        """Wait."""
        await asyncio.sleep(duration.total_seconds())

    async def write(self, bucket: str, raw_key: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Publish to the bucket's stream."""
        answers: list[bytes] = []

        async def answered() -> bool:
            # The other nodes of a cluster learn a moment later that a new stream listens.
            with suppress(NoRespondersError):
                subject = f"$KV.{bucket}.{raw_key}"
                reply = await self._client.request(subject, data, timeout=_REQUEST_SECONDS, headers=dict(headers or {}))
                answers.append(reply.data)
            return bool(answers)

        await eventually(answered)
        acknowledged = json.loads(answers[0])
        assert "error" not in acknowledged, acknowledged
        revision: int = acknowledged["seq"]
        return revision

    async def messages(self, bucket: str) -> list[Stored]:
        """Read the stream from its leader, one message after the other."""
        found: list[Stored] = []
        while True:
            after = found[-1].revision + 1 if found else 1
            body = {"seq": after, "next_by_subj": f"$KV.{bucket}.>"}
            answer = await self.call(f"STREAM.MSG.GET.KV_{bucket}", body)
            if "error" in answer:
                assert answer["error"]["err_code"] == _NO_MESSAGE, answer
                return found
            message = answer["message"]
            raw_key = message["subject"].removeprefix(f"$KV.{bucket}.")
            data = b64decode(message.get("data", ""))
            found.append(Stored(raw_key, data, message["seq"], _headers(b64decode(message.get("hdrs", "")))))

    async def create(self, bucket: Bucket) -> None:
        """Create a bucket with nats-py."""
        config = KeyValueConfig(
            bucket=bucket.name,
            history=bucket.history,
            ttl=bucket.ttl.total_seconds() if bucket.ttl else None,
            max_value_size=bucket.max_value_bytes,
            storage=StorageType.MEMORY if bucket.storage == "memory" else StorageType.FILE,
            replicas=bucket.replicas or 1,
        )
        # The annotations of nats-py leave its options open.
        client: Any = self._client

        async def created() -> bool:
            try:
                await client.jetstream().create_key_value(config)
            except APIError as error:
                if error.err_code not in _NOT_YET:
                    raise
                return False
            return True

        await eventually(created)

    async def delete(self, bucket: str) -> None:
        """Delete the bucket's stream."""
        answer = await self.call(f"STREAM.DELETE.KV_{bucket}")
        assert answer.get("success"), answer

    async def consumers(self, bucket: str) -> int:
        """Return how many consumers the stream has."""
        info = await self.call(f"STREAM.INFO.KV_{bucket}")
        count: int = info["state"]["consumer_count"]
        return count

    async def call(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the JetStream API and return its answer, an error included."""
        payload = json.dumps(body).encode() if body is not None else b""
        answer = await self._client.request(f"$JS.API.{verb}", payload, timeout=_REQUEST_SECONDS)
        told: dict[str, Any] = json.loads(answer.data)
        return told


class ProxiedHarness(NatsHarness):
    """A running server, and a proxy in front of it."""

    def __init__(self, urls: str | Sequence[str], *, replicas: int | None = None) -> None:
        """Say where; the proxy stands in front of the first."""
        super().__init__(urls, replicas=replicas)
        self.proxy = FlakyProxy(urls if isinstance(urls, str) else urls[0])

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._resources.enter_async_context(self.proxy)
        return self

    async def open_behind_proxy(self, *, timeout: timedelta) -> Store:
        """Open one more store whose connection goes through the proxy."""
        return await self._resources.enter_async_context(connect(self.proxy.url, timeout=timeout))


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode().split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
