"""A rollout on a flag file, without a server."""

from pathlib import Path

import pytest

from tests.rollout.rolling import Rolling, flag_file, policy


@pytest.fixture
def rolling(tmp_path: Path) -> Rolling:
    flag_file(tmp_path / "flags.json")
    return Rolling(tmp_path, policy(tmp_path))
