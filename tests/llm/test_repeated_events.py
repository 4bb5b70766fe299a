"""Events that repeat the one before them but for a text: what is made of them is what would be made of each,
were it read by itself.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.llm.assembly.dialect import Dialect, ProviderFailed, Unfaithful
from proxy.llm.assembly.repeated_events import PROBE, Growth, RepeatedEvents
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.openai.calls import OpenAI
from tests.llm import test_llm_anthropic as claude
from tests.llm import test_llm_cohere as cohere
from tests.llm import test_llm_openai as gpt

Json = dict[str, Any]

HEAD = gpt.HEAD | {"object": "chat.completion.chunk"}
SAFE = {"hate": gpt.verdict()}


def chunk(delta: Json, index: int = 0, *, top: Json | None = None, **choice: Any) -> str:
    return json.dumps(HEAD | gpt.chunk(delta, index, **choice) | (top or {}))


def grown(index: int, kind: str, name: str, text: str, **more: Any) -> str:
    delta = {"type": kind, name: text} | more
    return json.dumps({"type": "content_block_delta", "index": index, "delta": delta})


def said(kind: str, text: str, **more: Any) -> str:
    return json.dumps(cohere.says("content-delta", 0, content={kind: text}) | more)


Shape = Callable[[str], str]

STREAMS: dict[str, tuple[Dialect, list[str], list[Shape], list[str]]] = {
    "chat completions": (
        OpenAI(),
        [chunk({"role": "assistant", "content": ""})],
        [
            lambda text: chunk({"content": text}),
            lambda text: chunk({"role": "assistant", "content": text, "refusal": None, "tool_calls": []}),
            lambda text: chunk(
                {"content": text}, content_filter_results=SAFE, logprobs=None, stop_reason=None
            ),
            lambda text: chunk({"content": text}, content_filter_results={"hate": gpt.verdict("low")}),
            lambda text: chunk({"content": None, "reasoning_content": text}),
            lambda text: chunk({"content": "", "reasoning": text}),
            lambda text: chunk({"content": text, "reasoning": text}),
            lambda text: chunk({"refusal": text}),
            lambda text: chunk({"content": text}, 1),
            lambda text: chunk({"content": text}, top={"usage": gpt.USAGE}),
            lambda text: chunk({"content": text}, top={"obfuscation": (text * 9)[:9]}),
            lambda text: chunk({"content": text}, top={"p": "a" * (len(text) + 1)}),
            lambda text: chunk({"content": text}, top={"p": "a" * len(text), "obfuscation": "a"}),
            lambda text: json.dumps({"p": "a" * len(text)} | HEAD | gpt.chunk({"content": text})),
            lambda text: chunk({"content": text}, top={"odd": 1}),
            lambda text: chunk(
                {"content": text}, top={"prompt_filter_results": [{"content_filter_results": SAFE}]}
            ),
            lambda text: chunk({"content": text}, top={"service_tier": "default"}),
            lambda text: chunk({"content": text}, odd=1),
            lambda text: chunk({"content": text}, odd=0),
            lambda text: chunk({"content": text}, odd=None),
            lambda text: chunk({"content": text}, logprobs={"content": [gpt.logprob("a")]}),
            lambda text: chunk({"content": text}, token_ids=[1]),
            lambda text: chunk({"content": text}, reason=""),
            lambda text: chunk({"content": text}, reason="stop"),
            lambda text: chunk({"content": text}, text=text),
            lambda text: chunk({"content": text}, error=""),
            lambda text: chunk({"content": [{"type": "text", "text": text}]}),
            lambda text: chunk({"new": text}),
            lambda text: json.dumps(HEAD | {"choices": [{"delta": {"content": text}}]}),
            lambda text: json.dumps(HEAD | {"choices": gpt.chunk({"content": text})["choices"] * 2}),
            lambda text: json.dumps(HEAD | gpt.dose("c") | {"model": "another"}),
            lambda text: json.dumps(HEAD | gpt.said_again(text)),
            lambda text: chunk({"content": "a"}).replace('"content": "a"', '"content": "a", "content": "b"'),
            lambda text: chunk({"content": "a"}).replace('"a"', f'"a", "content": {json.dumps(text)}'),
        ],
        [chunk({}, reason="stop"), json.dumps(HEAD | gpt.USED), "[DONE]"],
    ),
    "messages": (
        Anthropic(),
        [*map(json.dumps, [claude.start(), *claude.text(0, "a")[:-1]])],
        [
            lambda text: grown(0, "text_delta", "text", text),
            lambda text: grown(0, "text_delta", "text", text, odd=None),
            lambda text: grown(0, "thinking_delta", "thinking", text),
            lambda text: grown(0, "signature_delta", "signature", text),
            lambda text: grown(1, "text_delta", "text", text),
            lambda text: json.dumps(claude.PING),
            lambda text: json.dumps({"type": "content_block_stop", "index": 0}),
        ],
        [*map(json.dumps, [{"type": "content_block_stop", "index": 0}, claude.stops(), claude.END])],
    ),
    "Cohere": (
        Cohere(),
        [*map(json.dumps, [cohere.start(), *cohere.content(0, "text", "a")[:-1]])],
        [
            lambda text: said("text", text),
            lambda text: said("text", text, odd=1),
            lambda text: said("text", text, logprobs=None),
            lambda text: said("thinking", text),
            lambda text: json.dumps(cohere.says("tool-plan-delta", tool_plan=text)),
            lambda text: json.dumps(cohere.says("content-delta", 0, content={"type": "text", "text": text})),
            lambda text: json.dumps(
                cohere.says("content-delta", 0, content={"text": text, "thinking": None})
            ),
        ],
        [*map(json.dumps, [cohere.says("content-end", 0), cohere.end()])],
    ),
}

TEXT = st.text(st.sampled_from('ab", :\\\n\t\x7f é😀\u2028\u3000\ud83d{}[]'), max_size=4) | st.sampled_from(
    ["a", " the", ",", ":", "content", "text", "delta", "0", "\\", '"', '","content":"', PROBE, "assistant"]
)


def apart(events: list[str]) -> list[str]:
    """The same events, none of which has the characters of another."""
    return [event.replace("{", "{" + " " * at, 1) for at, event in enumerate(events)]


def outcome(dialect: Dialect, choices: int | None, events: list[str]) -> list[Any]:
    """All that anybody sees of a stream."""
    assembler = dialect.assembler(choices)
    seen: list[Any] = []
    try:
        for event in events:
            piece = assembler.feed(event)
            seen.append((piece, assembler.arguments, assembler.is_terminated, assembler.is_complete))
        seen.append(json.loads(assembler.answer()))
    except (Unfaithful, ProviderFailed) as failure:
        seen.append(repr(failure))
    return [*seen, *assembler.kept_fields()]


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=60)
@given(data=st.data())
def test_an_event_that_is_repeated_counts_as_if_it_were_read(name: str, data: st.DataObject) -> None:
    """Whatever comes before, between and after; also what is no JSON, since a character is missing."""
    dialect, begins, shapes, ends = STREAMS[name]
    runs = st.lists(st.tuples(st.sampled_from(shapes), st.lists(TEXT, min_size=1, max_size=4)), max_size=5)
    drawn = data.draw(runs | st.lists(st.tuples(st.just(shapes[0]), st.lists(TEXT, min_size=3)), max_size=2))
    events = [*begins, *(shape(text) for shape, texts in drawn for text in texts), *ends]
    if data.draw(st.integers(0, 3)) == 0:
        at = data.draw(st.integers(0, len(events) - 1))
        cut = data.draw(st.integers(1, len(events[at]) - 1))
        events[at] = events[at][:cut] + events[at][cut + 1 :]
    for choices in (1, None):
        assert outcome(dialect, choices, events) == outcome(dialect, choices, apart(events))


PLAIN = [chunk({"content": text}) for text in ("So", " it", " goes")]
TWICE = '"content": "a", "content": "b"'


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([*PLAIN, PLAIN[0].replace('"content": "So"', TWICE)], id="two texts under one name"),
        pytest.param([*PLAIN, PLAIN[0].replace("So", '\\" \\ud83d')], id="half a character"),
        pytest.param([*[chunk({"content": "a"}, top={"odd": 1})] * 2, *PLAIN], id="not always in events"),
        pytest.param([*[chunk({"content": "a"}, odd=1)] * 2, *PLAIN], id="not always in choices"),
        pytest.param([*PLAIN, chunk({"content": ""}, reason="stop"), PLAIN[0]], id="after its end"),
    ],
)
def test_what_a_repeated_event_would_hide_is_seen(events: list[str]) -> None:
    """The same in streams that are drawn too seldom."""
    dialect, begins, _, ends = STREAMS["chat completions"]
    stream = [*begins, *events, *ends]
    assert outcome(dialect, 1, stream) == outcome(dialect, 1, apart(stream))


@pytest.mark.parametrize("name", STREAMS)
def test_an_event_without_data_is_no_end(name: str) -> None:
    dialect, begins, _, _ = STREAMS[name]
    assembler = dialect.assembler()
    assembler.feed(begins[0])

    with pytest.raises(Unfaithful):
        assembler.feed("")

    assert not assembler.is_complete


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("chat completions", 0),
        ("chat completions", 2),
        ("chat completions", 4),
        ("messages", 0),
        ("Cohere", 0),
    ],
)
def test_a_text_is_not_read_event_by_event(name: str, shape: int) -> None:
    """In the shapes that most providers have, an event after one of its kind is known by its characters."""
    dialect, begins, shapes, _ = STREAMS[name]
    assembler = dialect.assembler(1)
    for event in begins:
        assembler.feed(event)
    first = shapes[shape]("first ")
    assembler.feed(first)

    repeated = RepeatedEvents()
    repeated.look_at(first, assembler.growth)  # type: ignore[attr-defined] # these dialects have it

    for text in (" more", "a\n", '"quoted"', "é 😀\u3000"):
        assert repeated.take(shapes[shape](text)) is not None
    assert repeated.take(shapes[shape](" ").replace("{", "{ ", 1)) is None
    assert repeated.take(shapes[shape]("more ")) is None, "nothing is known of what comes after another event"


@pytest.mark.parametrize(
    "event",
    [
        pytest.param('{"a": "b", "a": "b"}', id="the same name twice, and the last counts"),
        pytest.param('{"b": "\\"a\\": \\"x\\"", "a": "\\u0078"}', id="the characters stand elsewhere"),
        pytest.param(f'{{"a": "x", "b": "{PROBE}"}}', id="nobody knows which is the probe"),
    ],
)
def test_an_event_whose_text_has_no_certain_place_is_repeated_by_none(event: str) -> None:
    pieces: list[str] = []
    for padding in ((), ("p",)):
        repeated = RepeatedEvents()
        repeated.look_at(event, lambda _: Growth(("a",), pieces, is_shown=True, padding=padding))  # noqa: B023
        assert repeated.take(event) is None and not pieces


def test_events_that_no_other_repeats_are_looked_at_less_and_less() -> None:
    """A stream whose events have more that changes costs no more for long."""
    repeated, looked = RepeatedEvents(), 0

    def growth(_: Json) -> Growth:
        nonlocal looked
        looked += 1
        return Growth(("a",), [], is_shown=True)

    for at in range(1000):
        event = json.dumps({"number": at, "a": "text"})
        assert repeated.take(event) is None
        repeated.look_at(event, growth)
    assert looked < 30
