"""The sample clinic, once for each file of tests, and a client of it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.servers.clinic_server import RunningClinic, running_clinic


@pytest.fixture(scope="module")
def clinic() -> Iterator[RunningClinic]:
    with running_clinic(workers=2) as running:
        yield running


@pytest.fixture
def api(clinic: RunningClinic) -> Iterator[httpx.Client]:
    with clinic.client() as client:
        yield client
