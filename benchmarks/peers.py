"""One server, and on it the same models in buckets of kvorm's, nats-py's and natsrpy's (the Rust client).

What a user without kvorm writes by hand: the client's calls and Pydantic's JSON. The peers neither validate what they
send nor give their writes an identity, and what they read does not know its revision.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue
from natsrpy import Nats
from pydantic import BaseModel

import kvorm
from benchmarks.codec import NESTED, SMALL
from benchmarks.timing import Case, Row, table
from kvorm import Bucket, Mapping, Repository, Store
from kvorm.testing.servers import NatsServer

T = TypeVar("T")

SAMPLES: dict[str, tuple[BaseModel, str]] = {"small": (SMALL, "tenant"), "nested": (NESTED, "name")}
"""An object of each model, and the field that is its key."""


class Peer(Protocol):
    """A bucket in the hands of somebody who writes the client's calls out."""

    async def get(self, key: str) -> BaseModel: ...
    async def put(self, key: str, value: BaseModel) -> int: ...
    async def update(self, key: str, value: BaseModel, last: int) -> int: ...
    async def delete(self, key: str, last: int) -> object: ...
    async def keys(self) -> list[str]: ...
    async def history(self, key: str) -> list[BaseModel]: ...


class NatsPy:
    """nats-py and Pydantic."""

    def __init__(self, kv: KeyValue, model: type[BaseModel]) -> None:
        self._kv = kv
        self._model = model

    async def get(self, key: str) -> BaseModel:
        entry = await self._kv.get(key)
        return self._model.model_validate_json(entry.value or b"")

    async def put(self, key: str, value: BaseModel) -> int:
        return await self._kv.put(key, value.model_dump_json().encode())

    async def update(self, key: str, value: BaseModel, last: int) -> int:
        return await self._kv.update(key, value.model_dump_json().encode(), last=last)

    async def delete(self, key: str, last: int) -> object:
        return await self._kv.delete(key, last=last)

    async def keys(self) -> list[str]:
        return await _found(self._kv.keys)

    async def history(self, key: str) -> list[BaseModel]:
        entries = await _found(lambda: self._kv.history(key))
        return [self._model.model_validate_json(entry.value or b"") for entry in entries]


async def _found(ask: Callable[[], Awaitable[list[T]]]) -> list[T]:
    """Ask until there is something: the watch under it ends early at times, and then there is nothing."""
    while True:
        try:
            return await ask()
        except NoKeysError:
            await asyncio.sleep(0)


class Natsrpy:
    """natsrpy and Pydantic."""

    def __init__(self, kv: Any, model: type[BaseModel]) -> None:
        self._kv = kv
        self._model = model
        # Where its own threads let go of an iterator last, it aborts the process: "Cannot start a runtime from within
        # a runtime". Held a little longer than it is read, it ends in this thread.
        self._read: deque[Any] = deque(maxlen=8)

    async def get(self, key: str) -> BaseModel:
        return self._model.model_validate_json(await self._kv.get(key))

    async def put(self, key: str, value: BaseModel) -> int:
        revision: int = await self._kv.put(key, value.model_dump_json().encode())
        return revision

    async def update(self, key: str, value: BaseModel, last: int) -> int:
        revision: int = await self._kv.update(key, value.model_dump_json().encode(), last)
        return revision

    async def delete(self, key: str, last: int) -> object:
        return await self._kv.delete(key, expect_revision=last)

    async def keys(self) -> list[str]:
        return [key async for key in self._held(await self._kv.keys())]

    async def history(self, key: str) -> list[BaseModel]:
        entries = self._held(await self._kv.history(key))
        return [self._model.model_validate_json(entry.value) async for entry in entries]

    def _held(self, iterator: Any) -> Any:
        self._read.append(iterator)
        return iterator


@dataclass(frozen=True)
class Beside:
    """One model: kvorm's repository, and the peers, each with a bucket and a connection of its own."""

    objects: Repository[BaseModel]
    peers: dict[str, Peer]
    sample: BaseModel
    field: str

    def values(self, count: int) -> list[BaseModel]:
        """Return objects, the one of each number under its `key`."""
        return [self.sample.model_copy(update={self.field: key(number)}) for number in range(count)]


@dataclass(frozen=True)
class Clients:
    """Three clients of one server."""

    store: Store
    nats_py: JetStreamContext
    natsrpy: Any

    async def beside(self, model: str, bucket: str, *, history: int = 1) -> Beside:
        """Make the buckets for a model of SAMPLES, of one declaration."""
        sample, field = SAMPLES[model]
        theirs = {"nats-py": f"{bucket}-nats-py", "natsrpy": f"{bucket}-natsrpy"}
        repositories = [
            self.store.repository(type(sample), mapping=Mapping(Bucket(name, history=history), key=(field,)))
            for name in (bucket, *theirs.values())
        ]
        await self.store.ensure(*repositories)
        peers: dict[str, Peer] = {
            "nats-py": NatsPy(await self.nats_py.key_value(theirs["nats-py"]), type(sample)),
            "natsrpy": Natsrpy(await self.natsrpy.kv.get(theirs["natsrpy"]), type(sample)),
        }
        return Beside(repositories[0], peers, sample, field)


def key(number: int) -> str:
    return f"key-{number}"


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Start a server, and end it."""
    with tempfile.TemporaryDirectory() as directory, NatsServer(Path(directory)) as server:
        client, rust = await nats.connect(server.url), Nats([server.url])
        await rust.startup()
        async with kvorm.connect(server.url) as store:
            yield Clients(store, client.jetstream(), await rust.jetstream())
        await client.close()
        await rust.shutdown()


Cases = Callable[[Clients, str], Awaitable[list[Case]]]


async def rows(each: Clients, model: str, *makers: Cases) -> list[Row]:
    return [await case.row() for make in makers for case in await make(each, model)]


async def compare(make: Cases) -> None:
    """Print what some operations cost beside the peers, for each model."""
    async with clients() as each:
        print(table({model: await rows(each, model, make) for model in SAMPLES}))
