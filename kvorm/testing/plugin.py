"""pytest fixtures: a store in memory, real servers, and a hostile network; for tests of any kind, async or not.

pytest loads this wherever kvorm is installed, so nothing is started and no test tool imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kvorm import MemoryStore
    from kvorm.testing.namespaces import FlakyNetwork, OwnNamespace
    from kvorm.testing.servers import NatsCluster, NatsServer


@pytest.fixture
def kv_store() -> MemoryStore:
    """A fresh store in memory."""
    from kvorm import MemoryStore

    return MemoryStore()


@pytest.fixture(scope="session")
def shared_nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The one server of the test run; `nats_server` is a test's share of it."""
    from kvorm.testing.servers import NatsServer

    with NatsServer(tmp_path_factory.mktemp("nats-server")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """The one cluster of three nodes of the test run; `nats_cluster` is a test's share of it."""
    from kvorm.testing.servers import NatsCluster

    with NatsCluster(tmp_path_factory.mktemp("nats-cluster")) as cluster:
        yield cluster


@pytest.fixture
def nats_server(shared_nats_server: NatsServer) -> Iterator[OwnNamespace]:
    """A real server, with a namespace of this test's own: `async with nats_server.connect() as store`.

    Its buckets are deleted afterwards. A server that is not installed is an error that says what to install.
    """
    from kvorm.testing.namespaces import OwnNamespace

    shared_nats_server.start()
    own = OwnNamespace(shared_nats_server, [shared_nats_server.url])
    yield own
    _running_again(shared_nats_server)
    own.clear()


@pytest.fixture
def nats_cluster(shared_nats_cluster: NatsCluster) -> Iterator[OwnNamespace]:
    """A cluster of three, with a namespace of this test's own; its buckets need `replicas=`."""
    from kvorm.testing.namespaces import OwnNamespace

    own = OwnNamespace(shared_nats_cluster, shared_nats_cluster.urls)
    yield own
    for node in shared_nats_cluster.nodes:
        _running_again(node)
    shared_nats_cluster.start()
    own.clear()


@pytest.fixture
def flaky_network(shared_nats_server: NatsServer) -> Iterator[FlakyNetwork]:
    """A real server behind a network that can be `cut()`, made to `swallow()` and `delay()`; else as `nats_server`."""
    from kvorm.testing.namespaces import FlakyNetwork

    shared_nats_server.start()
    network = FlakyNetwork(shared_nats_server)
    yield network
    _running_again(shared_nats_server)
    network.swallow()
    network.delay(0)
    network.cut()
    network.clear()
    network.close()


def _running_again(server: NatsServer) -> None:
    """Mend what a test did to a server."""
    if server.running:
        server.resume()
    else:
        server.start()
