"""The sample upstream and its model: what it asks, how often, and which sentence a failure becomes."""

from collections.abc import Iterator

import httpx
import pytest

from examples.clinic.llm.conversation import Llm
from examples.clinic.llm.postprocess import HEADING
from examples.clinic.llm.providers import open_llm
from examples.clinic.settings import PROVIDERS, read_settings
from tests.servers.clinic_server import (
    CASE_TEXT,
    RecordingModel,
    provider_environ,
    running_clinic,
    running_model,
)

CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model() -> Iterator[RecordingModel]:
    yield RecordingModel()


@pytest.fixture(scope="module")
def api(model: RecordingModel) -> Iterator[httpx.Client]:
    with model.running() as url, running_clinic(model_url=url) as clinic, clinic.client() as client:
        yield client


@pytest.fixture
def path(model: RecordingModel, api: httpx.Client) -> str:
    """A new case with one message, and a model that has been asked nothing yet."""
    model.calls.clear()
    path = f"/api/cases/{api.post('/api/cases', json={'case_text': CASE_TEXT}).json()['id']}"
    api.post(f"{path}/messages", json={"role": "user", "content": "hello"})
    return path


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with running_model() as url:
        yield url


def opened(url: str, model: str = "any", provider: str = "openai", **environ: str) -> Llm:
    """A client of the provider's package that does not pause before it tries again."""
    names = {f"{PROVIDERS[provider].prefix}_MODEL": model, "CLINIC_RETRY_SCALE": "0"}
    return open_llm(read_settings(provider_environ(provider, url) | names | environ))


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
    monkeypatch.setattr(model, "text", "## Too deep")

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
    with opened(model_url, name) as llm:
        assert llm.converse(CHAT, "Task: diagnosis").startswith(sentence)


def test_a_model_that_is_not_there_is_a_sentence_too():
    """Without a chat there are three attempts, and the sentence says so."""
    with opened("http://127.0.0.1:9") as llm:
        assert llm.converse([], "hello") == "Error generating response after 3 attempts: Connection error."


def test_a_fault_can_be_meant_for_one_stage(model_url: str):
    """`fault-503:diagnosis` leaves all other tasks alone."""
    with opened(model_url, "fault-503:diagnosis") as llm:
        assert llm.complete("Task: validation").startswith("# Validation")
        assert llm.complete("Task: diagnosis").startswith("Error generating response after 3 attempts: ")


PROVIDER_NAMES = sorted(PROVIDERS)


@pytest.mark.parametrize("provider", PROVIDER_NAMES)
def test_each_provider_is_asked_through_its_own_package(provider: str):
    """In its own shape and under its own path; the answer is the same text."""
    paths = {
        "openai": "/v1/chat/completions",
        "deepseek": "/v1/chat/completions",
        "azure": "/openai/deployments/some-name/chat/completions?api-version=2024-10-21",
        "gemini": "/v1/models/some-name:generateContent",
    }
    agents = {"azure": "AzureOpenAI/", "gemini": "google-genai-sdk/"}
    recorded = RecordingModel()
    with recorded.running() as url, opened(url, "some-name", provider) as llm:
        text = llm.converse(CHAT, "and now?")

    [call] = recorded.calls
    assert text == "# Text"
    assert call.path == paths[provider]
    assert call.headers["user-agent"].startswith(agents.get(provider, "OpenAI/"))
    assert not call.body.get("stream")


@pytest.mark.parametrize("provider", PROVIDER_NAMES)
def test_the_same_chat_gives_the_same_text_at_every_provider(model_url: str, provider: str):
    """The model does not care for shapes."""
    with opened(model_url) as reference, opened(model_url, provider=provider) as llm:
        assert llm.converse(CHAT, "Task: diagnosis") == reference.converse(CHAT, "Task: diagnosis")


@pytest.mark.parametrize(
    ("provider", "name", "sentence"),
    [
        ("azure", "fault-503", "Error generating response from chat history: Error code: 503 - A fault on"),
        (
            "deepseek",
            "fault-503",
            "Error generating response from chat history: Error code: 503 - A fault on",
        ),
        ("gemini", "fault-503", "Error generating response from chat history: 503 UNAVAILABLE. "),
        ("gemini", "fault-cut", "Error generating response from chat history: "),
        ("gemini", "fault-format", "Error: Received unexpected response format from LLM"),
        ("gemini", "fault-malformed", "Error: Received unexpected response format from LLM"),
        ("openai", "fault-malformed", "Error: Received unexpected response format from LLM"),
    ],
)
def test_a_failure_is_a_sentence_at_every_provider(model_url: str, provider: str, name: str, sentence: str):
    """The rest of the sentence is the package's own."""
    with opened(model_url, name, provider) as llm:
        assert llm.converse(CHAT, "Task: diagnosis").startswith(sentence)


def test_a_rate_limit_is_waited_for_by_the_package(model_url: str):
    """OpenAI's repeats the call after `retry-after`; Gemini's leaves that to whoever calls it."""
    with opened(model_url, "fault-429-once") as llm:
        assert llm.converse(CHAT, "openai's first").startswith("# ")
    with opened(model_url, "fault-429-once", "gemini") as llm:
        assert "429 RESOURCE_EXHAUSTED" in llm.converse(CHAT, "gemini's first")
        assert llm.converse(CHAT, "gemini's first").startswith("# ")


def test_retries_are_told_apart_by_the_package(model_url: str):
    """Three calls of one attempt have the numbers 0, 1 and 2 in a header field."""
    recorded = RecordingModel(status=500)
    with recorded.running() as url, opened(url) as llm:
        llm.converse(CHAT, "hello")

    assert [call.headers["x-stainless-retry-count"] for call in recorded.calls] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("postprocess", "stored"),
    [("off", " # Text \n\n"), ("strip", "# Text"), ("wrap", f"{HEADING}\n\n # Text \n\n")],
)
def test_what_is_stored_may_differ_from_what_was_said(postprocess: str, stored: str):
    """Stripped, or under a heading; stages, summaries and notes alike."""
    recorded = RecordingModel(text=" # Text \n\n")
    with recorded.running() as url, opened(url, CLINIC_POSTPROCESS=postprocess) as llm:
        assert llm.converse(CHAT, "Task: diagnosis") == stored
        assert llm.complete("Task: note") == stored


def test_an_error_sentence_is_left_as_it_is():
    """A search for the sentence finds it at the beginning."""
    with opened("http://127.0.0.1:9", CLINIC_POSTPROCESS="wrap") as llm:
        assert llm.converse(CHAT, "hello").startswith("Error generating response")


@pytest.mark.parametrize("variable", ["LLM_PROVIDER", "CLINIC_POSTPROCESS"])
def test_a_name_that_is_none_is_refused(variable: str):
    """With the names that there are."""
    with pytest.raises(ValueError, match=f"{variable}=nothing: it is one of"):
        read_settings({variable: "nothing"})
