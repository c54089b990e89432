"""A namespace of a test's own on a server that tests share, and a hostile network in front of one.

Nothing here needs an event loop to be made or to end: fixtures of any test framework can hold it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from secrets import token_hex
from typing import Any, Final, TypeVar

from nats.aio.client import Client

from kvorm.store import Connecting, connect
from kvorm.testing.proxy import Direction, FlakyProxy
from kvorm.testing.servers import NatsCluster, NatsServer

T = TypeVar("T")

_SECONDS: Final = 10.0


class OwnNamespace:
    """What one test uses of a server or cluster: buckets under a namespace that no other test has.

    Attributes:
        server: the server itself, to be killed or paused; whoever is next finds it running again.
        urls: where clients connect to.
        namespace: what precedes the names of this test's buckets.
    """

    def __init__(self, server: NatsServer | NatsCluster, urls: Sequence[str]) -> None:
        self.server = server
        self.urls = list(urls)
        self.namespace = f"test-{token_hex(6)}-"

    @property
    def url(self) -> str:
        """Where a client connects to that knows one server."""
        return self.urls[0]

    def connect(self, **options: Any) -> Connecting:
        """Open a store in the namespace, as `kvorm.connect` does with these options."""
        chosen: dict[str, Any] = {"namespace": self.namespace, **options}
        return connect(self.urls, **chosen)

    def clear(self) -> None:
        """Delete the buckets of the namespace. Blocks; to be called where no event loop runs, or in a thread."""
        _in_a_thread(self._clear)

    async def _clear(self) -> None:
        client = Client()
        options: dict[str, Any] = {"servers": self.urls, "allow_reconnect": False}
        await client.connect(**options)
        try:
            names: list[str] = []
            while True:
                answer = await _ask(client, "STREAM.NAMES", {"offset": len(names)})
                names += answer.get("streams") or []
                if len(names) >= answer.get("total", 0):
                    break
            for name in names:
                if name.startswith(f"KV_{self.namespace}"):
                    await _ask(client, f"STREAM.DELETE.{name}", None)
        finally:
            await client.close()


class FlakyNetwork(OwnNamespace):
    """A namespace on a server behind a proxy that cuts, swallows and delays when it is told to.

    The proxy runs in a thread, so that it goes on whatever the test's event loop does.
    """

    def __init__(self, server: NatsServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flaky network", daemon=True)
        self._thread.start()
        self._proxy = FlakyProxy(server.url)
        self._wait(self._proxy.__aenter__())
        super().__init__(server, [self._proxy.url])

    def cut(self) -> None:
        """Break every connection there is; new ones are accepted."""
        self._do(self._proxy.cut)

    def swallow(self, *directions: Direction) -> None:
        """Throw away what travels these ways from now on; without any, pass everything again."""
        self._do(lambda: self._proxy.swallow(*directions))

    def strand(self) -> None:
        """Leave the connections there are without a byte for ever, and pass what comes over new ones."""
        self._do(self._proxy.strand)

    def delay(self, seconds: float) -> None:
        """Let each piece of data wait so long, in both directions."""
        self._proxy.delay = seconds

    def close(self) -> None:
        """End the proxy and its thread."""
        self._wait(self._proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def _do(self, step: Callable[[], None]) -> None:
        async def doing() -> None:
            step()

        self._wait(doing())

    def _wait(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(_SECONDS)


async def _ask(client: Client, verb: str, body: object) -> dict[str, Any]:
    payload = json.dumps(body).encode() if body is not None else b""
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{verb}", payload, timeout=_SECONDS)).data)
    return answer


def _in_a_thread(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run something to its end, whatever event loop belongs to this thread. Raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
