"""The sample upstream and its model: what it asks, how often, and which sentence a failure becomes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from examples.clinic.llm import Llm
from tests.clinic_server import CASE_TEXT, running_clinic, running_model

CHAT = [{"role": "user", "content": "hello"}]


class RecordingModel:
    """Answers every chat completion with `status` and one text, and remembers what it was asked."""

    def __init__(self, status: int = 200, answer: object = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = status
        self.answer = answer or {"choices": [{"message": {"role": "assistant", "content": "# Text"}}]}

    @property
    def prompts(self) -> list[str]:
        return [one["messages"][-1]["content"] for one in self.asked]

    @property
    def tasks(self) -> list[str]:
        return [prompt.splitlines()[0].removeprefix("Task: ") for prompt in self.prompts]

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a free port; yields the base URL for `OPENAI_BASE_URL`."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                model.asked.append(json.loads(self.rfile.read(length)))
                body = json.dumps(model.answer).encode()
                self.send_response(model.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/v1"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture(scope="module")
def model() -> Iterator[RecordingModel]:
    yield RecordingModel()


@pytest.fixture(scope="module")
def api(model: RecordingModel) -> Iterator[httpx.Client]:
    with model.running() as url, running_clinic(openai_base_url=url) as clinic, clinic.client() as client:
        yield client


@pytest.fixture
def path(model: RecordingModel, api: httpx.Client) -> str:
    """A new case with one message, and a model that has been asked nothing yet."""
    model.asked.clear()
    path = f"/api/cases/{api.post('/api/cases', json={'case_text': CASE_TEXT}).json()['id']}"
    api.post(f"{path}/messages", json={"role": "user", "content": "hello"})
    return path


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with running_model() as url:
        yield f"{url}/v1"


def test_the_model_gets_the_chat_for_stages_and_not_for_summaries(
    model: RecordingModel, api: httpx.Client, path: str
):
    """Four calls for the first group, whole answers only, each with what the stages before it said."""
    api.post(f"{path}/workflow/start")

    assert model.tasks == ["extraction", "causal_analysis", "validation", "summary"]
    assert [len(one["messages"]) for one in model.asked] == [2, 2, 2, 1]
    assert model.asked[0]["messages"][0] == CHAT[0]
    assert {one["stream"] for one in model.asked} == {False}
    assert "extraction:\n# Text" in model.prompts[1]


def test_what_the_clinician_adds_reaches_one_late_stage(model: RecordingModel, api: httpx.Client, path: str):
    """In the last group it is appended to one prompt; in the second it is not used at all."""
    for group in ("diagnosis_group", "treatment_planning_group"):
        api.post(f"{path}/workflow/stages/{group}/process", json={"input_text": "no penicillin"})

    reached = [
        task for task, prompt in zip(model.tasks, model.prompts, strict=True) if "penicillin" in prompt
    ]
    assert len(model.asked) == 7
    assert reached == ["patient_specific"]


def test_a_dead_model_costs_fifteen_attempts_and_is_200(
    model: RecordingModel, api: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
):
    """Three for each of two stages, nine for the summary; the sentences are stored as if they were texts."""
    monkeypatch.setattr(model, "status", 500)
    answer = api.post(f"{path}/workflow/stages/diagnosis_group/process", json={})

    result = answer.json()["result"]
    stored = api.get(f"{path}/details").json()["stage_results"][-1]["result"]
    text = result["backend_results"]["diagnosis"]["diagnosis"]
    assert (answer.status_code, len(model.asked)) == (200, 15)
    assert text.startswith("Error generating response from chat history: Error code: 500 - ")
    assert result["summary"].startswith("Error generating response after 3 attempts: Error code: 500 - ")
    assert stored["summary"] == result["summary"]


def test_a_note_that_starts_too_deep_is_500(
    model: RecordingModel, api: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
):
    """A table of contents needs a first heading of level 1."""
    answer = {"choices": [{"message": {"role": "assistant", "content": "## Too deep"}}]}
    monkeypatch.setattr(model, "answer", answer)

    refused = api.post(f"{path}/notes")

    assert (refused.status_code, refused.json()) == (500, {"detail": "Failed to generate note"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fault-format", "Error: Received unexpected response format from LLM"),
        ("fault-cut", "Error generating response from chat history: Connection error."),
        ("fault-404", "Error generating response from chat history: Error code: 404 - "),
    ],
)
def test_a_failure_is_a_sentence_and_no_exception(model_url: str, name: str, sentence: str):
    """Nobody can tell it from a text, except by how it begins."""
    with Llm(model_url, "none", name, retry_scale=0) as llm:
        assert llm.converse(CHAT, "Task: diagnosis").startswith(sentence)


def test_a_model_that_is_not_there_is_a_sentence_too():
    """Without a chat there are three attempts, and the sentence says so."""
    with Llm("http://127.0.0.1:9/v1", "none", "any", retry_scale=0) as llm:
        assert llm.converse([], "hello") == "Error generating response after 3 attempts: Connection error."


def test_a_fault_can_be_meant_for_one_stage(model_url: str):
    """`fault-503:diagnosis` leaves all other tasks alone."""
    with Llm(model_url, "none", "fault-503:diagnosis", retry_scale=0) as llm:
        assert llm.complete("Task: validation").startswith("# Validation")
        assert llm.complete("Task: diagnosis").startswith("Error generating response after 3 attempts: ")
