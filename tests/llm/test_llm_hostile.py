"""Streams as no documentation describes them: each dialect makes the same answer
of it, or none.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.llm.assembly.dialect import Dialect, ProviderFailed, Unfaithful
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.bedrock import EVENT_STREAM, Converse
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses
from proxy.llm.stream_events import NDJSON, SSE, StreamEvents
from tests.llm import gemini_events as gemini
from tests.llm import test_llm_anthropic as claude
from tests.llm import test_llm_bedrock as bedrock
from tests.llm import test_llm_cohere as cohere
from tests.llm import test_llm_ollama as llama
from tests.llm import test_llm_openai as gpt
from tests.llm import test_llm_responses as responses
from tests.llm.test_llm_providers import STREAMS as COMPATIBLE
from tests.servers.bedrock import framed

Json = dict[str, Any]

DONE = "[DONE]"
WHOLE = responses.response(responses.THOUGHT, responses.message("Hey 😀"))
PARALLEL = [
    gpt.chunk({"role": "assistant", "content": None}),
    gpt.dose("call_1", {"name": "dose", "arguments": ""}),
    gpt.chunk({"tool_calls": [{"index": 1, "id": "call_2"} | {"function": {"name": "b", "arguments": "{"}}]}),
    gpt.said_again('{"mg": 5}'),
    gpt.chunk({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}),
    gpt.chunk({}, reason="tool_calls"),
    gpt.USED,
]
"""Two tools' calls whose arguments come by turns."""


def chunks(events: list[Json]) -> list[Json]:
    return [gpt.HEAD | {"object": "chat.completion.chunk"} | event for event in events]


STREAMS: dict[str, tuple[Dialect, list[Json]]] = {
    **{f"openai, {name}": (OpenAI(), chunks(events)) for name, (events, _, _) in COMPATIBLE.items()},
    "openai, tools by turns": (OpenAI(), chunks(PARALLEL)),
    **{f"anthropic, {name}": (Anthropic(), events) for name, (events, _, _) in claude.ANSWERS.items()},
    **{f"bedrock, {name}": (Converse(), events) for name, (events, _, _) in bedrock.CONVERSED.items()},
    "responses": (
        Responses(),
        [
            *responses.said("He", "y 😀"),
            responses.done(0, responses.THOUGHT),
            responses.done(1, responses.message("Hey 😀")),
            responses.ends("completed", WHOLE),
        ],
    ),
    "responses, whose output is null": (
        Responses(),
        [
            *responses.said("He", "y 😀"),
            responses.done(0, responses.THOUGHT),
            responses.done(1, responses.message("Hey 😀")),
            responses.ends("completed", WHOLE | {"output": None}),
        ],
    ),
    "gemini": (
        Gemini(),
        [
            gemini.event({"text": "Hm", "thought": True}),
            gemini.event({"text": "He"}),
            gemini.event({"text": "y 😀"}, safetyRatings=[gemini.rated("LOW")]),
            gemini.event({"functionCall": {"name": "dose", "args": {"mg": 5}}}),
            gemini.STOP,
        ],
    ),
    "ollama": (
        Ollama(),
        [
            llama.line(thinking="Hm"),
            llama.line("He"),
            llama.line("y 😀"),
            llama.line(tool_calls=[{"id": "c1"} | llama.DOSE]),
            llama.last(),
        ],
    ),
    "cohere": (
        Cohere(),
        [
            cohere.start(),
            *cohere.content(0, "thinking", "Hm"),
            *cohere.content(1, "text", "He", "y 😀"),
            cohere.says("citation-start", 0, citations=cohere.CITED),
            cohere.says("citation-end", 0),
            cohere.end(),
        ],
    ),
    "cohere, tools": (
        Cohere(),
        [
            cohere.start(),
            cohere.says("tool-plan-delta", tool_plan="I "),
            *cohere.tool(0, '{"mg":', "5}"),
            *cohere.tool(1, "{}"),
            cohere.end("TOOL_CALL"),
        ],
    ),
}


def made(dialect: Dialect, events: list[str]) -> Any:
    """The answer that events make; None if none is made of them."""
    assembler = dialect.assembler(1)
    try:
        for event in events:
            if assembler.is_terminated:
                break
            assembler.feed(event)
        return json.loads(assembler.answer()) if assembler.is_complete else None
    except (Unfaithful, ProviderFailed):
        return None


def said(dialect: Dialect, events: list[Json]) -> list[str]:
    """The data of a stream's events."""
    return [*map(json.dumps, events), *([DONE] if isinstance(dialect, OpenAI) else [])]


def without_nulls(value: Any) -> Any:
    """An answer without what says nothing: null, and empty."""
    if isinstance(value, dict):
        kept = {name: without_nulls(of) for name, of in value.items()}
        return {name: of for name, of in kept.items() if of not in (None, "", [], {})}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def turned(value: Any) -> Any:
    """Every object with its fields in the other order."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return [turned(item) for item in value] if isinstance(value, list) else value


def as_bytes(dialect: Dialect, events: list[str], line: str = "\n", *, oddly: bool = False) -> bytes:
    """A stream's bytes.

    Args:
        line: what ends a line.
        oddly: with all that the formats allow besides: a byte order mark, comments, fields that mean nothing.
    """
    if dialect.media_type == EVENT_STREAM:
        return b"".join(framed(json.loads(event)) for event in events)
    if dialect.media_type == NDJSON:
        return "".join(f"{line if oddly else ''} {event} {line}" for event in events).encode()
    odd = f": keep-alive{line}{line}id: 7{line}retry: 9{line}event: x{line}nothing{line}" if oddly else ""
    name = "data:" if oddly else "data: "
    text = "".join(f"{odd}{name}{event}{line}{line}" for event in events)
    return (b"\xef\xbb\xbf" if oddly else b"") + text.encode()


def read(dialect: Dialect, wire: bytes, size: int) -> list[str]:
    """The events of a stream that comes in pieces of so many bytes."""
    events = StreamEvents(dialect.media_type)
    return [event for at in range(0, len(wire), size) for event in events.feed(wire[at : at + size])]


WRITTEN = (
    "openai, Groq",
    "openai, tools by turns",
    "anthropic, tools",
    "bedrock, tools",
    "responses",
    "gemini",
)


@pytest.mark.parametrize("name", [*WRITTEN, "ollama", "cohere"])
def test_how_a_stream_is_written_does_not_matter(name: str) -> None:
    """The order of fields, escapes, ends of lines, comments, a byte order mark, characters that are cut."""
    dialect, events = STREAMS[name]
    plain = said(dialect, events)
    answer = made(dialect, plain)
    assert answer is not None

    assert made(dialect, said(dialect, turned(events))) == answer
    raw = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]
    for written in (plain, raw + plain[len(raw) :]):
        for line in ("\n", "\r\n", *(("\r",) if dialect.media_type == SSE else ())):
            for oddly, size in ((False, 1), (True, 1)):
                wire = as_bytes(dialect, written, line, oddly=oddly)
                wire += b"\n" if line == "\r" else b""  # the last line might else go on
                assert made(dialect, read(dialect, wire, size)) == answer


def nothing(dialect: Dialect) -> list[Json]:
    """Events that add nothing."""
    if isinstance(dialect, OpenAI):
        empty = chunks([gpt.chunk({}), gpt.chunk({"content": ""}), {"choices": []}])
        return [*empty, *(each | {"error": wrong} for each in empty[:2] for wrong in (None, "", {}))]
    if isinstance(dialect, Anthropic):
        return [claude.PING, claude.PING | {"cost": "0"}]
    if isinstance(dialect, Ollama):
        return [llama.line(), llama.line() | {"error": ""}]
    return [{"type": "response.in_progress"}] if isinstance(dialect, Responses) else []


@pytest.mark.parametrize("name", STREAMS)
def test_an_event_that_adds_nothing_changes_nothing(name: str) -> None:
    dialect, events = STREAMS[name]
    answer = without_nulls(made(dialect, said(dialect, events)))

    for more in nothing(dialect):
        for at in range(1, len(events)):
            came = made(dialect, said(dialect, [*events[:at], more, *events[at:]]))
            assert came is None or without_nulls(came) | {"created_at": 0} == answer | {"created_at": 0}
        assert made(dialect, said(dialect, [events[0], more, *events[1:]])) is not None


@pytest.mark.parametrize("name", STREAMS)
def test_a_field_that_grows_beside_the_text_costs_the_stream(name: str) -> None:
    """Not the Responses API's: its last event is the whole answer."""
    dialect, events = STREAMS[name]

    grown = [event | {"odd": "a" * at} for at, event in enumerate(events)]

    is_whole = isinstance(dialect, Responses)
    assert made(dialect, said(dialect, grown)) == (made(dialect, said(dialect, events)) if is_whole else None)


def indices_as(write: Callable[[int], Any], value: Any) -> Any:
    """Every index is written in another way."""
    if isinstance(value, dict):
        return {
            name: write(of) if name.lower().endswith("index") and type(of) is int else indices_as(write, of)
            for name, of in value.items()
        }
    return [indices_as(write, item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("write", [str, lambda _: -1, lambda _: 10**9], ids=["text", "negative", "huge"])
@pytest.mark.parametrize("name", STREAMS)
def test_an_index_that_is_none_makes_the_same_answer_or_none(name: str, write: Callable[[int], Any]) -> None:
    dialect, events = STREAMS[name]

    came = made(dialect, said(dialect, indices_as(write, events)))
    answer = made(dialect, said(dialect, events))

    # Where nothing is joined by its index, it means nothing.
    assert came is None or came in (answer, indices_as(write, answer))


COUNTS = frozenset({"usage", "usageMetadata", "x_groq"})
WHOLE_AT_ONCE = "anthropic, a message that begins with all of it"


def without_usage(value: Any) -> Any:
    """Of an event, what does not say what was used. Anthropic's first event says what was used so far."""
    if isinstance(value, dict) and value.get("type") != "message_start":
        return {name: without_usage(of) for name, of in value.items() if name not in COUNTS}
    return [without_usage(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "name", [name for name in STREAMS if not name.startswith("ollama") and name != WHOLE_AT_ONCE]
)
def test_a_stream_that_does_not_say_what_was_used_makes_no_answer(name: str) -> None:
    """Ollama's batch answer leaves the counts out as its stream does."""
    dialect, events = STREAMS[name]

    assert made(dialect, said(dialect, without_usage(events))) is None


TWICE: dict[str, tuple[Dialect, list[Json]]] = {
    "more of the text each time, and the last again": (
        OpenAI(),
        chunks(
            [
                gpt.START,
                *(gpt.chunk({"content": text}) for text in ("A", "AB", "ABC", "ABC")),
                gpt.STOP,
                gpt.USED,
            ]
        ),
    ),
    "the same long text three times": (
        OpenAI(),
        chunks([gpt.START, *[gpt.chunk({"content": "Fever of 38.9 °C."})] * 3, gpt.STOP, gpt.USED]),
    ),
    "more of a thought each time, in a part": (
        OpenAI(),
        chunks(
            [
                gpt.chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]})
                for text in ("A", "AB", "ABC", "ABCD")
            ]
            + [gpt.chunk({"content": "So"}), gpt.STOP, gpt.USED]
        ),
    ),
    "another model": (
        OpenAI(),
        chunks([gpt.START, gpt.chunk({"content": "a"}) | {"model": "b"}, gpt.STOP, gpt.USED]),
    ),
    "a tool's call of Ollama": (
        Ollama(),
        [
            llama.line(tool_calls=[{"id": "c1"} | llama.DOSE]),
            llama.last(tool_calls=[{"id": "c1"} | llama.DOSE]),
        ],
    ),
    "a signature of Bedrock's": (
        Converse(),
        [
            bedrock.begins(),
            *bedrock.thinks(0, {"text": "Hm"}, {"signature": "s"}, {"signature": "s"}),
            *bedrock.ends(),
        ],
    ),
    "content of Cohere's, at the start": (
        Cohere(),
        [
            {
                "type": "message-start",
                "delta": {"message": {"role": "assistant", "content": [{"type": "text", "text": "So"}]}},
            },
            *cohere.content(0, "text", "So"),
            cohere.end(),
        ],
    ),
    "content of Anthropic's, at the end": (
        Anthropic(),
        [
            claude.start(),
            *claude.text(0, "a"),
            claude.stops(delta={"content": [{"type": "text", "text": "a"}]}),
            claude.END,
        ],
    ),
    "a field of Anthropic's end, with another value": (
        Anthropic(),
        [
            claude.start(),
            *claude.text(0, "a"),
            claude.stops(None, delta={"odd": 1}),
            claude.stops(delta={"odd": 2}),
            claude.END,
        ],
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_what_comes_twice_makes_no_answer(name: str) -> None:
    dialect, events = TWICE[name]

    assert made(dialect, said(dialect, events)) is None


AFTER: dict[str, tuple[Dialect, list[Json]]] = {
    "anthropic": (Anthropic(), [claude.start(), claude.stops(), *claude.text(0, "a", "b"), claude.END]),
    "bedrock": (
        Converse(),
        [
            bedrock.begins(),
            bedrock.words(0, "a")[0],
            bedrock.ends()[0],
            *bedrock.words(0, "b"),
            bedrock.ends()[1],
        ],
    ),
    "openai": (
        OpenAI(),
        chunks(
            [gpt.START, gpt.chunk({"content": "a"}, reason="stop"), gpt.chunk({"content": "b"}), gpt.USED]
        ),
    ),
    "gemini": (Gemini(), [gemini.STOP, gemini.event({"text": "a"})]),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_text_after_its_end_makes_no_answer(name: str) -> None:
    dialect, events = AFTER[name]

    assert made(dialect, said(dialect, events)) is None


ODD_BLOCKS = {
    "arguments that are no object": claude.block(0, claude.TOOL | {"input": ""}),
    "a signature of a text": claude.block(
        0, {"type": "text", "text": ""}, {"type": "signature_delta", "signature": "s"}
    ),
    "a citation of a thought": claude.block(
        0, {"type": "thinking", "thinking": ""}, {"type": "citations_delta", "citation": {}}
    ),
}


@pytest.mark.parametrize("name", ODD_BLOCKS)
def test_a_block_of_anthropics_that_nobody_documents_makes_no_answer(name: str) -> None:
    events = [claude.start(), *ODD_BLOCKS[name], claude.stops(), claude.END]

    assert made(Anthropic(), said(Anthropic(), events)) is None


def neighbours(events: list[Json]) -> Iterator[list[Json]]:
    """The stream with each two of its events in the other order."""
    for at in range(len(events) - 1):
        yield [*events[:at], events[at + 1], events[at], *events[at + 2 :]]


@pytest.mark.parametrize("name", ["openai, tools by turns", "cohere, tools", "anthropic, tools"])
def test_tools_calls_whose_events_change_places_are_the_same_or_none(name: str) -> None:
    """Arguments that are cut, or mixed up, are no JSON, or that of another call."""
    dialect, events = STREAMS[name]
    answer = without_nulls(made(dialect, said(dialect, events)))

    came = [made(dialect, said(dialect, changed)) for changed in neighbours(events)]
    inner = events[1:-1]
    for at in range(50):
        random.Random(at).shuffle(inner)
        came.append(made(dialect, said(dialect, [events[0], *inner, events[-1]])))

    assert all(each is None or without_nulls(each) == answer for each in came)
    assert None in came
