"""A real store for each file of tests, empty for each test."""

from collections.abc import AsyncIterator

import pytest

from proxy.replicas import shared_values
from tests.servers.client import PATIENCE_S
from tests.servers.valkey_server import ValkeyServer, valkey


@pytest.fixture(autouse=True)
def patient_denylist(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is late because the machine is busy."""
    monkeypatch.setattr(shared_values, "SOON_S", PATIENCE_S)


@pytest.fixture(scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ValkeyServer]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def server(started: ValkeyServer) -> ValkeyServer:
    """Empty."""
    async with started.client() as client:
        await client.flushall()
    return started
