"""Backends of many stacks, started under OpenTelemetry as the docs say: whose run is their model call?"""

from pathlib import Path

import pytest

from tests.stacks.backends import MANY, NOT_MADE, is_made, results


@pytest.mark.skipif(not is_made(), reason=NOT_MADE)
async def test_each_stacks_model_call_is_found_to_be_its_runs(tmp_path: Path) -> None:
    """Without their instrumentation, a pool of threads and a client lose it."""
    assert await results(MANY, tmp_path) == {
        (stack.name, how): result for stack in MANY for how, result in stack.expected.items()
    }
