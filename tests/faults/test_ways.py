"""The backend is told what it would have been told without Headgate, whatever a provider does."""

from functools import partial
from pathlib import Path

import pytest

from tests.faults.rounds import at_once
from tests.faults.shapes import SHAPES, Shape
from tests.faults.unlike import of
from tests.faults.ways import house

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.api)
async def test_tapped_and_dark_are_told_what_batch_is_told(tmp_path: Path, shape: Shape) -> None:
    """Every fault of this shape: the batch answer, or the provider's own error; and its user the same."""
    async with house(tmp_path) as ways:
        results = await at_once(partial(ways.play, shape, fault) for fault in of(shape))

    assert [str(result) for result in results if result.problems] == []
