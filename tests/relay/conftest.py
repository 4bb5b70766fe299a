"""One Headgate and one scripted upstream for each file: starting and stopping takes most of a second.

A file may set `SCRIPT`, what the upstream plays unless a test says otherwise, and `UPSTREAM`, that block of
the settings.
"""

from collections.abc import AsyncIterator

import pytest

from tests.servers.scripted import ScriptedUpstream, ok
from tests.servers.serving import Serving, gated

Pair = tuple[ScriptedUpstream, Serving]


@pytest.fixture(scope="module")
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    settings = getattr(request.module, "UPSTREAM", None)
    async with gated(
        getattr(request.module, "SCRIPT", ok), tmp_path_factory.mktemp("gate"), upstream=settings
    ) as (upstream, gate):
        yield upstream, gate


@pytest.fixture
def upstream(request: pytest.FixtureRequest, shared: Pair) -> ScriptedUpstream:
    upstream = shared[0]
    upstream.asked.clear()
    upstream.left.clear()
    upstream.script = getattr(request.module, "SCRIPT", ok)
    return upstream


@pytest.fixture
def gate(shared: Pair) -> Serving:
    return shared[1]
