"""One house for each file: starting and stopping two Headgates takes most of a second."""

import gc
from collections.abc import AsyncIterator

import pytest

from tests.faults.loop import PatientLoop
from tests.faults.rounds import House, house


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, type[PatientLoop]]]:
    return "asyncio", {"loop_factory": PatientLoop}


@pytest.fixture(scope="module")
async def rounds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    # As a serving process does. With what thousands of tests have left, one full collection holds up
    # all rounds for about as long as their timeouts are on a busy machine.
    gc.collect()
    gc.freeze()
    async with house(tmp_path_factory.mktemp("house")) as found:
        yield found
    gc.unfreeze()
