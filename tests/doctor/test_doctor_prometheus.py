"""`headgate doctor` on a Prometheus."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.doctor.findings.diagnosis import Grade
from tests.doctor.deployments import examined, saying, settings_of
from tests.servers.scripted import Asked, ScriptedUpstream


def sample(value: float, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [0, str(value)]}


WELL: dict[str, list[dict[str, Any]]] = {
    "count(headgate_build_info)": [sample(2)],
    "max(time()": [sample(8)],
    "count by": [sample(9, route="start"), sample(9, route="unmatched")],
    "count(process": [sample(2)],
}


@pytest.mark.parametrize(
    ("fault", "grade", "says"),
    [
        ({}, Grade.OK, "scrapes 2 admin ports"),
        ({"count(headgate_build_info)": []}, Grade.FAIL, "does not scrape"),
        ({"max(time()": [sample(3000)]}, Grade.WARN, "3000 s ago"),
        ({"count by": [sample(1, route="other")]}, Grade.WARN, "routes start"),
        ({"count(process": []}, Grade.WARN, "process_start_time_seconds"),
    ],
)
async def test_a_prometheus(tmp_path: Path, fault: dict[str, Any], grade: Grade, says: str) -> None:
    results = {**WELL, **fault}

    async def answering(asked: Asked) -> None:
        [query] = parse_qs(urlsplit(asked.target.decode()).query)["query"]
        result = next(result for start, result in results.items() if query.startswith(start))
        await asked.answer(json.dumps({"status": "success", "data": {"result": result}}).encode())

    async with (
        ScriptedUpstream(saying({})).running() as app,
        ScriptedUpstream(answering).running() as server,
    ):
        found = await examined(settings_of(tmp_path, app.url), prometheus=server.url)

    assert found["prometheus"].status is grade
    assert says in found["prometheus"].seen


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_what_is_no_prometheus(tmp_path: Path, status: bytes) -> None:
    async with ScriptedUpstream(saying([], status)).running() as app:
        found = await examined(settings_of(tmp_path, app.url), prometheus=app.url)

    assert found["prometheus"].status is Grade.FAIL
