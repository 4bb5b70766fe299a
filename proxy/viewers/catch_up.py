"""What a viewer that fell behind is sent instead of every event: fewer and larger ones, or the text as it is.

Pure: entries of a log in, bytes out. Both leave the viewer with the text that all events together would
have left, and with a cursor to come back with.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from proxy.text.event_log import LogEntry
from proxy.text.events import Event, EventType
from proxy.text.sse import decode, encode


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


def snapshot(entries: Sequence[LogEntry], after: int) -> bytes:
    """What the viewer of the first `after` entries needs to stand where all of them end.

    A stage that has changed gets one `content_replace` with its whole text. Only the last block has an
    id: a viewer that is cut within a snapshot comes back to where it was before, and gets another one.
    """
    stages: dict[str, _StageSnapshot] = {}
    terminal: LogEntry | None = None
    for entry in entries:
        if entry.is_terminal:  # it may have the whole answer in it, and is sent as it is
            terminal = entry
        elif (event := decode(entry.wire)).stage:
            stages.setdefault(event.stage, _StageSnapshot(event.stage, event.panel)).hear(
                event, new=entry.seq > after
            )
    events = [event for stage in stages.values() for event in stage.told()]
    wires = [encode(event, None) for event in events]
    if terminal is not None:
        wires.append(terminal.wire)
    elif events:
        wires[-1] = encode(events[-1], entries[-1].id)
    return b"".join(wires)


@dataclass(slots=True)
class _StageSnapshot:
    """One stage as all entries leave it, and what of that is new."""

    name: str
    panel: str
    start: Event | None = None
    complete: Event | None = None
    parts: list[str] = field(default_factory=list)
    changed: bool = False

    def hear(self, event: Event, *, new: bool) -> None:
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

    def told(self) -> Iterator[Event]:
        if self.start is not None:
            yield self.start
        if self.changed:
            text = "".join(self.parts)
            digest = hashlib.sha256(text.encode()).hexdigest()
            yield Event(EventType.CONTENT_REPLACE, self.panel, self.name, text, {"sha256": digest})
        if self.complete is not None:
            yield self.complete
