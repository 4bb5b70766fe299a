"""What may be set of one route: which requests, who, from where its words come, and how it ends.

A part of `settings.py`, and with it the source of `docs/reference/settings.md`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, model_validator

from proxy.settings.block import Name, Seconds, SettingsBlock
from proxy.text.sections import compile_path
from proxy.text.templates import PATH, REQUEST, TEXT, references, strays

SourceName = Literal["batch", "poll", "stages", "native", "tap"]

PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
"""In a path."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"is not a regular expression: {exc}") from None
    return value


def _request(value: str) -> str:
    method, space, target = value.partition(" ")
    if not space or not re.fullmatch(r"[A-Z]+", method) or not re.fullmatch(r"/[!-~]*", target):
        raise ValueError("must be METHOD /path, for example POST /api/cases/{case_id}/start")
    _parameters(target)
    return value


def _match(value: str) -> str:
    _request(value)
    _path(value.partition(" ")[2])
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value) or "?" in value or "#" in value:
        raise ValueError("must be a path in ASCII (else percent-encoded) that starts with / and has no query")
    _parameters(value)
    return value


def _parameters(path: str) -> None:
    names = PARAMETER.findall(path)
    if "{" in PARAMETER.sub("", path) or "}" in PARAMETER.sub("", path):
        raise ValueError("has a brace that is no parameter: those are a-z, 0-9 and '_', as in {case_id}")
    if len(set(names)) < len(names):
        raise ValueError("names a parameter twice")


def _stage(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be 1 to 64 of letters, digits, '_', '.' and '-'")
    return value


def _json_path(value: str) -> str:
    compile_path(value.replace("{stage}", "stage"))
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


JsonPath = Annotated[str, AfterValidator(_json_path)]


class SectionSettings(SettingsBlock):
    """One text of the answer, and where a viewer shows it. Their order is the order of the stages."""

    stage: Annotated[str, AfterValidator(_stage)]
    """Name of the stage that writes it; unique in its route."""
    panel: str = Field(default="reasoning", min_length=1, max_length=64)
    """Where the viewer shows it: `reasoning`, `chat` or a name of yours."""
    at: JsonPath | None = None
    """JSONPath of the text in the batch answer. Without it the text is shown while it is made (`tap`,
    `native`) and stands nowhere in the answer: nothing is compared, and what was shown stays."""
    poll_at: JsonPath | None = None
    """JSONPath of the text within the stage's row of the polled document; without it the text comes
    with the batch answer."""


class ChunkSettings(SettingsBlock):
    """How text is cut, in characters."""

    min: int = Field(default=5, ge=1, le=200)
    """Short words are joined until a chunk has this many."""
    max: int = Field(default=10, ge=1, le=200)
    """A further word is not joined beyond this."""
    max_chunk: int = Field(default=64, ge=1, le=4096)
    """Only a word longer than this is cut, between graphemes."""

    @model_validator(mode="after")
    def _ordered(self) -> "ChunkSettings":
        if not self.min <= self.max <= self.max_chunk:
            raise ValueError("must have min <= max <= max_chunk")
        return self


class PollSettings(SettingsBlock):
    """A resource that shows finished stages while the request still runs."""

    path: Annotated[str, AfterValidator(_path)]
    """Its path, with the route's parameters, for example `/api/cases/{case_id}/details`."""
    every_ms: int = Field(default=1000, ge=50, le=60_000)
    """Between two polls; ±20 %, never two at once, and slower when the resource is."""
    row: JsonPath
    """JSONPath of a stage's row; `{stage}` stands for the stage's name."""
    updated_at: Annotated[
        list[JsonPath],
        BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ]
    """JSONPaths within the row of the time it was written; the first that is set counts. A row whose
    time is the one it had before the request is an earlier run's and is not shown."""


class StageCallSettings(SettingsBlock):
    """One single-stage call of a group."""

    stage: Annotated[str, AfterValidator(_stage)]
    """Its name, for `{{ stage $.path }}` in later calls and in `answer`."""
    request: Annotated[str, AfterValidator(_request)]
    """Method, path and query, with the route's parameters."""
    body: Any = None
    """JSON body as a template; none is sent when it is left out."""


class StagesSettings(SettingsBlock):
    """A group made out of its single-stage calls, for upstreams where these are equivalent."""

    calls: list[StageCallSettings] = Field(min_length=1)
    """In order; each may use the answers of the earlier ones, and `request`, the client's own body."""
    answer: Any
    """The group's answer as a template of the calls' answers."""


class ConditionSettings(SettingsBlock):
    """A value that an event's JSON must have."""

    at: JsonPath
    """Where it stands."""
    equals: bool | int | float | str
    """Equal to it, and of the same type."""


class NativeEventSettings(SettingsBlock):
    """What one kind of event of the upstream's stream means."""

    event: str | None = None
    """Only events of this name; those of a stream without names are called `message`."""
    data: str | None = None
    """Only events whose data is this, for example `[DONE]`."""
    when: ConditionSettings | None = None
    """Only events whose JSON has this."""
    means: Literal["text", "done", "error", "answer", "ignore"] = "text"
    """`text`: more of a stage's text. `done`: the stream is complete. `error`: it has failed. `answer`: it is
    complete, and this is the batch answer."""
    at: JsonPath | None = None
    """Where the text stands in the event's JSON, also that of a last event; or the answer. Without it, the
    text is the data itself, and the answer the whole of the JSON."""
    stage: str | None = None
    """Whose text it is; left out where the route has one section."""
    stage_at: JsonPath | None = None
    """Where the event's JSON says whose text it is."""


_OPENAI_BODY = {"stream": True, "stream_options": {"include_usage": True}}


class NativeSettings(SettingsBlock):
    """How the upstream streams by itself, and how it is asked to."""

    format: Literal["sse", "ndjson", "openai"]
    """Server-sent events; a JSON document a line; or a chat completion of OpenAI's shape, which needs neither
    `events` nor `answer`."""
    request: Annotated[str, AfterValidator(_request)] | None = None
    """Method, path and query that are asked for the stream, with the route's parameters; the request's own
    if left out."""
    body: dict[str, Any] | None = None
    """Merged into the request's JSON body as RFC 7386 says, for example `{stream: true}`, which is what
    `openai` has by default."""
    accept: str | None = None
    """Header of the call; the format's media type if left out."""
    events: list[NativeEventSettings] = Field(default=[], max_length=100)
    """The first that fits an event says what it means. What none fits is ignored."""
    ends_by: Literal["event", "close"] = "event"
    """What says that the stream is complete: an event that is `done` or `answer`, or, where there is none,
    the end of the HTTP answer. A cut connection is neither."""
    answer: Any = None
    """The batch answer as a template of `{{ text $.STAGE }}`, for a stream without an event that is it."""

    @model_validator(mode="before")
    @classmethod
    def _as_openai_asks(cls, block: Any) -> Any:
        if isinstance(block, dict) and block.get("format") == "openai":
            return {"body": _OPENAI_BODY, **block}
        return block

    @model_validator(mode="after")
    def _can_end(self) -> "NativeSettings":
        meanings = {event.means for event in self.events}
        if self.format == "openai":
            if self.events or self.answer is not None:
                raise ValueError("events, answer: are not for the format 'openai', which has its own")
            return self
        if "text" not in meanings and not any(event.at for event in self.events):
            raise ValueError("events: none has a text")
        if self.ends_by == "event" and not meanings & {"done", "answer"}:
            raise ValueError("events: none is 'done' or 'answer'; without one, ends_by must be 'close'")
        if (self.answer is None) == ("answer" not in meanings):
            raise ValueError("answer: is needed, unless an event is the answer; not both")
        if self.format == "ndjson" and any(event.event or event.data for event in self.events):
            raise ValueError("events: a line of ndjson has no name, and its data is JSON: use 'when'")
        return self

    @property
    def media_type(self) -> str:
        """The value of `Accept`."""
        return self.accept or ("application/x-ndjson" if self.format == "ndjson" else "text/event-stream")


class TapCallSettings(SettingsBlock):
    """One of the calls that the upstream makes to its language model while it works on a request."""

    stage: Annotated[str, AfterValidator(_stage)] | None = None
    """The stage that shows its text; left out for a call whose text is shown nowhere."""
    panel: str | None = None
    """The panel of that stage, for who reads this list; it is the one of `sections`."""
    model: Annotated[str, AfterValidator(_pattern)] | None = None
    """Regular expression that the call's model must match somewhere, for calls that come in no order."""
    system: Annotated[str, AfterValidator(_pattern)] | None = None
    """The same for its system prompt."""


class TapSettings(SettingsBlock):
    """Which of the upstream's model calls is which stage."""

    calls: list[TapCallSettings] = Field(min_length=1, max_length=100)
    """In the order in which they are made. A call takes the first that no call before it has taken and that
    its patterns allow. A call that is made again, with the same request, keeps its place."""


class RouteSettings(SettingsBlock):
    """One endpoint that can stream."""

    name: Name
    """Unique; the metrics' label."""
    match: Annotated[str, AfterValidator(_match)]
    """Method and path; `{name}` stands for one path segment."""
    stream_path: Annotated[str, AfterValidator(_path)] | None = None
    """A path for EventSource: a GET there starts the same request, or joins the one that runs."""
    stream_path_from: list[Literal["same-origin", "same-site", "none"]] = Field(default=["same-origin"])
    """From where a browser's GET there may start work, as its `Sec-Fetch-Site` says: `same-site` is a page of
    a sibling domain, `none` an address that was typed. Clients that send no fetch metadata at all may, too;
    those of other sites never."""
    flag: str = "headgate.streaming"
    """The flag that decides."""
    source: SourceName = "batch"
    """Where live text comes from."""
    poll: PollSettings | None = None
    """For the source `poll`."""
    stages: StagesSettings | None = None
    """For the source `stages`."""
    native: NativeSettings | None = None
    """For the source `native`."""
    tap: TapSettings | None = None
    """For the source `tap`, which also needs `llm`."""
    sections: list[SectionSettings] = Field(min_length=1)
    """The texts of the answer."""
    failure_text: Annotated[str, AfterValidator(_pattern)] | None = None
    """Regular expression for a text that is an error sentence rather than an answer."""
    commit_after: Annotated[float, Field(ge=0, le=15)] = 2.0
    """Seconds that the stream's headers wait for the first text, so that an early error can still have
    its own status. No byte is sent until then."""
    heartbeat_s: Annotated[float, Field(gt=0, le=15)] = 10.0
    """At most so long without a byte on an open stream."""
    progress: bool = False
    """Send `progress` events while there is no text."""
    progress_s: Annotated[float, Field(gt=0, le=10)] = 10.0
    """At most so long between two of them."""
    replay: Literal["never", "safe"] = "never"
    """Whether a request may be sent to the upstream again after it failed half-way. `safe` is a promise
    that a repetition does no harm. With `event_log.valkey` another replica then goes on with a run whose
    replica is lost; for that the request, with its credentials, is in the store, encrypted, until the run
    ends. One of which no byte was sent, or that the upstream answered with 429
    or 503 and a short `Retry-After`, is sent again in any case."""
    join: bool = True
    """A request that is the same as one in flight, by the same principal, gets the answer of that one; one
    with its `Idempotency-Key` also after its end, and one with another key is another request. `false` where
    repetition is meant."""
    unwatched: Literal["finish", "cancel"] = "finish"
    """What becomes of a run that nobody watches: the upstream finishes its work, or it is ended."""
    grace_s: Seconds = 30
    """With `unwatched: cancel`, seconds that a viewer has to come back."""
    max_runs: int = Field(default=500, ge=1)
    """Runs in flight per process, of one user at most three quarters. Over it, requests get the batch
    answer; those that take nothing but events get 503."""
    batch_heartbeat_s: Annotated[float, Field(gt=0, le=300)] | None = None
    """Send a space whenever the batch answer has been silent for so long, for clients behind something that
    cuts idle connections. The first space commits status 200 and JSON, whatever the upstream says later."""
    chunk: ChunkSettings = ChunkSettings()
    flush_hz: float = Field(default=30.0, ge=1, le=1000)
    """At most so many writes a second to one viewer."""
    result: bool = True
    """Send the exact batch body as text in `stream_done`."""
    max_answer: ByteSize = Field(default=ByteSize(16 * 1024 * 1024), ge=1024)
    """A batch answer over this is not streamed: the run fails."""

    @model_validator(mode="after")
    def _shows_what_stands_nowhere(self) -> "RouteSettings":
        if self.tap is None and self.native is None:
            for section in self.sections:
                if section.at is None:
                    raise ValueError(
                        f"section '{section.stage}' needs 'at': only 'tap' and 'native' show more"
                    )
        return self

    @model_validator(mode="after")
    def _has_its_block(self) -> "RouteSettings":
        if self.source != "batch" and getattr(self, self.source) is None:
            raise ValueError(f"source '{self.source}' needs a block '{self.source}'")
        return self

    @model_validator(mode="after")
    def _stages_are_unique(self) -> "RouteSettings":
        stages = [section.stage for section in self.sections]
        if len(set(stages)) < len(stages):
            raise ValueError("sections: each stage may stand there once")
        return self

    @model_validator(mode="after")
    def _tapped_stages_exist(self) -> "RouteSettings":
        panels = {section.stage: section.panel for section in self.sections}
        for index, call in enumerate(self.tap.calls if self.tap else ()):
            where = f"tap.calls[{index}]"
            if call.stage is not None and call.stage not in panels:
                raise ValueError(f"{where}.stage: '{call.stage}' is none of sections: {', '.join(panels)}")
            if call.panel is not None and call.panel != panels.get(call.stage or ""):
                raise ValueError(f"{where}.panel: is not the panel of this stage in sections")
        return self

    @model_validator(mode="after")
    def _native_stages_exist(self) -> "RouteSettings":
        stages = [section.stage for section in self.sections]
        for index, event in enumerate(self.native.events if self.native else ()):
            where = f"native.events[{index}]"
            if event.stage is not None and event.stage not in stages:
                raise ValueError(f"{where}.stage: '{event.stage}' is none of sections: {', '.join(stages)}")
            is_named = event.stage is not None or event.stage_at is not None
            if event.means == "text" and len(stages) > 1 and not is_named:
                raise ValueError(f"{where}: needs 'stage' or 'stage_at', since there are several sections")
        if self.native is not None and self.native.format == "openai" and len(stages) > 1:
            raise ValueError("native.format: 'openai' is for one section, the text of the completion")
        return self

    @model_validator(mode="after")
    def _parameters_exist(self) -> "RouteSettings":
        known = set(PARAMETER.findall(self.match))
        for where, template in self._templates():
            for name in PARAMETER.findall(template):
                if name not in known:
                    raise ValueError(f"{where}: {{{name}}} is no parameter of match")
        if self.stream_path is not None:
            for name in sorted(known - set(PARAMETER.findall(self.stream_path))):
                raise ValueError(f"stream_path: {{{name}}} of match is missing: it could not be filled in")
        return self

    def _templates(self) -> Iterator[tuple[str, str]]:
        if self.stream_path is not None:
            yield "stream_path", self.stream_path
        if self.poll is not None:
            yield "poll.path", self.poll.path
        if self.stages is not None:
            for index, call in enumerate(self.stages.calls):
                yield f"stages.calls[{index}].request", call.request
        if self.native is not None and self.native.request is not None:
            yield "native.request", self.native.request

    @model_validator(mode="after")
    def _references_exist(self) -> "RouteSettings":
        """A template may use the client's request and the stages before it."""
        known = {REQUEST, PATH}
        for index, call in enumerate(self.stages.calls if self.stages else ()):
            _check_references(call.body, known, f"stages.calls[{index}].body")
            if call.stage in known:
                raise ValueError(f"stages.calls[{index}].stage: '{call.stage}' is taken")
            known.add(call.stage)
        if self.stages is not None:
            _check_references(self.stages.answer, known, "stages.answer")
        if self.native is not None:
            _check_references(self.native.answer, {TEXT, REQUEST, PATH}, "native.answer")
        return self

    @property
    def sources(self) -> frozenset[str]:
        """The sources that a flag variant may choose: those that have what they need."""
        with_block = (name for name in get_args(SourceName) if getattr(self, name, None) is not None)
        return frozenset({"batch", *with_block})


def _check_references(template: Any, known: set[str], where: str) -> None:
    for stray in strays(template):
        raise ValueError(f"{where}: '{stray}' is no reference: those are {{{{ name $.path }}}}")
    for name, path in references(template):
        if name not in known:
            raise ValueError(f"{where}: '{name}' is none of {', '.join(sorted(known))}")
        try:
            compile_path(path)
        except ValueError as exc:
            raise ValueError(f"{where}: {exc}") from None
