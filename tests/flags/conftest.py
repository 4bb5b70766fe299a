"""The file of flags, and the log."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flags.json"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Give the lines that anybody but the tests' own client has logged."""
    with caplog.at_level(logging.INFO):
        yield lambda: [record.getMessage() for record in caplog.records if record.name != "httpx"]
