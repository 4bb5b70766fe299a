"""The sample clinic through Headgate, as its frontend uses it: the same bytes, or the same text streamed."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.servers.clinic_server import RunningClinic, running_clinic
from tests.servers.serving import Serving, flag_document, headgate

EXAMPLE = Path(__file__).parents[2] / "examples" / "clinic"
TAPPED = yaml.safe_load((EXAMPLE / "headgate.yaml").read_text())["routes"]
POLLED = [
    {name: value for name, value in route.items() if name != "tap"}
    | {"source": "poll" if "poll" in route else "batch"}
    for route in TAPPED
]
"""The same routes for an upstream whose environment nobody may change."""
CASE = "Fever of 38.9 °C and a cough for 4 days — SpO₂ 91 %."
AXIOS = {"accept": "application/json, text/plain, */*"}
STREAM = {"accept": "text/event-stream"}
TIMEOUT_S = 120

# What differs between two cases that were treated alike.
VOLATILE = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    rb"|[0-9a-f]{32}"
    rb"|\d{4}-\d\d-\d\dT[\d:.]+Z?"
    rb'|(?<="processing_time":)[\d.e-]+'
    rb"|ada-[a-d]"
)


@pytest.fixture(scope="module")
def clinic() -> Iterator[RunningClinic]:
    with running_clinic(workers=2) as running:
        yield running


@pytest.fixture
async def batch(clinic: RunningClinic, tmp_path: Path) -> AsyncIterator[Serving]:
    """Headgate with the flag off for everybody."""
    async with headgate(clinic.url, tmp_path, routes=POLLED, flags=flag_document(0)) as serving:
        yield serving


@pytest.fixture
async def streaming(clinic: RunningClinic, tmp_path: Path) -> AsyncIterator[Serving]:
    """Headgate with the flag on for everybody."""
    async with headgate(clinic.url, tmp_path, routes=POLLED) as serving:
        yield serving


def stable(answer: httpx.Response) -> tuple[int, str, list[tuple[bytes, bytes]], bytes]:
    """Everything of an answer that two alike requests have in common; header order counts."""
    is_pdf = answer.headers.get("content-type") == "application/pdf"
    body = answer.content[:8] if is_pdf else VOLATILE.sub(b"~", answer.content)
    headers = [
        (name, b"~" if name == b"date" else VOLATILE.sub(b"~", value)) for name, value in answer.headers.raw
    ]
    if body != answer.content:
        headers = [(name, b"~" if name == b"content-length" else value) for name, value in headers]
    return answer.status_code, answer.reason_phrase, headers, body


async def everything(base: str, auth: dict[str, str]) -> list[httpx.Response]:
    """Every endpoint of the sample clinic once, in the frontend's order, good requests and bad ones."""
    answers: list[httpx.Response] = []
    async with httpx.AsyncClient(base_url=base, headers={**AXIOS, **auth}, timeout=TIMEOUT_S) as client:

        async def ask(method: str, path: str, **more: Any) -> httpx.Response:
            answers.append(await client.request(method, path, **more))
            return answers[-1]

        for path in ("/", "/health", "/docs", "/api/openapi.json", "/api/stages/mapping", "/nowhere"):
            await ask("GET", path)
        await ask("GET", "/api/auth/me")
        await ask("POST", "/api/auth/verify")
        await ask("GET", "/api/auth/user-id")
        for method in ("GET", "PUT"):
            await ask(method, "/api/users/users/me", json={"name": "Ann"} if method == "PUT" else None)
        await ask("GET", "/api/users/users/me/stats")
        await ask("GET", "/api/users/me")
        await ask(
            "POST", "/api/contact", json={"name": "A", "email": "a@b.c", "subject": "s", "message": "m"}
        )
        case = (await ask("POST", "/api/cases", json={"case_text": CASE})).json()["id"]
        await ask("POST", "/api/cases", json={})
        await ask("GET", "/api/cases/", follow_redirects=False)
        await ask("GET", f"/api/cases/{case}")
        await ask("PATCH", f"/api/cases/{case}", json={"case_text": CASE + " Rigors."})
        await ask("POST", f"/api/cases/{case}/messages", json={"role": "user", "content": CASE})
        await ask("POST", f"/api/cases/{case}/workflow/start")
        await ask("POST", f"/api/cases/{case}/workflow/stages/patient_case_analysis_group/approve")
        await ask("POST", f"/api/cases/{case}/workflow/stages/diagnosis_group/process", json={})
        await ask("POST", f"/api/cases/{case}/workflow/stages/diagnosis_group/process")
        await ask("POST", f"/api/cases/{case}/workflow/stages/treatment_planning_group/process", json={})
        await ask("POST", f"/api/cases/{case}/workflow/stages/extraction/process", json={"input_text": "x"})
        await ask("POST", f"/api/cases/{case}/workflow/stages/bogus/process", json={})
        await ask("GET", f"/api/cases/{case}/details")
        await ask("GET", f"/api/cases/{case}/messages?skip=0&limit=5")
        note = (await ask("POST", f"/api/cases/{case}/notes")).json()["id"]
        await ask("GET", f"/api/cases/{case}/notes/{note}", headers={"accept": "application/pdf"})
        report = (await ask("POST", f"/api/cases/{case}/reports")).json()["id"]
        await ask("GET", f"/api/cases/{case}/reports/{report}", headers={"accept": "application/pdf"})
        await ask("POST", f"/api/cases/{case}/generate-note")
        await ask(
            "OPTIONS",
            "/api/cases",
            headers={"origin": "http://localhost:5173", "access-control-request-method": "POST"},
        )
        await ask("HEAD", "/health")
        await ask("GET", "/api/cases/not-a-uuid")
        await ask("GET", "/api/cases/00000000-0000-4000-8000-000000000000")
        await ask("DELETE", f"/api/cases/{case}")
        for authorization in ("", "Basic x", "Bearer x"):
            await ask("GET", "/api/cases", headers={"authorization": authorization})
        # An unhandled error in plain text, after which the server closes the connection unannounced.
        case = (await ask("POST", "/api/cases", json={"case_text": CASE})).json()["id"]
        await ask("POST", f"/api/cases/{case}/workflow/stages/validation/process", json={})
        await ask("POST", f"/api/cases/{case}/messages", json={"role": "user", "content": "why?"})
    async with httpx.AsyncClient(base_url=base, headers=AXIOS) as anonymous:
        answers.append(await anonymous.get("/api/cases"))
    return answers


async def test_with_the_flag_off_every_endpoint_answers_with_the_same_bytes(
    clinic: RunningClinic, batch: Serving
) -> None:
    """Status, headers in their order and bodies are those of the clinic itself, for every endpoint."""
    direct = await everything(clinic.url, clinic.headers("ada-a"))
    through = await everything(batch.url, clinic.headers("ada-b"))

    for one, other in zip(direct, through, strict=True):
        host = clinic.url.partition("//")[2].encode(), batch.url.partition("//")[2].encode()
        expected = [(n, v.replace(host[0], host[1])) for n, v in stable(one)[2]]
        assert (*stable(other)[:2], stable(other)[3]) == (*stable(one)[:2], stable(one)[3]), one.request.url
        assert stable(other)[2] == expected, one.request.url
    assert {answer.status_code for answer in through} >= {200, 201, 204, 307, 401, 404, 422, 500}


async def test_with_the_flag_on_the_unchanged_frontend_notices_nothing(
    clinic: RunningClinic, streaming: Serving
) -> None:
    """A client that does not ask for a stream gets the clinic's own bytes, whatever its flag says."""
    direct = await everything(clinic.url, clinic.headers("ada-c"))
    through = await everything(streaming.url, clinic.headers("ada-d"))

    assert [stable(a)[3] for a in through] == [stable(a)[3] for a in direct]


async def events_of(client: httpx.AsyncClient, method: str, path: str) -> list[dict[str, Any]]:
    async with client.stream(method, path, headers=STREAM) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["headgate-decision"].startswith("stream;reason=flag_on;source=")
        lines = [line async for line in answer.aiter_lines()]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_a_download_is_the_same_file_both_ways(clinic: RunningClinic, batch: Serving) -> None:
    """A PDF of some hundred kilobytes, fetched directly and through Headgate."""
    async with httpx.AsyncClient(headers=clinic.headers("ivy"), timeout=TIMEOUT_S) as client:
        case = (await client.post(f"{batch.url}/api/cases", json={"case_text": CASE})).json()["id"]
        report = (await client.post(f"{batch.url}/api/cases/{case}/reports")).json()["id"]
        paths = [f"{base}/api/cases/{case}/reports/{report}" for base in (clinic.url, batch.url)]
        direct, through = [await client.get(path) for path in paths]

    assert len(through.content) > 100_000
    assert through.content == direct.content
    assert [n for n, _ in through.headers.raw] == [n for n, _ in direct.headers.raw]


GROUPS = {
    "workflow/start": ["extraction", "causal_analysis", "validation", "summary"],
    "workflow/stages/diagnosis_group/process": ["counterfactual", "diagnosis", "summary"],
    "workflow/stages/treatment_planning_group/process": [
        "treatment_planning",
        "patient_specific",
        "final_plan",
        "summary",
    ],
}


async def test_the_same_post_streams_and_its_text_is_the_batch_answers(
    clinic: RunningClinic, streaming: Serving
) -> None:
    """Each group of the journey, streamed: stages in order, and the text equal to the stored fields."""
    async with httpx.AsyncClient(
        base_url=streaming.url, headers={**AXIOS, **clinic.headers("eve")}, timeout=TIMEOUT_S
    ) as client:
        case = (await client.post("/api/cases", json={"case_text": CASE})).json()["id"]
        for path, stages in GROUPS.items():
            url = f"/api/cases/{case}/{path}"
            async with client.stream(
                "POST", url, headers=STREAM, content=None if "start" in path else b"{}"
            ) as a:
                lines = [line async for line in a.aiter_lines()]
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
            done = events[-1]
            result = json.loads(done["metadata"]["result"])["result"]

            assert done["type"] == "stream_done"
            assert done["metadata"]["sha256"] == sha256(done["metadata"]["result"].encode()).hexdigest()
            assert [e["stage"] for e in events if e["type"] == "stage_complete"] == stages
            shown = {
                stage: "".join(
                    e["content"] for e in events if e["type"] == "content_chunk" and e["stage"] == stage
                )
                for stage in stages
            }
            texts = {**{k: next(iter(v.values())) for k, v in result["backend_results"].items()}}
            texts["summary"] = result["summary"]
            assert shown == {stage: texts[stage] for stage in stages}
        stored = (await client.get(f"/api/cases/{case}/details")).json()
        rows = {row["stage_name"]: row["result"] for row in stored["stage_results"]}
        assert rows["treatment_planning_group"]["summary"] == shown["summary"]
        assert stored["is_complete"] is True


async def test_an_eventsource_gets_the_same_journey_by_get(clinic: RunningClinic, streaming: Serving) -> None:
    """`stream_path` streams the POST's answer to a client that can only GET."""
    async with httpx.AsyncClient(
        base_url=streaming.url, headers=clinic.headers("gil"), timeout=TIMEOUT_S
    ) as client:
        case = (await client.post("/api/cases", json={"case_text": CASE})).json()["id"]
        events = await events_of(client, "GET", f"/api/cases/{case}/workflow/start/stream")

    assert events[-1]["type"] == "stream_done"
    assert [e["stage"] for e in events if e["type"] == "stage_complete"] == GROUPS["workflow/start"]


@pytest.mark.alone
async def test_text_arrives_long_before_the_answer(tmp_path: Path) -> None:
    """With `poll` and two workers the first text is there in under half of the batch wait."""
    with running_clinic(workers=2, first_token_s=0.2, tokens_per_s=200, tokens=60) as clinic:
        routes = [{**route, "poll": {**route["poll"], "every_ms": 100}} for route in POLLED[:1]]
        async with (
            headgate(clinic.url, tmp_path, routes=routes) as serving,
            httpx.AsyncClient(
                base_url=serving.url, headers=clinic.headers("hal"), timeout=TIMEOUT_S
            ) as client,
        ):
            case = (await client.post("/api/cases", json={"case_text": CASE})).json()["id"]
            async with client.stream("POST", f"/api/cases/{case}/workflow/start", headers=STREAM) as answer:
                async for _ in answer.aiter_lines():
                    pass
            ratio = serving.app.gateway.metrics.perceived_wait.labels("workflow-start", "poll")

            assert ratio._sum.get() < 0.5
