"""Ollama's own API: what a stream makes is what the batch call would have been told, or it is refused."""

import json
from functools import partial
from typing import Any

import pytest

from proxy.llm.assembly.dialect import NotStreamable, Prompt, ProviderFailed, Unfaithful
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.stream_events import NDJSON, StreamEvents
from tests.llm import assembling

CHAT, GENERATE = b"/api/chat", b"/api/generate"
CALL = {"model": "llama3.2", "messages": [{"role": "system", "content": "Be brief."}], "stream": False}
COUNTS = {"total_duration": 9, "prompt_eval_count": 3, "eval_count": 4}
DOSE = {"function": {"name": "dose", "arguments": {"mg": 5}}}

Json = dict[str, Any]


def line(content: str = "", **more: Any) -> Json:
    message = {"role": "assistant", "content": content} | more
    return {"model": "llama3.2", "created_at": f"2026-{content}", "message": message, "done": False}


def last(content: str = "", reason: str = "stop", **more: Any) -> Json:
    return line(content, **more) | {"done": True, "done_reason": reason} | COUNTS


def generated(response: str, **more: Any) -> Json:
    return {"model": "llama3.2", "created_at": "2026", "response": response, "done": False} | more


assembled = partial(assembling.assembled, Ollama())


@pytest.mark.parametrize(
    ("lines", "message", "shown"),
    [
        pytest.param([line("He"), line("y 😀"), last()], {"content": "Hey 😀"}, "Hey 😀", id="text"),
        pytest.param(
            [line(thinking="Hm"), line(thinking="m"), line("So"), last()],
            {"content": "So", "thinking": "Hmm"},
            "So",
            id="thoughts",
        ),
        pytest.param(
            [line(tool_calls=[DOSE]), line(tool_calls=[DOSE]), last()],
            {"content": "", "tool_calls": [DOSE, DOSE]},
            "",
            id="tools, which come whole",
        ),
        pytest.param([last("Hey", "length")], {"content": "Hey"}, "Hey", id="one line"),
    ],
)
def test_a_chat_makes_the_batch_answer(lines: list[Json], message: Json, shown: str) -> None:
    """The counts and the reason are those of the last line; no beginning of the stream makes an answer."""
    batch = lines[-1] | {"message": {"role": "assistant"} | message}

    assert assembled(*lines) == (batch, shown)


def test_a_generation_makes_the_batch_answer() -> None:
    ends = {"done": True, "done_reason": "stop", "context": [1, 2]} | COUNTS

    assert assembled(generated("He", thinking=""), generated("y"), generated("", **ends)) == (
        generated("Hey", **ends),
        "Hey",
    )


def test_an_unknown_field_that_cannot_change_the_answer_is_kept_and_named() -> None:
    assembler = Ollama().assembler(1)
    for each in (line("a") | {"region": "eu"}, last() | {"region": "eu", "cost": 1}):
        assembler.feed(json.dumps(each))

    assert json.loads(assembler.answer())["cost"] == 1
    assert sorted(assembler.kept_fields()) == ["cost", "region"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([line("a", new=1), last()], id="an unknown field beside the text"),
        pytest.param([line("a") | {"new": 1}, last() | {"new": 2}], id="an unknown field that changes"),
        pytest.param([line("a"), last(reason="load")], id="another reason"),
        pytest.param([line("a"), last(reason="")], id="no reason"),
        pytest.param([line("a"), line("ab"), line("abc"), last("abcd")], id="a text that comes again"),
        pytest.param([line("a"), last() | {"model": "b"}], id="another model"),
        pytest.param([{"done": True, "done_reason": "stop"}], id="no text"),
        pytest.param([line("\ud83d")], id="half a character"),
        pytest.param([last(), last()], id="more after the end"),
        pytest.param([{"message": 1}], id="no message"),
    ],
)
def test_what_cannot_be_joined_for_certain_is_refused(lines: list[Json]) -> None:
    with pytest.raises(Unfaithful):
        assembled(*lines)


@pytest.mark.parametrize(
    ("more", "status"), [({}, 500), ({"status_code": 429}, 429), ({"status_code": "429"}, 500)]
)
def test_an_error_in_the_stream_has_its_status(more: Json, status: int) -> None:
    with pytest.raises(ProviderFailed) as failed:
        Ollama().assembler(1).feed(json.dumps({"error": "no"} | more))

    assert failed.value.status == status


@pytest.mark.parametrize("target", [CHAT, GENERATE])
def test_a_call_is_asked_as_a_stream_and_else_as_it_came(target: bytes) -> None:
    told = CALL | {"prompt": "a", "system": "Be kind."}
    stream = Ollama().as_stream("POST", target, json.dumps(told).encode())

    assert stream is not None
    assert (stream.target, stream.prompt) == (target, Prompt("llama3.2", "Be kind.\nBe brief."))
    assert json.loads(stream.body) == told | {"stream": True}


@pytest.mark.parametrize("stream", [None, True])
def test_a_call_that_does_not_say_otherwise_is_a_stream(stream: Any) -> None:
    said = json.dumps(CALL | {"stream": stream}).encode()

    assert Ollama().is_stream("POST", CHAT, said)
    with pytest.raises(NotStreamable):
        Ollama().as_stream("POST", CHAT, said)


def test_a_call_that_loads_a_model_goes_through_as_batch() -> None:
    with pytest.raises(NotStreamable):
        Ollama().as_stream("POST", GENERATE, b'{"model": "m", "stream": false}')


@pytest.mark.parametrize(
    ("body", "is_answer"),
    [(last("a"), True), (line("a"), False), ({"error": "no"}, False), ({"done": True}, False)],
)
def test_a_body_is_known_for_a_batch_answer_by_its_shape(body: Any, *, is_answer: bool) -> None:
    assert Ollama().is_answer(json.dumps(body).encode(), 1) is is_answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 999])
def test_lines_are_found_however_their_bytes_are_cut(size: int) -> None:
    """Empty lines say nothing; a line that has not ended is none."""
    wire = "\n".join(["", json.dumps(line("é😀"), ensure_ascii=False), "", json.dumps(last()), '{"half'])
    found: list[str] = []
    events = StreamEvents(NDJSON)
    said = wire.encode()
    for at in range(0, len(said), size):
        found += events.feed(said[at : at + size])

    assert [json.loads(each) for each in found] == [line("é😀"), last()]


def test_a_line_has_a_bound_and_is_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.llm.stream_events.MAX_EVENT_BYTES", 8)
    with pytest.raises(Unfaithful, match="too large"):
        StreamEvents(NDJSON).feed(b"123456789")
    with pytest.raises(Unfaithful, match="Unicode"):
        StreamEvents(NDJSON).feed(b"\xff\n")
