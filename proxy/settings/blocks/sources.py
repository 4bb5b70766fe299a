"""Settings of the sources of live text: a part of `route.py`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.values import (
    HeaderName,
    JsonPath,
    PathText,
    Pattern,
    RequestLine,
    Seconds,
    StageName,
    TargetText,
)


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class PollSettings(SettingsBlock):
    """A resource that shows finished stages while the request still runs."""

    path: PathText
    """Its path, with the route's parameters, for example `/api/cases/{case_id}/details`."""
    every_ms: int = Field(default=1000, ge=50, le=60_000)
    """Milliseconds between two polls, ±20 %. Never two polls at once: a slow resource is polled less
    often."""
    row: JsonPath
    """JSONPath of a stage's row; `{stage}` stands for the stage's name."""
    updated_at: Annotated[
        list[JsonPath],
        BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ]
    """JSONPaths, in the row, of the time when it was written. The first that is set counts. A row with the
    same time as before the request is of an earlier run, and is not shown."""


class StageCallSettings(SettingsBlock):
    """One single-stage call of a group."""

    stage: StageName
    """Its name, for `{{ stage $.path }}` in later calls and in `answer`."""
    request: RequestLine
    """Method, path and query, with the route's parameters."""
    body: Any = None
    """JSON body as a template. Without it no body is sent."""


class StagesSettings(SettingsBlock):
    """A group call that is replaced by its single-stage calls, for upstreams where these are equivalent."""

    calls: list[StageCallSettings] = Field(min_length=1)
    """The calls in order. Each may use the answers of earlier ones, and `request`, the client's own body."""
    answer: Any
    """The group's answer as a template of the calls' answers."""


class ConditionSettings(SettingsBlock):
    """A value that an event's JSON must have."""

    at: JsonPath
    """JSONPath of the value."""
    equals: bool | int | float | str
    """The value; of the same type, too."""


class NativeEventSettings(SettingsBlock):
    """The meaning of one kind of event in the upstream's stream."""

    event: str | None = None
    """Only events of this name. Events without a name are called `message`."""
    data: str | None = None
    """Only events whose data is this, for example `[DONE]`."""
    when: ConditionSettings | None = None
    """Only events whose JSON has this value."""
    means: Literal["text", "done", "error", "answer", "ignore"] = "text"
    """`text`: more of a stage's text. `done`: the stream is complete. `error`: the stream failed. `answer`:
    the stream is complete, and this is the batch answer."""
    at: JsonPath | None = None
    """JSONPath of the text, or of the answer, in the event's JSON. A last event may have a text too. Without
    it, the text is the event's data, and the answer is its whole JSON."""
    stage: str | None = None
    """The stage of the text; not needed where the route has one section."""
    stage_at: JsonPath | None = None
    """JSONPath of the stage's name in the event's JSON."""


_OPENAI_BODY = {"stream": True, "stream_options": {"include_usage": True}}


class NativeSettings(SettingsBlock):
    """The upstream's own stream: how it is asked for, and how it is read."""

    format: Literal["sse", "ndjson", "openai"]
    """Server-sent events; one JSON document per line; or OpenAI's chat completions, which need neither
    `events` nor `answer`."""
    request: RequestLine | None = None
    """Method, path and query of the call for the stream, with the route's parameters. The default is the
    request's own."""
    body: dict[str, Any] | None = None
    """Merged into the request's JSON body (RFC 7386), for example `{stream: true}`, the default of
    `openai`."""
    accept: str | None = None
    """`Accept` of the call. The default is the format's media type."""
    events: list[NativeEventSettings] = Field(default=[], max_length=100)
    """The first that matches an event says what the event means. If that one has an `at` for a text, later
    ones that match add the texts that they find for other stages. Other events are ignored."""
    ends_by: Literal["event", "close"] = "event"
    """The sign that the stream is complete: an event that means `done` or `answer`; or, where the stream has
    none, the end of the HTTP answer. A cut connection is neither."""
    answer: Any = None
    """The batch answer as a template of `{{ text $.STAGE }}`, for a stream without an event that means
    `answer`."""

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
    """One of the calls that the upstream makes to its language model during a request."""

    stage: StageName | None = None
    """The stage that shows its text. Without it the text is shown nowhere."""
    panel: str | None = None
    """The panel of that stage, for readers of this list: the same as in `sections`."""
    model: Pattern | None = None
    """Regular expression that must match somewhere in the call's model, for calls that come in no fixed
    order."""
    system: Pattern | None = None
    """The same for the call's system prompt."""
    at: Annotated[
        list[JsonPath],
        BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
        Field(max_length=16),
    ] = Field(default=[])
    """JSONPath of the stage's text in what the model writes, for a call that answers in JSON or calls a tool,
    for example `$.summary`: the string is shown as it grows, unescaped. Several are shown in the order of
    this list, each a paragraph. Without it the model's text is shown as it is, and JSON that was asked for is
    not shown at all."""


class TapSettings(SettingsBlock):
    """The upstream's model calls, and the stage of each."""

    match: Literal["tracestate", "traceparent"] = "tracestate"
    """The mark by which a model call is known. `tracestate`: our member in the client's own trace.
    `traceparent`: the trace id, for a backend that passes that on, or X-Ray's header, and no `tracestate`.
    Each request then has a new trace at the backend, and the client's trace ends at Headgate."""
    calls: list[TapCallSettings] = Field(min_length=1, max_length=100)
    """The model calls, in the order in which they are made. A call takes the first entry that its patterns
    allow and that no earlier call has taken. A call that is repeated with the same request keeps its
    entry."""


class JobSettings(SettingsBlock):
    """An API that accepts a request, and is then asked until the work is done. A resource has the job's
    status."""

    accepted: list[Annotated[int, Field(ge=200, le=399)]] = Field(default=[202], min_length=1)
    """Statuses of the answer that names a job. Any other answer is the whole answer."""
    path: TargetText | None = None
    """Path of the status, with the route's parameters and `{job}`, the job's id: for example
    `/api/jobs/{job}`. Without it, the answer says where the status is."""
    id: JsonPath = "$.id"
    """JSONPath of the job's id in that answer, for `{job}`."""
    location: HeaderName = "location"
    """Header of the answer that has the status's URL, absolute or relative; of the same origin, or it is not
    asked."""
    location_at: JsonPath | None = None
    """JSONPath of the status's URL in the answer, instead of a header."""
    status: JsonPath | None = None
    """JSONPath of the state in the status. Without it the status code says it: 202 while the job runs. A 302
    or 303 always means that the job is done, and where its result is."""
    running: list[bool | int | str] = Field(default=[])
    """States of a job at work. Empty: every other. If it is not, the run ends at a state that is nowhere."""
    done: list[bool | int | str] = Field(default=[])
    """States of a job that has its result."""
    failed: list[bool | int | str] = Field(default=[])
    """States of a job that has none, and will have none."""
    result: JsonPath | None = None
    """JSONPath of the batch answer in the status of a job that is done. Without any setting of the result it
    is the whole of that status, byte for byte."""
    result_path: TargetText | None = None
    """Path of the result, where it is a resource of its own. It may have `{job}`."""
    result_location_at: JsonPath | None = None
    """JSONPath of the result's URL in the status, where it is a resource of its own."""
    every_ms: int = Field(default=1000, ge=50, le=60_000)
    """Milliseconds between two looks at the status, ±20 %. A longer `Retry-After` counts, up to a minute."""
    lost_after_s: Seconds = 60
    """Seconds of failed looks in a row after which the run ends. A job that is not found three times in a row
    is lost at once."""
    total_s: Seconds = 3600
    """The most seconds from the request to the result."""
    cancel: bool = False
    """Cancel the job, with DELETE of its status, when its run is cancelled: by its owner, or by the route's
    `unwatched: cancel`."""

    @model_validator(mode="after")
    def _places_are_single(self) -> "JobSettings":
        if self.path is not None and self.location_at is not None:
            raise ValueError("path, location_at: only one of them can say where the status is")
        results = ("result", "result_path", "result_location_at")
        if sum(getattr(self, name) is not None for name in results) > 1:
            raise ValueError(f"{', '.join(results)}: only one of them can say where the result is")
        return self

    @model_validator(mode="after")
    def _states_are_known(self) -> "JobSettings":
        states = [(type(state), state) for state in (*self.running, *self.done, *self.failed)]
        if (self.status is None) != (not states):
            raise ValueError("status: needs the states of 'done', and these need it")
        if states and not self.done:
            raise ValueError("done: must have a state: without one the job would never end")
        if len(set(states)) < len(states):
            raise ValueError("running, done, failed: a state may stand there once")
        return self

    @property
    def needs_id(self) -> bool:
        """True if a path has the job's id."""
        return any("{job}" in (path or "") for path in (self.path, self.result_path))
