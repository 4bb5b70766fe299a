"""The events of a run, and the order in which they may come. No I/O, no clock, no bytes on the wire.

The order is a table of two rules:

* `_STAGE_MOVES` has every event that a stage allows, `_RUN_MOVES` every event that a run allows;
* an event that is not in both raises `IllegalEvent` and changes nothing.

A stage moves like this; several stages may be open at once:

    UNSEEN ── stage_start ──► OPEN ── stage_complete ──► COMPLETE
                              │  ▲                       │  ▲
                              └──┘ chunk, replace        └──┘ replace

A terminal event is checked against every stage that was started. The table has no `stream_done` for an open
stage, so a run with an unfinished text cannot be called done. It has `error` for both: a run may break at any
time.

A `Transcript` makes the events itself, so that counters, digests and order always agree with the texts.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum, auto
from hashlib import sha256 as new_sha256
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.text.errors import IllegalEvent


class EventType(StrEnum):
    STAGE_START = "stage_start"
    CONTENT_CHUNK = "content_chunk"
    CONTENT_REPLACE = "content_replace"
    STAGE_COMPLETE = "stage_complete"
    PROGRESS = "progress"
    ERROR = "error"
    STREAM_DONE = "stream_done"


TERMINAL: Final = frozenset({EventType.ERROR, EventType.STREAM_DONE})


class StageState(StrEnum):
    UNSEEN = auto()
    OPEN = auto()
    COMPLETE = auto()


class RunState(StrEnum):
    RUNNING = auto()
    ENDED = auto()


_STAGE_MOVES: Final[Mapping[tuple[StageState, EventType], StageState]] = MappingProxyType(
    {
        (StageState.UNSEEN, EventType.STAGE_START): StageState.OPEN,
        (StageState.OPEN, EventType.CONTENT_CHUNK): StageState.OPEN,
        (StageState.OPEN, EventType.CONTENT_REPLACE): StageState.OPEN,
        (StageState.OPEN, EventType.STAGE_COMPLETE): StageState.COMPLETE,
        (StageState.OPEN, EventType.ERROR): StageState.OPEN,
        # The authority may arrive after a stage was closed, and the authority is right.
        (StageState.COMPLETE, EventType.CONTENT_REPLACE): StageState.COMPLETE,
        (StageState.COMPLETE, EventType.ERROR): StageState.COMPLETE,
        (StageState.COMPLETE, EventType.STREAM_DONE): StageState.COMPLETE,
    }
)

_RUN_MOVES: Final[Mapping[tuple[RunState, EventType], RunState]] = MappingProxyType(
    {
        (RunState.RUNNING, type_): RunState.ENDED if type_ in TERMINAL else RunState.RUNNING
        for type_ in EventType
    }
)


_NONE: Final[Mapping[str, object]] = {}


class Event(NamedTuple):
    """One thing said to a viewer. `stage` and `panel` are empty where the event is about the whole run."""

    type: EventType
    panel: str = ""
    stage: str = ""
    content: str = ""
    metadata: Mapping[str, object] = _NONE

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL


HASHED_CHARS: Final = 4096
"""Text is hashed in steps of so many characters: to hash a word by itself costs as much as to log it."""


class _StageTranscript:
    __slots__ = ("_digest", "_hashed_chars", "_hashed_parts", "_parts", "chars", "chunks", "panel", "state")

    def __init__(self, panel: str) -> None:
        self.panel = panel
        self.state = StageState.UNSEEN
        self.chunks = 0
        self.show("", b"")

    def show(self, text: str, utf8: bytes) -> None:
        self._parts = [text]
        self._digest = new_sha256(utf8) if utf8 else None
        self._hashed_parts = 1
        self.chars = self._hashed_chars = len(text)

    def add(self, text: str) -> None:
        self._parts.append(text)
        self.chars = chars = self.chars + len(text)
        self.chunks += 1
        if chars - self._hashed_chars >= HASHED_CHARS:
            self._hash()

    def text(self) -> str:
        # Joined only when asked: joining per chunk costs O(n²) on an answer that comes in words.
        if len(self._parts) > 1:
            self._hash()
            self._parts = ["".join(self._parts)]
            self._hashed_parts = 1
        return self._parts[0]

    def forget(self) -> None:
        """Let go of the text; nothing is asked of it any more."""
        self._parts = [""]
        self._digest = None

    def sha256(self) -> str:
        """Of its UTF-8."""
        self._hash()
        return (self._digest or new_sha256()).hexdigest()

    def _hash(self) -> None:
        if self._digest is None:
            self._digest = new_sha256()
        self._digest.update("".join(self._parts[self._hashed_parts :]).encode())
        self._hashed_parts, self._hashed_chars = len(self._parts), self.chars


class Transcript:
    """The events of one run so far. It makes each next event, or refuses it.

    Every method that makes an event raises `IllegalEvent`, and then nothing has changed.
    """

    __slots__ = ("_run", "_stages", "ended", "has_content")

    def __init__(self) -> None:
        self._run = RunState.RUNNING
        self.ended = False
        self._stages: dict[str, _StageTranscript] = {}
        self.has_content = False
        """Whether any text was ever shown, even if it was replaced by nothing since."""

    def __repr__(self) -> str:
        stages = ", ".join(f"{name}: {stage.state.name}" for name, stage in self._stages.items())
        return f"<Transcript {self._run.name} {{{stages}}}>"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that were started, in that order."""
        return tuple(self._stages)

    def is_open(self, stage: str) -> bool:
        known = self._stages.get(stage)
        return known is not None and known.state is StageState.OPEN

    def is_complete(self, stage: str) -> bool:
        known = self._stages.get(stage)
        return known is not None and known.state is StageState.COMPLETE

    def shown(self, stage: str) -> str:
        """The text that a viewer reads in this stage now; empty for a stage that never started."""
        known = self._stages.get(stage)
        return known.text() if known else ""

    def forget_texts(self) -> None:
        """Let go of the texts of a run that has ended; nothing is compared with them any more."""
        for known in self._stages.values():
            known.forget()

    def stage_start(self, panel: str, stage: str, *, index: int, total_expected: int) -> Event:
        if not stage:
            raise IllegalEvent("a stage has a name: the empty one is the whole run")
        _utf8(panel + stage)
        made = self._stages.get(stage) or _StageTranscript(panel)
        self._move(EventType.STAGE_START, made, stage)
        self._stages[stage] = made
        metadata = {"index": index, "total_expected": total_expected}
        return Event(EventType.STAGE_START, panel, stage, metadata=metadata)

    def chunk(self, stage: str, content: str) -> Event:
        """More text at the end of the stage; never empty."""
        panel, index = self.grow(stage, content)
        return Event(EventType.CONTENT_CHUNK, panel, stage, content, {"chunk_index": index})

    def grow(self, stage: str, content: str) -> tuple[str, int]:
        """The same without its event: the stage's panel, and the number of the chunk."""
        if not content:
            raise IllegalEvent(f"a chunk without text in stage {stage!r}")
        if not content.isascii():
            _utf8(content)
        known = self._stages.get(stage)
        if known is None or known.state is not StageState.OPEN or self.ended:
            known = self._advance(EventType.CONTENT_CHUNK, stage)
        known.add(content)  # by the table an open stage stays open, and a running run runs on
        self.has_content = True
        return known.panel, known.chunks - 1

    def replace(self, stage: str, content: str) -> Event:
        """The whole text of the stage, in place of what was shown; may be empty."""
        utf8 = _utf8(content)
        known = self._advance(EventType.CONTENT_REPLACE, stage)
        known.show(content, utf8)
        self.has_content = self.has_content or bool(content)
        metadata = {"sha256": known.sha256()}
        return Event(EventType.CONTENT_REPLACE, known.panel, stage, content, metadata)

    def stage_complete(self, stage: str) -> Event:
        """The stage's text is final. `chars` counts Unicode code points, the digest is of the UTF-8."""
        known = self._advance(EventType.STAGE_COMPLETE, stage)
        metadata = {"sha256": known.sha256(), "chars": known.chars}
        return Event(EventType.STAGE_COMPLETE, known.panel, stage, metadata=metadata)

    def progress(
        self, *, elapsed_s: float, stage_index: int | None, total_expected: int, eta_s: float | None
    ) -> Event:
        """A sign of life while there is no text. A value that is not known is `None`, and is left out."""
        self._move(EventType.PROGRESS)
        metadata: dict[str, object] = {"elapsed_s": elapsed_s, "total_expected": total_expected}
        # Of objects, or the compiler makes one kind of number of both: "stage_index": 1.0.
        known: dict[str, object] = {"stage_index": stage_index, "eta_s": eta_s}
        metadata.update((name, value) for name, value in known.items() if value is not None)
        return Event(EventType.PROGRESS, metadata=metadata)

    def error(self, code: str, *, retry_available: bool, status: int, content: str = "") -> Event:
        """The run broke. `status` is the one a batch client would have got; `content` is for a person."""
        _utf8(code + content)
        self._move_all(EventType.ERROR)
        metadata = {
            "error_code": code,
            "retry_available": retry_available,
            "partial": self.has_content,
            "status": status,
        }
        return Event(EventType.ERROR, content=content, metadata=metadata)

    def done(
        self,
        *,
        status: int,
        source: str,
        recovered: bool,
        sha256: str,
        result: str | None = None,
        absent: Sequence[str] = (),
    ) -> Event:
        """The run is complete. `sha256` is of the batch body. `result` is that body, if the route sends it.
        `absent` names the stages whose text the answer lacks; it is left out if there are none.
        """
        _utf8(source + sha256 + (result or ""))
        self._move_all(EventType.STREAM_DONE)
        metadata: dict[str, object] = {"status": status, "source": source, "recovered": recovered}
        if result is not None:
            metadata["result"] = result
        metadata["sha256"] = sha256
        if absent:
            metadata["absent"] = list(absent)
        return Event(EventType.STREAM_DONE, metadata=metadata)

    def repeat(self, event: Event) -> None:
        """Take over an event that another transcript made, so that this one has the same state."""
        match event.type:
            case EventType.STAGE_START:
                self.stage_start(event.panel, event.stage, index=0, total_expected=0)
            case EventType.CONTENT_CHUNK:
                self.chunk(event.stage, event.content)
            case EventType.CONTENT_REPLACE:
                self.replace(event.stage, event.content)
            case EventType.STAGE_COMPLETE:
                self.stage_complete(event.stage)
            case EventType.PROGRESS:
                self._move(EventType.PROGRESS)
            case _:
                self._move_all(event.type)

    def _advance(self, type_: EventType, stage: str) -> _StageTranscript:
        known = self._stages.get(stage) or _StageTranscript("")
        self._move(type_, known, stage)
        return known

    def _move_all(self, type_: EventType) -> None:
        for name, stage in self._stages.items():
            _next_stage(stage.state, type_, name)
        self._move(type_)

    def _move(self, type_: EventType, stage: _StageTranscript | None = None, name: str = "") -> None:
        # Both tables are asked before either state is set.
        run = _RUN_MOVES.get((self._run, type_))
        if run is None:
            raise IllegalEvent(f"{type_} after the end")
        if stage is not None:
            stage.state = _next_stage(stage.state, type_, name)
        self._run = run
        self.ended = run is RunState.ENDED


def _next_stage(state: StageState, type_: EventType, name: str) -> StageState:
    after = _STAGE_MOVES.get((state, type_))
    if after is None:
        raise IllegalEvent(f"{type_} while stage {name!r} is {state.name}")
    return after


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise IllegalEvent("text with a lone surrogate has no UTF-8 and cannot be sent") from exc
