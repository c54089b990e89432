"""Real servers, started when the first test asks for one. A missing binary is a failure, never a skip."""

from collections.abc import AsyncIterator

import pytest

# Before anything imports the checks.
pytest.register_assert_rewrite("kvorm.testing.contract")

from kvorm.testing.contract.harness import Harness  # noqa: E402
from kvorm.testing.contract.on_memory import MemoryHarness  # noqa: E402
from kvorm.testing.contract.on_nats import NatsHarness  # noqa: E402
from kvorm.testing.servers import NatsCluster, NatsServer  # noqa: E402


@pytest.fixture(scope="session")
def nats_server(shared_nats_server: NatsServer) -> NatsServer:
    """One server that all tests share, whole; they use buckets of their own and leave it running."""
    return shared_nats_server


@pytest.fixture(scope="session")
def nats_cluster(shared_nats_cluster: NatsCluster) -> NatsCluster:
    """One cluster of three that all tests share, as `nats_server`."""
    return shared_nats_cluster


@pytest.fixture(params=["memory", "server", "cluster", "own client"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """The surroundings of the contract checks, one store after the other."""
    surroundings: MemoryHarness | NatsHarness
    if request.param == "memory":
        surroundings = MemoryHarness()
    elif request.param == "cluster":
        surroundings = NatsHarness(request.getfixturevalue("nats_cluster").urls, replicas=3)
    else:
        own_clients = request.param == "own client"
        surroundings = NatsHarness(request.getfixturevalue("nats_server").url, own_clients=own_clients)
    async with surroundings:
        yield surroundings
