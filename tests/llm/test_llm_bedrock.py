"""Amazon Bedrock through the real boto3: a batch call through the model port gives the object that it gives
without it, and its text is shown live. The fake Bedrock holds each call to its signature.
"""

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import ValidationError

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from proxy.llm.assembly.dialect import AbnormalFinish, NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.dialects.bedrock import Converse, InvokeModel
from proxy.llm.stream_events import StreamEvents
from proxy.settings.settings import Settings
from tests.llm import test_llm_anthropic as claude
from tests.llm.test_llm_clients import Call, Client
from tests.llm.test_model_port import counted
from tests.servers.authority import certificates
from tests.servers.bedrock import BEARER, REGION, ROLE, Bedrock, frame, framed
from tests.servers.client import browser, read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, answer
from tests.servers.tapping import tapped, trace_context

Json = dict[str, Any]

MODEL = "eu.anthropic.claude-sonnet-5-v1:0"
ASKED = [{"role": "user", "content": [{"text": "a"}]}]
USED = {"inputTokens": 9, "outputTokens": 7, "totalTokens": 16}
TOOL = {"toolUseId": "t1", "name": "dose"}
CALLER = {"aws_access_key_id": "AKIDCALLER", "aws_secret_access_key": "caller's"}
"""The backend's own credentials, which are good for nothing here."""
SESSION = boto3.session.Session(region_name=REGION)


@pytest.fixture(autouse=True)
def role(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Headgate's own credentials."""
    for name, value in ROLE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield


def begins() -> Json:
    return {"messageStart": {"role": "assistant", "p": "abc"}}


def said(index: int, *deltas: Json, start: Json | None = None, stops: bool = True) -> list[Json]:
    """The events of one block."""
    at = {"contentBlockIndex": index}
    begun = [] if start is None else [{"contentBlockStart": at | {"start": start, "p": "ab"}}]
    ended = [{"contentBlockStop": at | {"p": "abcdef"}}] if stops else []
    return begun + [{"contentBlockDelta": at | {"delta": delta, "p": "a"}} for delta in deltas] + ended


def words(index: int, *pieces: str) -> list[Json]:
    return said(index, *({"text": piece} for piece in pieces))


def calls(index: int, *pieces: str, **more: Any) -> list[Json]:
    deltas = ({"toolUse": {"input": piece}} for piece in pieces)
    return said(index, *deltas, start={"toolUse": TOOL | more})


def thinks(index: int, *pieces: Json) -> list[Json]:
    return said(index, *({"reasoningContent": piece} for piece in pieces))


def ends(reason: str = "end_turn", metadata: Json | None = None, **more: Any) -> list[Json]:
    counted = {"usage": USED, "metrics": {"latencyMs": 12}} | (metadata or {})
    return [{"messageStop": {"stopReason": reason} | more}, {"metadata": counted | {"p": "abcd"}}]


def converse_answer(*content: Json, reason: str = "end_turn", **more: Any) -> Json:
    message = {"message": {"role": "assistant", "content": list(content)}}
    return {
        "output": message,
        "stopReason": reason,
        "usage": USED,
        "metrics": {"latencyMs": 12},
    } | more


REASONING = {"reasoningContent": {"reasoningText": {"text": "Hm, 5", "signature": "s1"}}}
REDACTED = {"reasoningContent": {"redactedContent": b64encode(b"x").decode()}}
CALLED = converse_answer({"text": "So:"}, {"toolUse": TOOL | {"input": {"mg": 5}}}, reason="tool_use")

CONVERSED: dict[str, tuple[list[Json], Json, str]] = {
    "text": ([begins(), *words(0, "He", "y"), *ends()], converse_answer({"text": "Hey"}), "Hey"),
    "tools": (
        [begins(), *words(0, "So:"), *calls(1, "", '{"mg"', ": 5}"), *ends("tool_use")],
        CALLED,
        "So:",
    ),
    "a tool without arguments": (
        [begins(), *calls(0), *ends("tool_use")],
        converse_answer({"toolUse": TOOL | {"input": {}}}, reason="tool_use"),
        "",
    ),
    "reasoning": (
        [
            begins(),
            *thinks(0, {"text": "Hm"}, {"text": ", 5"}, {"signature": "s1"}),
            *thinks(1, REDACTED["reasoningContent"]),
            *words(2, "5"),
            *ends(additionalModelResponseFields={"stop_sequence": None}),
        ],
        converse_answer(
            REASONING, REDACTED, {"text": "5"}, additionalModelResponseFields={"stop_sequence": None}
        ),
        "5",
    ),
    "what Amazon adds": (
        [
            begins(),
            *words(0, "a"),
            *ends("max_tokens", {"performanceConfig": {"latency": "standard"}, "x": 1}),
        ],
        converse_answer({"text": "a"}, reason="max_tokens", performanceConfig={"latency": "standard"}, x=1),
        "a",
    ),
    "blocks that are not closed, and what was used before the end": (
        [*said(0, {"text": "a"}, stops=False), *calls(1, "{}"), *reversed(ends("tool_use"))],
        converse_answer({"text": "a"}, {"toolUse": TOOL | {"input": {}}}, reason="tool_use"),
        "a",
    ),
}


def assembled(*events: Json, choices: int | None = 1) -> tuple[Json, str]:
    """The answer that these events make, and the text that was shown."""
    assembler = Converse().assembler(choices)
    shown = "".join(assembler.feed(json.dumps(event)) for event in events)
    assert assembler.is_complete
    return json.loads(assembler.answer()), shown


@pytest.mark.parametrize("name", CONVERSED)
def test_it_is_the_batch_answer(name: str) -> None:
    events, batch, text = CONVERSED[name]

    assert assembled(*events) == (batch, text)


def test_a_field_that_nobody_knows_is_kept_and_counted() -> None:
    assembler = Converse().assembler(1)
    for event in CONVERSED["what Amazon adds"][0]:
        assembler.feed(json.dumps(event))
    assembler.answer()

    assert list(assembler.kept_fields()) == ["x"]


@pytest.mark.parametrize(
    "events",
    [
        [begins(), *words(1, "a"), *ends()],
        [begins(), *words(0, "a"), *said(0, {"text": "b"}), *ends()],
        [begins(), begins(), *ends()],
        [begins(), *words(0, "a"), begins(), *ends()],
        [begins(), *said(0, {"text": "a"}, {"toolUse": {"input": "{}"}}), *ends()],
        [begins(), *said(0, {"toolUse": {"input": "{}"}}), *ends()],
        [begins(), *said(0, {"text": "a"}, {"citation": {"title": "b"}}), *ends()],
        [begins(), *said(0, {"image": {}}), *ends()],
        [begins(), *said(0, {"text": "a", "more": 1}), *ends()],
        [begins(), *said(0, start={"toolResult": {}}), *ends()],
        [begins(), *thinks(0, {"text": "a"}, {"redactedContent": "b"}), *ends()],
        [begins(), *calls(0, '{"mg": 5'), *ends("tool_use")],
        [begins(), *calls(0, "{}{}"), *ends("tool_use")],
        [begins(), *words(0, *["a long piece of text"] * 2), *ends()],
        [begins(), *words(0, "a"), *ends("nobody_knows")],
        [begins(), *words(0, "a"), *ends(), *ends()],
        [begins(), *words(0, "a"), ends()[0], *words(1, "b"), ends()[1]],
        [begins(), *words(0, "a"), *ends(metadata={"usage": None})],
        [begins(), *ends()],
        [{"a": {}, "b": {}}],
        [{"somethingNew": {}}],
        [begins(), {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": 5}}}],
    ],
)  # fmt: skip
def test_what_is_not_certain_is_unfaithful(events: list[Json]) -> None:
    with pytest.raises(Unfaithful) as why:
        assembled(*events)
    assert not isinstance(why.value, AbnormalFinish)


@pytest.mark.parametrize("reason", ["guardrail_intervened", "content_filtered", "malformed_tool_use"])
def test_an_end_of_one_answer_says_nothing_about_the_model(reason: str) -> None:
    with pytest.raises(AbnormalFinish):
        assembled(begins(), *words(0, "a"), *ends(reason))
    assert assembled(begins(), *words(0, "a"), *ends(reason), choices=None)[1] == "a"


def test_arguments_that_were_cut_for_their_length_are_of_one_answer() -> None:
    with pytest.raises(AbnormalFinish):
        assembled(begins(), *calls(0, '{"mg": 5'), *ends("max_tokens"))


STATUSES = [("throttlingException", 429), ("modelStreamErrorException", 424), ("error", 500)]


@pytest.mark.parametrize(("kind", "status"), STATUSES)
def test_an_error_in_the_stream_has_its_status(kind: str, status: int) -> None:
    with pytest.raises(ProviderFailed) as failed:
        assembled(begins(), {kind: {"message": "no"}})
    assert (failed.value.status, json.loads(failed.value.body)) == (status, {"message": "no"})


CALL = json.dumps({"messages": ASKED, "system": [{"text": "Be brief."}]}).encode()
CLAUDES = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "system": "Be brief."}
CLAUDE_CALL = json.dumps(CLAUDES | {"messages": [{"role": "user", "content": "a"}]}).encode()


def test_the_stream_has_a_path_of_its_own_and_the_same_body() -> None:
    for dialect, body, batch, streamed in (
        (Converse(), CALL, b"converse", b"converse-stream"),
        (InvokeModel(), CLAUDE_CALL, b"invoke", b"invoke-with-response-stream"),
    ):
        target = b"/model/eu.anthropic.claude-sonnet-5-v1%3A0/"
        call = dialect.as_stream("POST", target + batch, body)

        assert call is not None
        assert (call.target, call.body) == (target + streamed, body)
        assert call.prompt == Prompt(MODEL, "Be brief.") == dialect.prompt("POST", target + streamed, body)
        assert dialect.is_stream("POST", target + streamed, body)
        assert not dialect.is_stream("POST", target + batch, body)
        assert not dialect.is_call("GET", target + batch)
        with pytest.raises(NotStreamable):
            dialect.as_stream("POST", target + streamed, body)


def test_what_a_stream_may_answer_otherwise_stays_batch() -> None:
    """A guardrail reads parts of a stream. A body of another maker has events of another shape."""
    target = b"/model/m/"
    guarded = json.dumps({"messages": ASKED, "guardrailConfig": {"guardrailIdentifier": "g"}}).encode()
    with pytest.raises(NotStreamable):
        Converse().as_stream("POST", target + b"converse", guarded)
    with pytest.raises(NotStreamable):
        InvokeModel().as_stream("POST", target + b"invoke", b'{"messages": []}')
    assert not InvokeModel().is_call("POST", b"/model/amazon.titan-embed-text-v2%3A0/invoke")
    form = {"outputConfig": {"textFormat": {"type": "json_schema"}}}
    prompt = Converse().prompt("POST", target + b"converse", json.dumps({"messages": ASKED} | form).encode())
    assert prompt is not None and prompt.wants_json


def client_of(url: str, headers: dict[str, str], **more: Any) -> Any:
    """boto3's client, with a trace's headers as tracing adds them; without any it is the role's."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=60, **more.pop("config", {}))
    signs = CALLER if headers else {}
    client = SESSION.client("bedrock-runtime", endpoint_url=url, config=config, **signs, **more)

    def trace(request: Any, **_: Any) -> None:
        for name, value in headers.items():
            request.headers.add_header(name, value)

    client.meta.events.register("before-sign.bedrock-runtime.*", trace)
    return client


def converse(url: str, headers: dict[str, str], **more: Any) -> Any:
    return _without_times(client_of(url, headers, **more).converse(modelId=MODEL, messages=ASKED))


def converse_long(url: str, headers: dict[str, str]) -> Any:
    said = [{"role": "user", "content": [{"text": "a" * (MAX_REQUEST_BYTES + 1)}]}]
    return _without_times(client_of(url, headers).converse(modelId=MODEL, messages=said))


def converse_stream(url: str, headers: dict[str, str]) -> Any:
    came = client_of(url, headers).converse_stream(modelId=MODEL, messages=ASKED)
    return _without_times(came | {"stream": list(came["stream"])})


def invoke(url: str, headers: dict[str, str]) -> Any:
    came = client_of(url, headers).invoke_model(modelId=MODEL, body=CLAUDE_CALL, accept="application/json")
    return _without_times(came | {"body": json.loads(came["body"].read())})


def _without_times(came: Any) -> Any:
    """The object without the headers of its framing."""
    headers = came.pop("ResponseMetadata")["HTTPHeaders"]
    return came, {name: value for name, value in headers.items() if name.startswith("x-amzn-bedrock")}


def of_claude(name: str) -> tuple[list[Json], Json]:
    """A stream of Anthropic's events within Amazon's, and its batch answer."""
    events, batch, _ = claude.ANSWERS[name]
    metrics = {"inputTokenCount": 9, "outputTokenCount": 7, "invocationLatency": 12, "firstByteLatency": 3}
    told = [*events[:-1], events[-1] | {"amazon-bedrock-invocationMetrics": metrics}]
    packed = [b64encode(json.dumps(event).encode()).decode() for event in told]
    return [{"chunk": {"bytes": each, "p": "abc"}} for each in packed], batch


COUNTS = {
    "x-amzn-bedrock-input-token-count": "9",
    "x-amzn-bedrock-output-token-count": "7",
    "x-amzn-bedrock-invocation-latency": "12",
}


def outcome(call: Call, url: str, headers: dict[str, str]) -> Any:
    """Return the result of a call: its object, or its error."""
    try:
        return call(url, headers)
    except ClientError as failed:
        status = failed.response["ResponseMetadata"]["HTTPStatusCode"]
        return type(failed).__name__, status, failed.response["Error"]


async def through(
    directory: Path, model: Bedrock, call: Call, **llm: Any
) -> tuple[Any, dict[str, int], list[str]]:
    """Return the call's result through the model port, how it was counted, and the texts that were shown."""
    backend = BedrockClient(call)
    settings = {"provider": {"api": "bedrock"}, **llm}
    async with tapped(directory, model, backend, llm=settings) as (serving, _, client):
        if "tls" in llm:
            backend.model_url = backend.model_url.replace("http:", "https:")
        stream = await read(client, START, signed())
        results = await counted(client, serving.admin_url)
    return backend.came, results, [each.get("content", "") for each in stream.events]


class BedrockClient(Client):
    """An upstream that makes one call with boto3."""

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        url, headers = f"{self.model_url}/models", trace_context(asked)
        self.came = await asyncio.to_thread(outcome, self._call, url, headers)
        await asked.answer(answer("a", "b"))


INVOKED = ("tools", "thoughts, whose last signature counts")
THROUGH: dict[str, tuple[Call, list[Json], Json, dict[str, str]]] = {
    **{f"converse, {name}": (converse, *CONVERSED[name][:2], {}) for name in ("text", "tools", "reasoning")},
    **{f"invoke, {name}": (invoke, *of_claude(name), COUNTS) for name in INVOKED},
}


@pytest.mark.parametrize("case", THROUGH)
async def test_boto3_gets_the_object_that_it_gets_without_us(tmp_path: Path, case: str) -> None:
    """Signed by the caller for Headgate, and by Headgate for Bedrock."""
    call, stream, batch, headers = THROUGH[case]
    expected = await _direct(Bedrock(stream, batch, headers=headers), call)
    model = Bedrock(stream, batch, headers=headers)

    came, results, shown = await through(tmp_path, model, call)

    assert len(expected) == 2, expected
    assert came == expected
    assert results == {"tapped": 1}
    assert len(model.paths) == 1 and b"stream" in model.paths[0]
    assert text_of(batch) and "".join(shown).startswith(text_of(batch))


def text_of(batch: Json) -> str:
    """The text of an answer of either kind."""
    blocks = batch["content"] if "content" in batch else batch["output"]["message"]["content"]
    return "".join(each.get("text", "") for each in blocks)


async def _direct(model: Bedrock, call: Call) -> Any:
    """Return the result of a call by the role itself, without Headgate."""

    async with model.upstream.running() as upstream:
        return await asyncio.to_thread(outcome, call, upstream.url, {})


TEXT, BATCH, _ = CONVERSED["text"]

THROTTLES = {"throttlingException": {"message": "it is ThrottlingException"}}
THROTTLED = (429, "ThrottlingException")

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no permission to stream": ({"stream_status": (403, "AccessDeniedException")}, "batch"),
    "a model without streams": ({"stream_status": (400, "ValidationException")}, "batch"),
    "the service is away": ({"stream_status": (503, "ServiceUnavailableException")}, "lost"),
    "a frame is broken": ({"broken": True}, "lost"),
    "an exception in the stream": ({"stream": [*TEXT[:2], THROTTLES]}, "lost"),
    "an error in the stream": ({"stream": [*TEXT[:2], {"error": {"code": "x", "message": "n"}}]}, "lost"),
    "an end that is not known": ({"stream": [*TEXT[:3], *ends("new")]}, "lost"),
    "a stream that is cut": ({"stream": TEXT[:-1]}, "lost"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_boto3_notices_no_fault_of_a_stream(tmp_path: Path, fault: str) -> None:
    """The call is asked again as batch."""
    more, result = FAULTS[fault]
    expected = await _direct(Bedrock(TEXT, BATCH), converse)
    model = Bedrock(more.get("stream", TEXT), BATCH, **{k: v for k, v in more.items() if k != "stream"})

    came, results, _ = await through(tmp_path, model, converse)

    assert came == expected
    assert results == {result: 1}
    assert model.paths == [b"converse-stream", b"converse"]


@pytest.mark.parametrize(
    "more",
    [
        {"stream_status": THROTTLED},
        {"stream": [*TEXT[:2], THROTTLES]},
    ],
    ids=["as the status", "in the stream"],
)
async def test_boto3_raises_the_error_that_it_raises_without_us(tmp_path: Path, more: Json) -> None:
    expected = await _direct(Bedrock(TEXT, BATCH, status=THROTTLED), converse)
    model = Bedrock(more.pop("stream", TEXT), BATCH, status=THROTTLED, **more)

    came, results, _ = await through(tmp_path, model, converse, ask_again="never")

    assert expected[0] == "ThrottlingException"
    assert came == expected
    assert results == {"failed": 1}
    assert model.paths == [b"converse-stream"]


async def test_the_callers_own_stream_passes_untouched_and_is_shown(tmp_path: Path) -> None:
    expected = await _direct(Bedrock(TEXT, BATCH), converse_stream)

    came, results, shown = await through(tmp_path, Bedrock(TEXT, BATCH), converse_stream)

    assert came == expected
    assert results == {"tapped": 1}
    assert "".join(shown).startswith("Hey")


async def test_a_body_that_is_too_long_for_the_tap_is_signed_all_the_same(tmp_path: Path) -> None:
    """Pictures and documents make it so."""
    model = Bedrock(TEXT, BATCH)

    came, results, _ = await through(tmp_path, model, converse_long)

    assert came[0] == BATCH
    assert results == {"batch": 1}
    assert model.paths == [b"converse"]


async def test_a_header_of_the_call_has_another_name_in_a_call_for_a_stream(tmp_path: Path) -> None:
    """`Accept` would be about the stream's own framing."""
    model = Bedrock(*of_claude("tools"))

    _, results, _ = await through(tmp_path, model, invoke)

    asked = model.upstream.asked[0]
    assert results == {"tapped": 1}
    assert asked.header(b"x-amzn-bedrock-accept") == b"application/json"
    assert asked.header(b"accept") is None


async def test_a_bearer_key_goes_on_as_it_came_over_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 sends it over `https` alone: the model port has a certificate."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", BEARER)
    ca_file, _ = certificates(tmp_path)
    model = Bedrock(TEXT, BATCH)
    tls = {name: str(tmp_path / "server.pem") for name in ("cert", "key")}

    def call(url: str, headers: dict[str, str]) -> Any:
        return converse(url, headers, verify=str(ca_file), config={"signature_version": "bearer"})

    came, results, _ = await through(tmp_path, model, call, tls=tls)

    assert came[0] == BATCH
    assert results == {"tapped": 1}
    assert model.upstream.asked[0].header(b"authorization") == f"Bearer {BEARER}".encode()


async def test_without_credentials_the_backend_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ROLE:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    model = Bedrock(TEXT, BATCH)

    came, results, _ = await through(tmp_path, model, converse)

    assert came[:2] == ("ClientError", 503)
    assert results == {"failed": 1}
    assert model.paths == []


async def test_what_comes_unsigned_is_not_signed(tmp_path: Path) -> None:
    """A client without credentials does not get Headgate's. A call of no run is signed like a run's call."""
    model = Bedrock(TEXT, BATCH)
    settings = {"provider": {"api": "bedrock"}}
    async with tapped(tmp_path, model, llm=settings) as (serving, _, _):
        path = f"/models/model/{MODEL.replace(':', '%3A')}/converse"
        async with browser(serving.model_url) as client:
            refused = await client.post(path, content=CALL)
        came = await asyncio.to_thread(outcome, converse, f"{serving.model_url}/models", {"x": "y"})

    assert refused.status_code == 403
    assert came[0] == BATCH
    assert model.paths == [b"converse", b"converse"]


def test_the_settings_say_which_extra_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    flags = tmp_path / "flags.json"
    flags.write_text("{}")
    provider = {"name": "aws", "url": "https://bedrock-runtime.eu-central-1.amazonaws.com", "api": "bedrock"}
    block = {"upstream": {"url": "http://u"}, "flags": {"file": str(flags)}, "llm": {"providers": [provider]}}

    with pytest.raises(ValidationError, match=r"headgate\[bedrock\]"):
        Settings.model_validate(block | {"admin_token": "a token for tests alone"})


def test_what_is_no_frame_is_unfaithful() -> None:
    for wire in (b"data: {}\n\n" * 9, frame(b"\xff", message_type="event", event_type="a"), frame(b"{}")):
        with pytest.raises(Unfaithful):
            StreamEvents(Converse.media_type).feed(wire)


def test_frames_are_read_however_they_are_cut() -> None:
    wire = b"".join(map(framed, [*TEXT, {"error": {"code": "x", "message": "n"}}]))
    for size in (1, 7, 4096):
        events = StreamEvents(Converse.media_type)
        came = [json.loads(e) for at in range(0, len(wire), size) for e in events.feed(wire[at : at + size])]
        assert came == [*TEXT, {"x": {"message": "n"}}]
