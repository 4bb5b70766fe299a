"""Recorded streams of real providers, put through the assemblers: which make a batch answer, and why not.

    python -m tests.recordings FOLDER

The folder has one folder a provider. `*.chunks.txt` is a stream, one `data:` payload (or line of NDJSON) a
line, without the terminator `[DONE]`; `NAME.json` beside `NAME.chunks.txt` is a batch answer of another call.
Each stream is fed whole, cut after every event, and cut at odd byte boundaries. It is *faithful* if it makes
a batch answer, the same one however it is cut into bytes, and if no beginning of it makes another answer.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.llm.assembly.dialect import Assembler, Dialect, ProviderFailed, Unfaithful
from proxy.llm.dialects.anthropic import Anthropic
from proxy.llm.dialects.bedrock import EVENT_STREAM, Converse
from proxy.llm.dialects.cohere import Cohere
from proxy.llm.dialects.gemini.calls import Gemini
from proxy.llm.dialects.ollama import Ollama
from proxy.llm.dialects.openai.calls import OpenAI
from proxy.llm.dialects.openai.responses import Responses
from proxy.llm.stream_events import SSE, StreamEvents
from tests.servers.bedrock import framed

OTHER = "another API"
"""The shape of a recording that is no call for a chat, a message or a response, or of no dialect."""

ODD_BYTES = (1, 7, 4096)
"""Sizes of the pieces in which a stream's bytes come."""

MAX_CUTS = 400
"""Beginnings of one stream that are tried, spread over its events; the last hundred are always among them."""


@dataclass
class Finding:
    """The result of one recording."""

    provider: str
    name: str
    shape: str
    why: str = ""
    """The reason why no batch answer can be made of it; "" if it is faithful."""
    error: int | None = None
    """The status, if the stream is an error of the provider's, which the batch call would have got."""
    kept: list[str] = field(default_factory=list)
    """Unknown fields that were kept."""
    differences: list[str] = field(default_factory=list)
    """Fields that only the recorded batch answer has (-), only ours (+), or that have another type (~)."""


BY_TYPE = {
    "message_start": "anthropic",
    "ping": "anthropic",
    "response.created": "responses",
    "message-start": "cohere",
}
"""The shape of a stream, by the type of an event."""


def shape_of(events: list[str]) -> str:
    """The API that a stream comes from, as its first events show."""
    for event in events[:3]:
        said = json.loads(event)
        if said.get("type") in BY_TYPE:
            return BY_TYPE[said["type"]]
        if said.keys() & {"messageStart", "contentBlockStart", "contentBlockDelta"}:
            return "bedrock"
        if "candidates" in said or "usageMetadata" in said:
            return "gemini"
        if isinstance(said.get("choices"), list) and said.get("object") != "text_completion":
            return "openai"
        if "done" in said:
            return "ollama"
        if "error" in said:
            return "openai"
    return OTHER


SHAPES: Mapping[str, Dialect] = {
    "openai": OpenAI(),
    "responses": Responses(),
    "anthropic": Anthropic(),
    "gemini": Gemini(),
    "ollama": Ollama(),
    "cohere": Cohere(),
    "bedrock": Converse(),
}


def assembler_of(shape: str) -> Assembler | None:
    dialect = SHAPES.get(shape)
    return None if dialect is None else dialect.assembler(1)


def answer_of(shape: str, events: list[str], pieces: int | None = None) -> bytes | None:
    """The batch answer that events make; None if they are cut before their end.

    Args:
        pieces: bytes of each piece in which they come; None: event by event.
    """
    assembler = assembler_of(shape)
    assert assembler is not None
    for data in events if pieces is None else _decoded(SHAPES[shape].media_type, events, pieces):
        assembler.feed(data)
    return assembler.answer() if assembler.is_complete else None


def kept_of(shape: str, events: list[str]) -> list[str]:
    assembler = assembler_of(shape)
    assert assembler is not None
    for data in events:
        assembler.feed(data)
    return sorted(set(assembler.kept_fields()))


def streams_of(path: Path) -> Iterator[list[str]]:
    """The streams of a recording: some have two calls, one after the other."""
    events: list[str] = []
    for line in filter(str.strip, path.read_text().split("\n")):
        if events and _begins_anew(json.loads(events[-1]), json.loads(line)):
            yield events
            events = []
        events.append(line)
    yield events


def _begins_anew(before: Any, event: Any) -> bool:
    """True if an event is of another call than the finished one before it."""
    if before.get("type") in ("message_stop", "response.completed"):
        return True
    finished = any(choice.get("finish_reason") for choice in before.get("choices") or ())
    return finished and bool(event.get("choices")) and before.get("id") != event.get("id")


def examine(provider: str, path: Path, events: list[str]) -> Finding:
    """Feed one stream."""
    shape = shape_of(events)
    found = Finding(provider, path.name.removesuffix(".chunks.txt"), shape)
    if assembler_of(shape) is None:
        found.why = "no dialect for it"
        return found
    if shape == "openai":
        events.append("[DONE]")
    try:
        whole = answer_of(shape, events)
    except ProviderFailed as failed:
        found.error = failed.status
        return found
    except Unfaithful as why:
        found.why = str(why)
        return found
    if whole is None:
        found.why = "it ends before its end"
        return found
    found.kept = kept_of(shape, events)
    found.why = _cuts(shape, events, whole)
    batch = path.with_name(found.name + ".json")
    if batch.exists():
        found.differences = list(_differences(json.loads(batch.read_bytes()), json.loads(whole)))
    return found


def _cuts(shape: str, events: list[str], whole: bytes) -> str:
    """Return what is wrong with the stream when it is cut; "" if nothing is."""
    for pieces in ODD_BYTES:
        if answer_of(shape, events, pieces) != whole:
            return f"another answer, cut into pieces of {pieces} bytes"
    step = max(1, len(events) // MAX_CUTS)
    for at in {*range(0, len(events), step), *range(max(0, len(events) - 100), len(events))}:
        try:
            cut = answer_of(shape, events[:at])
        except (Unfaithful, ProviderFailed):
            continue  # a beginning that nobody takes for an answer
        if cut is not None and json.loads(cut) != json.loads(whole):
            return f"another answer, cut after event {at} of {len(events)}"
    return ""


def _decoded(media_type: bytes, events: list[str], pieces: int) -> Iterator[str]:
    """The events of a stream whose bytes come in pieces."""
    wire = _wire(media_type, events)
    decoder = StreamEvents(media_type)
    for at in range(0, len(wire), pieces):
        yield from decoder.feed(wire[at : at + pieces])


def _wire(media_type: bytes, events: list[str]) -> bytes:
    if media_type == EVENT_STREAM:
        return b"".join(framed(json.loads(event)) for event in events)
    form = "data: {}\n\n" if media_type == SSE else "{}\n"
    return "".join(form.format(event) for event in events).encode()


def _differences(batch: Any, ours: Any, path: str = "$") -> Iterator[str]:
    """Give the fields in which two answers differ. Lists are compared by what their first items have in
    common."""
    if isinstance(batch, dict) and isinstance(ours, dict):
        yield from (f"-{path}.{name}" for name in batch if name not in ours and batch[name] not in (None, []))
        yield from (f"+{path}.{name}" for name in ours if name not in batch)
        for name in batch.keys() & ours.keys():
            yield from _differences(batch[name], ours[name], f"{path}.{name}")
    elif isinstance(batch, list) and isinstance(ours, list):
        if batch and ours and _kind(batch[0]) == _kind(ours[0]):
            yield from _differences(batch[0], ours[0], f"{path}[0]")
    elif batch is not None and ours is not None and _plain(batch) is not _plain(ours):
        yield f"~{path}"


def _kind(item: Any) -> Any:
    return item.get("type") if isinstance(item, dict) else type(item)


def _plain(value: Any) -> type:
    return float if type(value) is int else type(value)


def examined(folder: Path) -> list[Finding]:
    """All recordings of a folder."""
    return [
        examine(path.parent.name, path, events)
        for path in sorted(folder.glob("*/*.chunks.txt"))
        if path.stat().st_size
        for events in streams_of(path)
    ]


def report(found: list[Finding], *, shapes: bool) -> Iterator[str]:
    """A line for each provider, and for what there is to say of its recordings."""
    others = [each for each in found if each.shape == OTHER]
    found = [each for each in found if each.shape != OTHER]
    for provider in sorted({each.provider for each in found}):
        of_it = [each for each in found if each.provider == provider]
        yield f"{provider:20} {sum(not each.why for each in of_it)} of {len(of_it)}"
        for each in of_it:
            if each.why:
                yield f"    {each.name} ({each.shape}): {each.why}"
            if each.error is not None:
                yield f"    {each.name} ({each.shape}): the provider's error, {each.error}"
            if each.kept:
                yield f"    {each.name} ({each.shape}): kept {', '.join(each.kept)}"
            if shapes and each.differences:
                yield f"    {each.name}: {' '.join(each.differences)}"
    yield f"{'all':20} {sum(not each.why for each in found)} of {len(found)}"
    if others:
        yield f"and {len(others)} of other APIs: {', '.join(sorted({each.provider for each in others}))}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.recordings")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", action="store_true", help="how ours and the batch answers' fields differ")
    args = parser.parse_args()
    sys.stdout.writelines(f"{line}\n" for line in report(examined(args.folder), shapes=args.shapes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
