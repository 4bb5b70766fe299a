"""One house for each file: starting and stopping two Headgates takes most of a second."""

from collections.abc import AsyncIterator

import pytest

from tests.faults.rounds import House, house


@pytest.fixture(scope="module")
async def rounds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("house")) as found:
        yield found
