"""Rows of a tapped token, dialect by dialect: its stream read and joined, its text in the run's log.

Without sockets and without a viewer, in this process: what a dialect costs is seen there, and as CPU time, so
that others on the machine hardly matter. The rows of runs have the whole way, with chat completions.
"""

import asyncio
import gc
import json
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.llm.assembly.dialect import Dialect, Prompt
from proxy.llm.cautious import CautiousCall, CautiousDialect
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.bedrock import Converse
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses
from proxy.llm.stream_events import StreamEvents
from proxy.llm.taps.expected_calls import compile_calls
from proxy.llm.taps.open_taps import Taps
from proxy.observe.metrics import Metrics
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.upstream.client import Request
from tests.bench.results import Goal, Plan, Row, Sample, Target
from tests.servers.bedrock import framed

TOKENS = 2000
TRIES = 5
"""Of a sample; the quickest counts, as the one that was disturbed least."""

WORDS = ["fever", "of", "the", "patient,", "cough", "and", "treatment", "is", "now", "likely", "pneumonia."]
SETTINGS = RouteSettings.model_validate(
    {
        "name": "tapped",
        "match": "POST /tapped",
        "source": "tap",
        "tap": {"calls": [{"stage": "text"}]},
        "sections": [{"stage": "text", "at": "$.text"}],
    }
)
ROUTE = Route.compile(SETTINGS)
DECISION = Decision(Mode.STREAM, Arm.STREAM, "tap", Reason.FLAG_ON)

# The sockets on both sides and the viewer cost about as much again; the goal for all of it is 60 µs.
GOAL = Goal(
    "≤ 25 µs",
    "{:.0f} µs",
    (Target.HEADGATE,),
    lambda row: row.value(Target.HEADGATE),
    at_most=25,
)


def measure(plan: Plan) -> Iterator[Row]:
    """A row for each dialect."""
    choice = random.Random(7)
    words = [choice.choice(WORDS) + " " for _ in range(TOKENS)]
    for name, (dialect, events) in _dialects(words).items():
        samples = [asyncio.run(_sample(dialect, events, words)) for _ in range(plan.repeats)]
        yield Row(f"a tapped token, {name}", "µs", "us", {Target.HEADGATE: samples}, goals=(GOAL,))


async def _sample(dialect: Dialect, events: list[bytes], words: list[str]) -> Sample:
    taken = [await _token_us(dialect, events, words) for _ in range(TRIES)]
    return Sample(figures={"us": min(taken)}, errors=sum(us < 0 for us in taken))


async def _token_us(dialect: Dialect, events: list[bytes], words: list[str]) -> float:
    """CPU time for each token of one stream; negative if its text is not that of the stream."""
    metrics = Metrics(CollectorRegistry(), [SETTINGS]).by_route["tapped"]
    call = Call(ROUTE, {}, Request("POST", b"/tapped", []))
    run = Run(call, DECISION, Identity("principal", "user"), metrics, deque())
    run.begun()
    assert SETTINGS.tap is not None
    taps = Taps({"tapped": compile_calls(SETTINGS.tap, ROUTE.sections)}, 60)
    async with taps.open(run, "tapped") as (tap, _):
        model_call = CautiousCall(await tap.begin(b"digest", Prompt("model", "")))
        reading = CautiousDialect(dialect).assembler(1)
        read = StreamEvents(dialect.media_type)
        gc.collect()
        gc.disable()
        began = time.process_time()
        for data in events:
            for event in read.feed(data):
                model_call.add(reading.feed(event))
                if reading.arguments:
                    model_call.add_arguments(reading.arguments)
        took_s = time.process_time() - began
        gc.enable()
        reading.answer()
        await model_call.finish()
    run.shut_down()
    is_right = run.shown.transcript.shown("text") == "".join(words)
    return took_s * 1e6 / TOKENS if is_right else -1


# The streams, in the shapes that the providers' documentation has.


def _dialects(words: list[str]) -> Mapping[str, tuple[Dialect, list[bytes]]]:
    return {
        "chat completions": (OpenAI(), _completions(words)),
        "responses": (Responses(), _responses(words)),
        "messages": (Anthropic(), _messages(words)),
        "Gemini": (Gemini(), _contents(words)),
        "Ollama": (Ollama(), _lines(words)),
        "Cohere": (Cohere(), _cohere(words)),
        "Converse": (Converse(), _converse(words)),
    }


def _event(said: Mapping[str, Any]) -> bytes:
    """The event as lines `event` and `data`; without a type only `data`."""
    name = f"event: {said['type']}\n" if "type" in said else ""
    return f"{name}data: {json.dumps(said)}\n\n".encode()


def _completions(words: list[str]) -> list[bytes]:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "model-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice], "usage": None})

    usage = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": TOKENS + 5}
    return [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        *(chunk({"content": word}) for word in words),
        chunk({}, "stop"),
        _event({**head, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


def _responses(words: list[str]) -> list[bytes]:
    part = {"type": "output_text", "text": "".join(words), "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [part]}
    usage = {"input_tokens": 5, "output_tokens": TOKENS}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "output": [message], "usage": usage}
    kind = "response.output_text.delta"
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return [
        _event({"type": "response.created", "sequence_number": 0, "response": {"status": "in_progress"}}),
        *(
            _event({"type": kind, "sequence_number": at, **place, "delta": w})
            for at, w in enumerate(words, 1)
        ),
        _event({"type": "response.completed", "sequence_number": TOKENS + 1, "response": whole}),
    ]


def _messages(words: list[str]) -> list[bytes]:
    usage = {"input_tokens": 5, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "model", "content": []}
    end = {"stop_reason": None, "stop_sequence": None}
    kind = "content_block_delta"
    return [
        _event({"type": "message_start", "message": {**message, **end, "usage": usage}}),
        _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(_event({"type": kind, "index": 0, "delta": {"type": "text_delta", "text": w}}) for w in words),
        _event({"type": "content_block_stop", "index": 0}),
        _event({"type": "message_delta", "delta": {**end, "stop_reason": "end_turn"}, "usage": usage}),
        _event({"type": "message_stop"}),
    ]


def _contents(words: list[str]) -> list[bytes]:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}

    def content(text: str, **end: str) -> bytes:
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **end}
        return _event({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "model"})

    return [*map(content, words), content("", finishReason="STOP")]


def _lines(words: list[str]) -> list[bytes]:
    def line(text: str, **more: Any) -> bytes:
        said = {"model": "model", "created_at": "2024-01-01T00:00:00Z", "done": False}
        return json.dumps(said | {"message": {"role": "assistant", "content": text}} | more).encode() + b"\n"

    counts = {"total_duration": 1, "load_duration": 1, "prompt_eval_count": 5, "eval_count": TOKENS}
    return [*map(line, words), line("", done=True, done_reason="stop", **counts)]


def _cohere(words: list[str]) -> list[bytes]:
    def content(delta: Mapping[str, Any], kind: str = "content-delta") -> bytes:
        return _event({"type": kind, "index": 0, "delta": {"message": {"content": delta}}})

    message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    used = {"tokens": {"input_tokens": 5, "output_tokens": TOKENS}}
    return [
        _event({"type": "message-start", "id": "m-1", "delta": {"message": message}}),
        content({"type": "text", "text": ""}, "content-start"),
        *(content({"text": word}) for word in words),
        _event({"type": "content-end", "index": 0}),
        _event({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": used}}),
    ]


def _converse(words: list[str]) -> list[bytes]:
    def delta(text: str) -> bytes:
        said = {"contentBlockIndex": 0, "delta": {"text": text}, "p": "abcdefgh"}
        return framed({"contentBlockDelta": said})

    used = {"inputTokens": 5, "outputTokens": TOKENS, "totalTokens": TOKENS + 5}
    return [
        framed({"messageStart": {"role": "assistant", "p": "abc"}}),
        *map(delta, words),
        framed({"contentBlockStop": {"contentBlockIndex": 0}}),
        framed({"messageStop": {"stopReason": "end_turn"}}),
        framed({"metadata": {"usage": used, "metrics": {"latencyMs": 1}}}),
    ]
