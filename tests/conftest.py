"""Rules for every test: the loop is production's, and where CI runs nothing is skipped."""

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.quick import is_served, refuse_to_serve

# How long an example takes says how busy the machine is. Where CI runs, Hypothesis leaves this out by itself.
settings.register_profile(
    "any machine", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# What a test types is typed by a person: it knows nothing of the `make` that may have started the tests.
for of_make in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(of_make, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that CI skips has not shown what it is for: that is a failure."""
    report: Any = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI skips nothing, but this was skipped: {reason}"
    return report


LONGEST = (
    "test_rollout_endtoend",
    "test_replicas",
    "test_make_run",
    "test_shell_blocks",
    "test_unleash_flags",
    "test_browser",
    "test_simulation",
    "test_dashboards",
    "test_image",
    "test_stacks",
    "test_rollout_stateful",
    "test_unleash_admin",
    "test_rollout_unleash",
    "test_release",
    "test_store_faults",
    "test_tap_replicas",
    "test_verdict_statistics",
    "test_systemd",
)
"""Files that take half a minute or more: they begin first, so that all workers end at about the same time."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing of what is imported and collected is garbage, and there is more of it with each file."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "served" in config.getoption("markexpr"):
        for item in items:
            if is_served(item.path):
                item.add_marker("served")
    if config.getoption("markexpr") == "not served":
        refuse_to_serve()
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}
