"""The sample upstream's workflow: what is called, what is stored when, and how it fails."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.servers.clinic_server import CASE_TEXT, RunningClinic, running_clinic

DEADLINE_S = 10.0
GROUP_1, GROUP_2, GROUP_3 = "patient_case_analysis_group", "diagnosis_group", "treatment_planning_group"
ORDER_1 = ["initial", "extraction", "causal_analysis", "validation", GROUP_1]


def open_case(api: httpx.Client, *, says: str | None = CASE_TEXT) -> str:
    """The path of a new case, with the message that a frontend posts before it starts the workflow."""
    path = f"/api/cases/{api.post('/api/cases', json={'case_text': CASE_TEXT}).json()['id']}"
    if says:
        api.post(f"{path}/messages", json={"role": "user", "content": says})
    return path


def process(api: httpx.Client, path: str, stage: str, **body: str) -> dict[str, Any]:
    answer = api.post(f"{path}/workflow/stages/{stage}/process", json=body)
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()
    return result


def stage_names(details: httpx.Response) -> list[str]:
    return [row["stage_name"] for row in details.json()["stage_results"]]


def test_start_runs_the_first_group(api: httpx.Client):
    """An empty POST without a content type; the answer has every text and the time it took."""
    path = open_case(api)

    answer = api.post(f"{path}/workflow/start")

    body = answer.json()
    result = body["result"]
    texts = result["backend_results"]
    assert list(body) == ["stage_name", "result", "is_approved", "next_stage"]
    assert list(result) == ["backend_results", "summary", "next_stage", "processing_time"]
    assert (body["stage_name"], body["is_approved"], body["next_stage"]) == (GROUP_1, False, "diagnosis")
    assert texts["initial"] == {"case_text": CASE_TEXT, "next_stage": "extraction"}
    assert texts["extraction"]["extracted_factors"].startswith("# ")
    assert texts["causal_analysis"]["causal_links"].startswith("# ")
    assert "✅ Yes" in texts["validation"]["validation_result"] and texts["validation"]["ready"] is True
    assert "✅".encode() in answer.content


def test_the_three_groups_complete_a_case(api: httpx.Client):
    """Details then hold every text twice, in the stage's row and in the group's; times are not stored."""
    path = open_case(api)
    api.post(f"{path}/workflow/start")
    second = process(api, path, GROUP_2)
    third = process(api, path, GROUP_3)

    details = api.get(f"{path}/details")

    last = details.json()["stage_results"][-1]
    assert (second["next_stage"], third["next_stage"]) == ("treatment_planning", "complete")
    assert (details.json()["current_stage"], details.json()["is_complete"]) == (GROUP_3, True)
    assert [name for name in stage_names(details) if name.endswith("_group")] == [GROUP_1, GROUP_2, GROUP_3]
    assert last["result"] == {k: v for k, v in third["result"].items() if k != "processing_time"}


def test_a_second_run_overwrites_the_rows_of_the_first(api: httpx.Client):
    """It shows through `updated_at`, not through new rows."""
    path = open_case(api)
    api.post(f"{path}/workflow/start")
    first = api.get(f"{path}/details").json()["stage_results"]
    process(api, path, GROUP_1, input_text="fever, but also chest pain")

    second = api.get(f"{path}/details").json()["stage_results"]

    assert [row["id"] for row in second] == [row["id"] for row in first]
    assert {row["updated_at"] for row in first} == {None}
    assert None not in {row["updated_at"] for row in second}
    assert second[0]["result"]["case_text"] == "fever, but also chest pain"


def test_a_single_stage_answers_flat(api: httpx.Client):
    """Its group's summary is made anew all the same, but only the group's row gets it."""
    path = open_case(api)

    answer = process(api, path, "extraction")

    details = api.get(f"{path}/details")
    assert list(answer["result"]) == ["extracted_factors", "next_stage", "processing_time"]
    assert stage_names(details) == ["extraction", GROUP_1]
    assert details.json()["stage_results"][1]["result"]["summary"]
    assert details.json()["current_stage"] == "extraction"


def test_an_unknown_stage_is_a_success_that_says_error(api: httpx.Client):
    """And the case then stands at a stage that does not exist."""
    path = open_case(api)

    answer = process(api, path, "astrology")

    assert answer["result"] == {"error": "Unknown stage: astrology"}
    assert api.get(path).json()["current_stage"] == "astrology"


def test_process_needs_a_body(api: httpx.Client):
    """An empty one is refused; `{}` will do."""
    refused = api.post(f"{open_case(api)}/workflow/stages/{GROUP_2}/process")

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body"]


def test_approving_leads_to_the_next_group(api: httpx.Client):
    """The last group leads to itself."""
    path = open_case(api)
    api.post(f"{path}/workflow/start")

    answer = api.post(f"{path}/workflow/stages/{GROUP_1}/approve").json()

    assert answer == {
        "stage_name": GROUP_1,
        "result": {
            "stage_name": GROUP_1,
            "is_approved": True,
            "next_stage": GROUP_2,
            "message": f"Stage {GROUP_1} approved. Moving to {GROUP_2}.",
        },
        "is_approved": True,
        "next_stage": GROUP_2,
    }
    assert api.get(f"{path}/details").json()["stage_results"][-1]["is_approved"] is True
    assert api.get(path).json()["current_stage"] == GROUP_2


def test_approving_what_never_ran_is_200(api: httpx.Client):
    """It says approved and error at once."""
    answer = api.post(f"{open_case(api)}/workflow/stages/{GROUP_2}/approve")

    assert answer.status_code == 200
    assert answer.json()["is_approved"] is True and answer.json()["next_stage"] is None
    assert "error" in answer.json()["result"]


def test_every_stage_is_visible_before_the_next_one_starts():
    """A second worker answers while the first blocks, and sees the stages come one by one."""
    with (
        running_clinic(workers=2, blocking=True, first_token_s=1.6) as clinic,
        clinic.client() as api,
        ThreadPoolExecutor(1) as pool,
    ):
        path = open_case(api)
        running = pool.submit(api.post, f"{path}/workflow/start")
        seen = [stages for stages in watch(clinic, path, until=running.done) if stages]

        assert running.result().status_code == 200

    assert all(stages == ORDER_1[: len(stages)] for stages in seen)
    assert {len(stages) for stages in seen} >= {1, 2, 3, 4}


def watch(clinic: RunningClinic, path: str, *, until: Any) -> Iterator[list[str]]:
    """Poll the details on new connections; one that a blocked worker took is given up."""
    while not until():
        try:
            yield stage_names(httpx.get(f"{clinic.url}{path}/details", headers=clinic.headers(), timeout=0.3))
        except httpx.TimeoutException:
            continue


def test_a_running_stage_freezes_its_whole_process():
    """Even `/health` waits: the work is done on the event loop."""
    with running_clinic(blocking=True, first_token_s=0.2) as clinic, clinic.client() as api:
        path = open_case(api)
        slowest_s = 0.0
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(api.post, f"{path}/workflow/start")
            while not running.done():
                began = time.monotonic()
                httpx.get(f"{clinic.url}/health", timeout=DEADLINE_S)
                slowest_s = max(slowest_s, time.monotonic() - began)

    assert slowest_s > 0.5


def test_a_client_that_leaves_does_not_stop_the_work(clinic: RunningClinic, api: httpx.Client):
    """All calls to the model are made and all rows are written."""
    path = open_case(api)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{clinic.url}{path}/workflow/start", headers=clinic.headers(), timeout=0.02)

    deadline = time.monotonic() + DEADLINE_S
    while stage_names(details := api.get(f"{path}/details")) != ORDER_1:
        assert time.monotonic() < deadline, details.text


def test_a_chat_message_at_validation_is_kept_and_then_500(clinic: RunningClinic, api: httpx.Client):
    """Plain text, without CORS headers; both messages are there all the same."""
    path = open_case(api, says=None)
    process(api, path, "validation")
    message = {"role": "user", "content": "and now?"}

    broken = api.post(f"{path}/messages", json=message, headers={"origin": "http://localhost:5173"})

    # On a new connection: the server closes this one after an unhandled exception, without having said so.
    chat = httpx.get(f"{clinic.url}{path}/messages", headers=clinic.headers()).json()["messages"]
    assert (broken.status_code, broken.text) == (500, "Internal Server Error")
    assert broken.headers["content-type"].startswith("text/plain")
    assert "access-control-allow-origin" not in broken.headers
    assert [message["role"] for message in chat] == ["user", "assistant"]


@pytest.mark.parametrize("kind", ["note", "report"])
def test_a_document_is_made_and_then_downloaded(api: httpx.Client, kind: str):
    """A new PDF for every POST, as an attachment of several hundred kilobytes."""
    path = open_case(api)
    made = api.post(f"{path}/{kind}s")

    pdf_file = api.get(f"{path}/{kind}s/{made.json()['id']}")

    assert made.status_code == 201
    assert list(made.json()) == ["file_path", "id", "case_id", "created_at"]
    assert pdf_file.headers["content-type"] == "application/pdf"
    assert pdf_file.headers["content-disposition"].startswith("attachment; filename=")
    assert pdf_file.content.startswith(b"%PDF-") and len(pdf_file.content) > 300_000
    assert "etag" not in pdf_file.headers


def test_a_note_as_text_needs_a_complete_case(api: httpx.Client):
    """400 before; afterwards the markdown alone."""
    path = open_case(api)
    early = api.post(f"{path}/generate-note")
    api.patch(path, json={"is_complete": True})

    note = api.post(f"{path}/generate-note")

    assert early.status_code == 400
    assert note.json()["note"].startswith("# Clinical note")
