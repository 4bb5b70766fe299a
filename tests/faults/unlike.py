"""Acts of a provider on a call only because it was asked as a stream, or on both; each shape's own."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults.provider import Play, changed, cut_after, reset_at, stall_after, status
from tests.faults.shapes import GEMINI, OPENAI, Shape, event
from tests.servers.scripted import Asked
from tests.servers.tapping import EVENT_STREAM

TEXT = "Fever of 38.9 °C, a cough 🫁."
CHUNKED = EVENT_STREAM.replace(b"connection: close", b"transfer-encoding: chunked")
GZIP = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")

Answer = tuple[bytes, bytes]
"""Status line and body."""


@dataclass(frozen=True)
class Fault:
    """`stream` is what a streamed call gets, and the batch call `batch`; None: the good answer."""

    name: str
    stream: Play
    batch: Answer | None = None
    is_told: bool = False
    """True if the streamed call's own error may be told."""
    more: tuple[tuple[str, Any], ...] = ()
    """Of the call's body."""


def of(shape: Shape) -> Iterator[Fault]:
    """Every one, for the first call of a round."""
    yield from _cut(shape)
    yield from _refused(shape)
    yield from _none(shape)
    yield from _odd(shape)
    if shape.api in OWN:
        yield from OWN[shape.api](shape)


def _framed(data: bytes) -> bytes:
    return CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


def whole(change: Callable[[list[bytes]], list[bytes]]) -> Play:
    """A stream that ends in good order on a connection that is kept."""

    async def play(asked: Asked, good: list[bytes]) -> None:
        await asked.send(_framed(b"".join(change(good))))

    return play


def _cut(shape: Shape) -> Iterator[Fault]:
    events = shape.events(TEXT)
    for number in range(len(events) - 1):
        yield Fault("cut at every event", cut_after(number))
        yield Fault("ended at every event", whole(lambda good, number=number: good[:number]))  # type: ignore[misc]
    for byte in range(0, len(EVENT_STREAM), 40):
        yield Fault("reset within the head", reset_at(byte))
    yield Fault("silent", stall_after(None))
    yield Fault("silent after the head", stall_after(0))
    yield Fault("stalls", stall_after(len(events) // 2))


def _refused(shape: Shape) -> Iterator[Fault]:
    error = b'{"error":{"message":"of the call","code":%d}}'
    for line in (b"400 Bad", b"401 No", b"403 No", b"404 None", b"406 No", b"422 No", b"302 There"):
        yield Fault("the stream is refused", status(line))
    for line in (b"500 Oh", b"501 None", b"502 Bad", b"503 Busy", b"529 Overloaded"):
        yield Fault("the stream alone fails", status(line))
    for line in (b"400 Bad", b"401 No", b"403 No", b"500 Oh", b"503 Busy"):
        yield Fault("both are refused", status(line), (line, error % int(line[:3])))
    yield Fault("too many", status(b"429 Too Many"), is_told=True)
    yield Fault("an error first", whole(lambda good: [event({"error": {"code": 503}})]))
    yield Fault("an error under way", whole(lambda good: [*good[:4], event({"error": {"code": 503}})]))
    yield Fault(
        "an error under way, and of the call",
        whole(lambda good: [*good[:4], event({"error": {"code": 500}})]),
        (b"503 Busy", error % 503),
    )


def says(body: bytes, kind: bytes = b"application/json", line: bytes = b"200 OK") -> Play:
    async def play(asked: Asked, good: list[bytes]) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % (line, kind, len(body)) + body)

    return play


def _none(shape: Shape) -> Iterator[Fault]:
    stream = b"".join(shape.events(TEXT))
    batch = json.dumps(shape.answer(TEXT)).encode()
    for name, body in {
        "events": stream,
        "lines": stream.replace(b"data: ", b""),
        "an error": b'{"error": "streaming is not enabled"}',
        "an array": b"[" + batch + b"]",
        "nothing": b"",
        "half an answer": batch[:-9],
        "an answer, and more": batch + batch,
        "an empty answer": b"{}",
    }.items():
        yield Fault(f"{name} as JSON", says(body))
    yield Fault("a batch answer", says(batch))
    yield Fault("a batch answer as events", says(batch, b"text/event-stream"))
    yield Fault("a page", says(b"<html>", b"text/html"))
    yield Fault("lines", says(stream.replace(b"data: ", b""), b"application/x-ndjson"))
    yield Fault("no events", says(b"", b"text/event-stream"))
    yield Fault("nothing at all", says(b"", line=b"204 No Content"))
    yield Fault("accepted", says(batch, line=b"202 Accepted"))
    yield Fault("compressed", changed(list, GZIP))


UNKNOWN = event({"new_kind": {"x": 1}}) + event({"new_kind": {"x": 2}})
"""Of a kind that comes once, or never changes, the batch answer may have it, too."""


def _odd(shape: Shape) -> Iterator[Fault]:
    for at in (0, 3, -2):
        for name, odd in {
            "no JSON": b"data: {\n\n",
            "a list": b"data: []\n\n",
            "unknown": UNKNOWN,
            "no Unicode": b'data: {"x": "\xff"}\n\n',
            "an event of 10 MB": b"data: " + b"x" * 10_000_000 + b"\n\n",
        }.items():
            yield Fault(f"{name} in the stream", whole(lambda good, at=at, odd=odd: _put(good, at, odd)))  # type: ignore[misc]
    yield Fault("the whole text once more", whole(lambda good: _again(shape, good)))
    yield Fault("closed without a word", _closing)


def _put(good: list[bytes], at: int, odd: bytes) -> list[bytes]:
    return [*good[:at], odd, *good[at:]]


def _again(shape: Shape, good: list[bytes]) -> list[bytes]:
    """A stream whose last text is all of it."""
    last = shape.events(TEXT)[shape.silent : shape.silent + 1][0]
    pieces = json.dumps(TEXT[:4], ensure_ascii=False).encode()
    assert pieces in last
    end = len(good) - len(shape.events("")) + shape.silent
    return _put(good, end, last.replace(pieces, json.dumps(TEXT, ensure_ascii=False).encode()))


async def _closing(asked: Asked, good: list[bytes]) -> None:
    """Send what is not faithful, and then end the connection as soon as it is used once more."""
    await asked.send(_framed(b"".join(_put(good, 2, UNKNOWN))))
    await asked.reader.read(1)
    asked.writer.close()


# Each shape's own.


def _ended_by(reason: str) -> Callable[[list[bytes]], list[bytes]]:
    def change(good: list[bytes]) -> list[bytes]:
        quoted = json.dumps(reason).encode()
        return [each.replace(b'"stop"', quoted).replace(b'"STOP"', quoted) for each in good]

    return change


def _openai(shape: Shape) -> Iterator[Fault]:
    filtered = shape.answer("")
    filtered["choices"][0] |= {"message": {"role": "assistant", "content": None}}
    for reason in ("content_filter", "error", "eos", "insufficient_system_resource", ""):
        filtered["choices"][0]["finish_reason"] = reason
        batch = (b"200 OK", json.dumps(filtered).encode())
        yield Fault("an end that is not harmless", whole(_ended_by(reason)), batch)
    late = event({"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]})
    yield Fault("an end that is taken back", whole(lambda good: _put(good, -2, late)))
    yield Fault("no end", whole(lambda good: [*good[:-3], *good[-2:]]))
    yield Fault("no usage", whole(lambda good: [*good[:-2], good[-1]]))
    yield Fault("a filter has struck", whole(lambda good: _put(good, 2, _delta({}, **STRUCK))))
    two = shape.answer(TEXT)
    two["choices"] *= 2
    yield Fault("a choice is missing", whole(list), (b"200 OK", json.dumps(two).encode()), more=(("n", 2),))
    for name, deltas in {
        "arguments that come again": [CALL, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}],
        "arguments that are none": [
            {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}
        ],
        "a tool call twice": [CALL, CALL],
        "annotations that come again": [NOTED, NOTED],
        "a text after the end": [],
    }.items():
        added = [_delta(delta) for delta in deltas]
        at = 1 if deltas else -2
        added = added or [_delta({"content": "more"})]
        yield Fault(name, whole(lambda good, at=at, added=added: [*good[:at], *added, *good[at:]]))  # type: ignore[misc]


STRUCK = {"content_filter_results": {"hate": {"filtered": True, "severity": "high"}}}
CALL = {
    "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
}
NOTED = {"annotations": [{"type": "url_citation", "url": "u"}]}


def _delta(delta: dict[str, Any], **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]})


def _gemini(shape: Shape) -> Iterator[Fault]:
    for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "MALFORMED_FUNCTION_CALL", "OTHER", "NEW"):
        said = {"candidates": [{"finishReason": reason, "index": 0}], "usageMetadata": {}}
        batch = (b"200 OK", json.dumps(said).encode())
        yield Fault("an end that is not harmless", whole(_ended_by(reason)), batch)
    blocked = event({"promptFeedback": {"blockReason": "SAFETY"}})
    yield Fault("blocked at once", whole(lambda good: [blocked]))
    yield Fault("blocked under way", whole(lambda good: [*good[:3], blocked]))
    yield Fault(
        "two candidates", whole(lambda good: [*good[:-1], good[-1].replace(b'"index": 0', b'"index": 1')])
    )
    more = event({"candidates": [{"content": {"parts": [{"text": "more"}]}, "index": 0}]})
    yield Fault("a text after the end", whole(lambda good: [*good, more]))
    call = event({"candidates": [{"content": {"parts": [{"functionCall": {"id": "1", "name": "f"}}]}}]})
    yield Fault("a call twice", whole(lambda good: [*good[:2], call, call, *good[2:]]))
    piece = {"functionCall": {"name": "f", "willContinue": True}}
    pieces = event({"candidates": [{"content": {"parts": [piece]}}]})
    yield Fault("a call in pieces", whole(lambda good: _put(good, 2, pieces)))


OWN = {OPENAI.api: _openai, GEMINI.api: _gemini}
