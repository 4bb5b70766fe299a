"""Events for a viewer that fell behind: fewer and larger ones, or the text as it is now.

Pure: entries of a log in, bytes out. Both leave the viewer with the text that all events together would
have left, and with a cursor to come back with.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from proxy.text.event_log import LogEntry
from proxy.text.events import Event, EventType
from proxy.text.sse import Long, decode, encode, json_text
from proxy.turns import STEP_BYTES


def merged(entries: Sequence[LogEntry]) -> bytes:
    """The same events, with the chunks of a stage that follow one another made into one.

    It has the id and the `chunk_index` of the last of them.
    """
    events = [(entry.id, decode(entry.wire)) for entry in entries]
    wire = bytearray()
    for (type_, _), group in groupby(events, key=lambda pair: (pair[1].type, pair[1].stage)):
        if type_ is EventType.CONTENT_CHUNK:
            *_, (name, last) = together = list(group)
            text = "".join(event.content for _, event in together)
            wire += encode(last._replace(content=text), name)
        else:
            for name, event in group:
                wire += encode(event, name)
    return bytes(wire)


def snapshot(entries: Iterable[LogEntry], after: int) -> Iterator[bytes]:
    """Events that bring a viewer of the first `after` entries to the end of the log, in short steps.

    A stage that has changed gets one `content_replace` with its whole text. Only the last block has an
    id: a viewer that is cut within a snapshot comes back to where it was before, and gets another one.
    """
    stages: dict[str, _StageSnapshot] = {}
    last: LogEntry | None = None
    for last in entries:
        # A terminal one may have the whole answer in it, and is sent as it is.
        if not last.is_terminal and (event := decode(last.wire)).stage:
            stages.setdefault(event.stage, _StageSnapshot(event.stage, event.panel)).apply(
                event, new=last.seq > after
            )
        yield b""
    events = [event for stage in stages.values() for event in stage.events()]
    for left, (event, text) in zip(range(len(events) - 1, -1, -1), events, strict=True):
        pieces: list[bytes] = []
        digest = hashlib.sha256()
        for at in range(0, len(text), STEP_BYTES):
            part = text[at : at + STEP_BYTES]
            pieces.append(json_text(part))
            digest.update(part.encode())
            yield b""
        is_replace = event.type is EventType.CONTENT_REPLACE
        whole = event._replace(metadata={"sha256": digest.hexdigest()}) if is_replace else event
        has_id = last is not None and not left and not last.is_terminal
        yield encode(
            whole,
            last.id if last is not None and has_id else None,
            long=Long("content", pieces) if is_replace else None,
        )
    if last is not None and last.is_terminal:
        yield last.wire


@dataclass(slots=True)
class _StageSnapshot:
    """One stage as all entries leave it, and what of that is new."""

    name: str
    panel: str
    start: Event | None = None
    complete: Event | None = None
    parts: list[str] = field(default_factory=list)
    changed: bool = False

    def apply(self, event: Event, *, new: bool) -> None:
        match event.type:
            case EventType.STAGE_START:
                self.start = event if new else None
            case EventType.CONTENT_CHUNK:
                self.parts.append(event.content)
                self.changed = self.changed or new
            case EventType.CONTENT_REPLACE:
                self.parts = [event.content]
                self.changed = self.changed or new
            case EventType.STAGE_COMPLETE:
                self.complete = event if new else None

    def events(self) -> Iterator[tuple[Event, str]]:
        """Its events; beside the replacement, whose digest is still to be made, its text."""
        if self.start is not None:
            yield self.start, ""
        if self.changed:
            yield Event(EventType.CONTENT_REPLACE, self.panel, self.name, "", {}), "".join(self.parts)
        if self.complete is not None:
            yield self.complete, ""
