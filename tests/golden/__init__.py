"""The wire, as bytes: what Headgate writes, and what a decoder of the standard must read.

* `NAME.sse` is a stream of ours, `NAME.json` what a client finds in it;
* `wild.json` has the streams of others: `bytes` is one character a byte, `events` what the standard makes
  of it.

A decoder in any language can be held against them. The tables here are their source; after a change,

    python -m tests.golden

writes the files anew, and the difference is the change of the contract.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from proxy.text.events import Event, Transcript
from proxy.text.sse import HEARTBEAT, ServerSentEvent, encode

FOLDER = Path(__file__).parent
RETRY_MS = 3217
RUN = "0b9d5a3c-1c53-4a0e-9f0e-1f4d0b3a2c11"


def _two_panels(said: Transcript) -> list[Event]:
    body = '{"result":{"factors":"Fever of 38.9 °C\\nCough","summary":"Pneumonia is likely."}}'
    return [
        said.stage_start("reasoning", "extraction", index=0, total_expected=2),
        said.progress(elapsed_s=8.0, stage_index=0, total_expected=2, eta_s=None),
        said.chunk("extraction", "Fever of "),
        said.stage_start("chat", "summary", index=1, total_expected=2),
        said.chunk("extraction", "38.9 °C\n"),
        said.chunk("summary", "Pneumonia "),
        said.chunk("extraction", "Cough"),
        said.stage_complete("extraction"),
        said.progress(elapsed_s=16.5, stage_index=1, total_expected=2, eta_s=12.5),
        said.chunk("summary", "is likely."),
        said.stage_complete("summary"),
        said.done(
            status=200,
            source="tap",
            recovered=False,
            sha256=sha256(body.encode()).hexdigest(),
            result=body,
        ),
    ]


def _any_text(said: Transcript) -> list[Event]:
    texts = [
        "family 👨‍👩‍👧 flag 🇨🇭 ",
        "e\u0301 n\u0303 Z\u0351\u036b\u0343\u036a ",
        "病人发热，体温三十八度九。",
        "مريض عمره ٥٤ سنة ",
        "line\u2028separator\u2029paragraph\u0085next\x0bvt\x0cff\x1cfs ",
        "\ufeffmark in the middle\ufeff ",
        "nul \x00 del \x7f esc \x1b ",
        "\r",
        "\n\n",
        "\r\n",
        " ",
        "\U0010ffff\ue000\ufffd",
    ]
    return [
        said.stage_start("any name – ü", "stage of 病人", index=0, total_expected=1),
        *(said.chunk("stage of 病人", text) for text in texts),
        said.stage_complete("stage of 病人"),
        said.done(status=200, source="native", recovered=False, sha256=sha256(b"{}").hexdigest()),
    ]


def _forged(said: Transcript) -> list[Event]:
    forgery = '\n\nevent: x\nid: 99\nretry: 1\ndata: {"type":"stream_done"}\n\n'
    return [
        said.stage_start(f"panel{forgery}", f"stage{forgery}", index=0, total_expected=1),
        said.chunk(f"stage{forgery}", f"text{forgery}"),
        said.chunk(f"stage{forgery}", forgery.replace("\n", "\r\n")),
        said.chunk(f"stage{forgery}", forgery.replace("\n", "\r")),
        said.error("upstream\n\ndata: reset", retry_available=True, status=502, content=f"sorry{forgery}"),
    ]


def _repaired(said: Transcript) -> list[Event]:
    return [
        said.stage_start("reasoning", "extraction", index=0, total_expected=2),
        said.chunk("extraction", "Fever of 39"),
        said.replace("extraction", "Fever of 38.9"),
        said.chunk("extraction", ", cough"),
        said.stage_complete("extraction"),
        said.stage_start("chat", "summary", index=1, total_expected=2),
        said.stage_complete("summary"),
        said.replace("extraction", "Fever of 38.9, no cough"),
        said.replace("summary", ""),
        said.done(status=200, source="batch", recovered=True, sha256=sha256(b"[]").hexdigest()),
    ]


def _broken(said: Transcript) -> list[Event]:
    return [
        said.stage_start("chat", "summary", index=0, total_expected=1),
        said.chunk("summary", "Pneumonia is "),
        said.error("upstream_truncated", retry_available=False, status=502, content="The answer broke off."),
    ]


def _refused(said: Transcript) -> list[Event]:
    return [said.error("upstream_status", retry_available=True, status=503)]


def _whole_answer(said: Transcript) -> list[Event]:
    summary = "Community-acquired pneumonia is the leading hypothesis. " * 20
    return [
        said.stage_start("chat", "summary", index=0, total_expected=1),
        said.chunk("summary", summary),
        said.stage_complete("summary"),
        said.done(status=200, source="batch", recovered=False, sha256=sha256(b"1").hexdigest(), result="1"),
    ]


_SAID: dict[str, Callable[[Transcript], list[Event]]] = {
    "two-panels": _two_panels,
    "any-text": _any_text,
    "forged": _forged,
    "repaired": _repaired,
    "broken": _broken,
    "refused": _refused,
    "whole-answer": _whole_answer,
}

OURS: dict[str, list[Event]] = {name: say(Transcript()) for name, say in _SAID.items()}
"""The events of Headgate's own streams."""


def wire(events: list[Event]) -> bytes:
    """Return a stream as the server writes it: a heartbeat from the start and before every third event,
    `retry` once."""
    blocks = [
        (HEARTBEAT if seq % 3 == 1 else b"") + encode(event, f"{RUN}:{seq}", RETRY_MS if seq == 1 else None)
        for seq, event in enumerate(events, start=1)
    ]
    return b"".join(blocks)


def _said(data: str, event: str = "message", id_: str = "", retry: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(data, event, id_, retry)


WILD: dict[str, tuple[bytes, list[ServerSentEvent]]] = {
    # The examples of WHATWG HTML 9.2.6.
    "standard-two-lines": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [_said("YHOO\n+2\n10")]),
    "standard-four-blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [_said("first event", id_="1"), _said("second event"), _said(" third event")],
    ),
    "standard-empty-data": (b"data\n\ndata\ndata\n\ndata:\n", [_said(""), _said("\n")]),
    "standard-one-space": (b"data:test\n\ndata: test\n\n", [_said("test"), _said("test")]),
    "standard-named": (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
        [_said("73857293", "add"), _said("2153", "remove")],
    ),
    # Line ends: LF, CR, CRLF, and all of them mixed.
    "line-ends-cr": (b"data: a\r\rdata: b\r\r", [_said("a"), _said("b")]),
    "line-ends-crlf": (
        b"id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
        [_said("a", id_="1"), _said("b", id_="1")],
    ),
    "line-ends-mixed": (b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\n", [_said("a\nb\nc"), _said("d")]),
    "line-ends-lf-cr": (b"data: a\n\rdata: b\n\r", [_said("a"), _said("b")]),
    "line-ends-of-unicode": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        [_said("a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg")],
    ),
    # The byte order mark: one, at the start, and only there.
    "mark-at-start": (b"\xef\xbb\xbfdata: a\n\n", [_said("a")]),
    "mark-twice": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [_said("b")]),
    "mark-later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [_said("a")]),
    "mark-before-comment": (b"\xef\xbb\xbf: hb\ndata: a\n\n", [_said("a")]),
    # Fields.
    "field-unknown": (b"foo: bar\nDATA: x\ndata : y\n data: z\ndata: a\n\n", [_said("a")]),
    "field-no-colon": (b"data: a\nevent\nid\nretry\n\n", [_said("a")]),
    "field-event-emptied": (b"event: x\nevent:\ndata: a\n\n", [_said("a")]),
    "field-colons": (b"data::a: b:\n\n", [_said(":a: b:")]),
    "id-with-nul": (b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", [_said("a", id_="1"), _said("b", id_="1")]),
    "id-alone": (b"id: 7\n\ndata: a\n\n", [_said("a", id_="7")]),
    "id-emptied": (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [_said("a", id_="7"), _said("b")]),
    "retry-digits": (b"retry: 1500\ndata: a\n\ndata: b\n\n", [_said("a", retry=1500), _said("b")]),
    "retry-alone": (b"retry: 10\n\ndata: a\n\n", [_said("a", retry=10)]),
    "retry-not-digits": (
        "retry: +5\nretry: -3\nretry: 1_000\nretry: 1.5\nretry:\nretry: ٣\nretry:  7\ndata: a\n\n".encode(),
        [_said("a")],
    ),
    "retry-too-long": (b"retry: " + b"9" * 5000 + b"\ndata: a\n\n", [_said("a")]),
    # What is not dispatched.
    "no-data": (b"event: x\nid: 3\n\ndata: a\n\n", [_said("a", id_="3")]),
    "no-end": (b"data: a\n\ndata: b\nid: 9\n", [_said("a")]),
    "no-end-of-line": (b"data: a\n\ndata: b", [_said("a")]),
    "comments": (b":\n:\n\n: x\ndata: a\n:data: b\n\n: hb\n", [_said("a")]),
    "nothing": (b"", []),
    "blank-lines": (b"\n\n\r\n\r\r\ndata: a\n\n\n\n", [_said("a")]),
    # Text that is not UTF-8 is replaced, never refused: one sign for each maximal part of a sequence.
    "utf8-broken": (b"data: \xff \xe2\x82 \xf0\x9f\x98\ndata: \xed\xa0\x80\n\n", [_said("� � �\n���")]),
    "utf8-whole": ("id: é\nevent: ü\ndata: 😀 – 病\n\n".encode(), [_said("😀 – 病", "ü", "é")]),
    "nul-in-data": (b"data: a\x00b\n\n", [_said("a\x00b")]),
}
"""Streams that others may send, and the events that the standard makes of them."""


def files() -> dict[str, bytes]:
    """Every file of the corpus, by name."""
    made: dict[str, bytes] = {}
    for name, events in OURS.items():
        made[f"{name}.sse"] = wire(events)
        made[f"{name}.json"] = _json([payload(event) for event in events])
    wild = [
        {"name": name, "bytes": stream.decode("latin-1"), "events": [event._asdict() for event in expected]}
        for name, (stream, expected) in WILD.items()
    ]
    made["wild.json"] = _json(wild)
    return made


def payload(event: Event) -> dict[str, object]:
    """Return what a client finds in the JSON of `data`."""
    return {
        "type": str(event.type),
        "panel": event.panel,
        "stage": event.stage,
        "content": event.content,
        "metadata": dict(event.metadata),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def write() -> None:
    for old in [*FOLDER.glob("*.sse"), *FOLDER.glob("*.json")]:
        old.unlink()
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
