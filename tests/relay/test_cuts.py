"""Made-up exchanges, whose bytes are cut and joined anywhere on both sides; `make cuts` plays many more."""

from pathlib import Path
from typing import Any

import pytest

from tests.relay.cuts import OF_A_ROUTE, table

ROUNDS = 400


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": False}  # whose `create_connection` cannot be replaced


@pytest.mark.parametrize("settings", [{}, OF_A_ROUTE], ids=["no route", "routes"])
async def test_whatever_is_cut_or_joined_each_answer_is_the_upstreams_own(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Pipelined requests, bodies, early answers, and upstreams and clients that break off."""
    async with table(tmp_path, **settings) as playing:
        flaws = {seed: found for seed in range(ROUNDS) if (found := await playing.play(seed))}

    assert flaws == {}
