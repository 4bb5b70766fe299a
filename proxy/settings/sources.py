"""What each source of live text needs: a part of `route.py`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from proxy.settings.block import SettingsBlock
from proxy.settings.values import JsonPath, PathText, Pattern, RequestLine, StageName


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class PollSettings(SettingsBlock):
    """A resource that shows finished stages while the request still runs."""

    path: PathText
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

    stage: StageName
    """Its name, for `{{ stage $.path }}` in later calls and in `answer`."""
    request: RequestLine
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
    request: RequestLine | None = None
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

    stage: StageName | None = None
    """The stage that shows its text; left out for a call whose text is shown nowhere."""
    panel: str | None = None
    """The panel of that stage, for who reads this list; it is the one of `sections`."""
    model: Pattern | None = None
    """Regular expression that the call's model must match somewhere, for calls that come in no order."""
    system: Pattern | None = None
    """The same for its system prompt."""


class TapSettings(SettingsBlock):
    """Which of the upstream's model calls is which stage."""

    calls: list[TapCallSettings] = Field(min_length=1, max_length=100)
    """In the order in which they are made. A call takes the first that no call before it has taken and that
    its patterns allow. A call that is made again, with the same request, keeps its place."""
