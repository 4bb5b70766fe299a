"""What may be set, with defaults, units and dangers; unknown names are refused.

This file is the source of `docs/reference/settings.md`.
"""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from proxy.sections import compile_path
from proxy.templates import PATH, REQUEST, TEXT, references, strays

UNMATCHED = "unmatched"
"""The label `route` of requests that match no route; so no route may be called that."""

SourceName = Literal["batch", "poll", "stages", "native", "tap"]

_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080")
    return value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be an origin without a path: paths go through as the client sent them")
    if parts.port == 0:  # asking for the port also raises for one that is none
        raise ValueError("must have a port from 1 to 65535")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials: those of each client go through")
    return value


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


def _mount(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)*/?", value) or not value.startswith("/"):
        raise ValueError("must be / or segments of letters, digits, '_', '.' and '-', for example /openai")
    return value


def _parameters(path: str) -> None:
    names = _PARAMETER.findall(path)
    if "{" in _PARAMETER.sub("", path) or "}" in _PARAMETER.sub("", path):
        raise ValueError("has a brace that is no parameter: those are a-z, 0-9 and '_', as in {case_id}")
    if len(set(names)) < len(names):
        raise ValueError("names a parameter twice")


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError("must be 1 to 63 of a-z, 0-9, '-' and '_': it becomes a metric's label")
    if value == UNMATCHED:
        raise ValueError(f"'{UNMATCHED}' is the label of requests that match no route")
    return value


def _stage(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be 1 to 64 of letters, digits, '_', '.' and '-'")
    return value


def _json_path(value: str) -> str:
    compile_path(value.replace("{stage}", "stage"))
    return value


def _beside_the_settings(value: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / value


def _readable(value: Path) -> Path:
    try:
        value.open("rb").close()
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from None
    return value


def _authorities(value: Path) -> Path:
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError:
        raise ValueError("must be a PEM file of certificates") from None
    return value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL with http or https")
    return value


def _unleash(value: str) -> str:
    parts = urlsplit(_web_address(value))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "must be an address without credentials and query: the token has a setting of its own"
        )
    address = value.rstrip("/")
    if address.endswith("/api"):
        raise ValueError("must be the address without /api, which is added")
    return address


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces and line breaks, and not empty")
    return value


def _store(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        found = parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
    except ValueError:  # its text may hold the password
        found = None
    if not found or parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must be redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


JsonPath = Annotated[str, AfterValidator(_json_path)]
Address = Annotated[str, AfterValidator(_address)]
File = Annotated[Path, AfterValidator(_beside_the_settings)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Block(BaseModel):
    """A block of settings: frozen, and closed to names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TimeoutSettings(Block):
    """Measured at the upstream's own connection, each for its phase."""

    connect_s: Seconds = 5
    """To open a connection, TLS included. Over it: 502."""
    first_byte_s: Seconds = 300
    """From the request sent to the answer's head. Over it: 504. Keep it above the slowest answer."""
    idle_s: Seconds = 120
    """Between two reads of an answer's body, while this side is reading."""
    total_s: Seconds = 900
    """For one request and its answer."""


class TlsSettings(Block):
    """For an `https` upstream."""

    ca_file: Annotated[File, AfterValidator(_readable)] | None = None
    """PEM file of the authorities to trust instead of the system's."""
    verify: bool = True
    """Check the upstream's certificate and name. Turning it off lets anybody on the way read along."""


class PoolSettings(Block):
    """Connections to the upstream, per worker process."""

    max_connections: int = Field(default=2048, ge=1)
    """In use at once. Over it: 503. A streamed run holds one for its whole time."""
    max_idle: int = Field(default=512, ge=0)
    """Kept open for the next request."""
    keep_alive_s: Seconds = 4
    """Idle connections are closed after this. Keep it below the upstream's own limit (uvicorn: 5 s)."""


class ForwardingSettings(Block):
    """What the upstream is told about the client."""

    x_forwarded: Literal["append", "replace", "off"] = "append"
    """`X-Forwarded-For`, `-Proto`, `-Host`. `append` trusts what a proxy in front has written;
    `replace` drops what came, for a Headgate that clients reach directly."""
    forwarded: bool = False
    """Also append an element of `Forwarded` (RFC 7239)."""
    via: bool = False
    """Also append `Via: 1.1 headgate` to requests."""
    host: Literal["client", "upstream"] = "client"
    """Whose `Host` the upstream sees. With `client` its redirects point where the client is."""


class BreakerSettings(Block):
    """When the upstream fails again and again, no streams begin for a while: everybody gets batch."""

    failures: int = Field(default=5, ge=1, le=1000)
    """Runs that fail one after another, by the upstream's fault."""
    window_s: Seconds = 60
    """Within this time."""
    open_s: Seconds = 15
    """So long; then one run tries."""


class UpstreamSettings(Block):
    """The existing batch API."""

    url: Annotated[str, AfterValidator(_origin)]
    """Its origin, for example `http://127.0.0.1:8000`."""
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    breaker: BreakerSettings = BreakerSettings()


class UnleashSettings(Block):
    """A server that flags come from. Each worker process asks for itself, and keeps the answer in memory:
    while the server is down the last flags hold, until they are stale; a process that never had any gives
    everybody batch."""

    url: Annotated[str, AfterValidator(_unleash)]
    """Its address as a browser has it, for example `https://unleash.example.org`, without `/api`."""
    token: Annotated[SecretStr, AfterValidator(_token)]
    """Backend (client) token of one environment."""
    app_name: str = Field(default="headgate", pattern=r"^[A-Za-z0-9_.~-]{1,100}$")
    """What Unleash lists this application as."""
    refresh_s: Annotated[float, Field(ge=1, le=3600)] = 15
    """At most so long between two fetches, so that a kill takes so long and 2 s more. An overloaded server
    is asked less often, at least once a minute."""
    timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 5
    """For one request to it, all in all. Also the longest that the start waits for the first flags."""
    ca_file: Annotated[File, AfterValidator(_readable), AfterValidator(_authorities)] | None = None
    """PEM file of the authorities to trust instead of the system's."""


class FlagSettings(Block):
    """Who gets streams: from a file, or from an Unleash server."""

    file: File | None = Field(default=Path("flags.json"), validate_default=True)
    """Unleash client-features JSON; watched, a change is applied within 2 s. A broken file keeps the
    last good state. Relative to the settings file. Not together with `unleash`."""
    unleash: UnleashSettings | None = None
    """A server, instead of the file."""
    kill_flag: str = "headgate.kill"
    """The flag that, when enabled, sends everybody to batch."""
    kill_file: File | None = None
    """The local kill switch is on while this file exists: it outlives the process, and can be engaged by
    hand. Without it, the switch ends with the process."""
    stale_s: Seconds = 300
    """Flags that could not be confirmed for this long count as off: everybody gets batch."""
    settle_s: Annotated[float, Field(ge=0, le=3600)] = 150
    """Seconds after its start that a request counts in `headgate_outcomes_total`, or at its end if that is
    later. Longer than nearly all answers, so that quick and slow ones are compared."""

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        if block.get("unleash") is None:
            if "file" in block and block["file"] is None:
                raise ValueError("needs file or unleash")
            return block
        if block.get("file") is not None:
            raise ValueError("set file or unleash, not both")
        return {**block, "file": None}

    @model_validator(mode="after")
    def _fresh_between_two_fetches(self) -> "FlagSettings":
        if self.unleash is not None and self.stale_s < 2 * (self.unleash.refresh_s + self.unleash.timeout_s):
            raise ValueError(
                "stale_s must be at least twice unleash.refresh_s and unleash.timeout_s together"
            )
        return self


class JwtSettings(Block):
    """A bearer token in `Authorization`."""

    claim: str = "sub"
    """The claim that names the user: the `userId` of the flag context."""
    key: SecretStr | None = None
    """Secret (HS256) or PEM public key to verify tokens with. Without `key` and `jwks_url` a token is
    read but not verified: good enough to choose an arm, since the upstream verifies it anyway."""
    jwks_url: Annotated[str, AfterValidator(_web_address)] | None = None
    """Where the issuer publishes its keys; fetched at start and again every 10 minutes."""
    algorithms: list[str] = ["HS256", "RS256", "ES256"]
    """Accepted signature algorithms."""
    audience: str | None = None
    """Required `aud`, if tokens are verified."""
    issuer: str | None = None
    """Required `iss`, if tokens are verified."""

    @model_validator(mode="after")
    def _one_key(self) -> "JwtSettings":
        if self.key is not None and self.jwks_url is not None:
            raise ValueError("set key or jwks_url, not both")
        return self


class TenantSettings(Block):
    """Whose user somebody is: the property `tenant` of the flag context, for segments and constraints."""

    claim: str | None = None
    """A claim of the bearer token."""
    header: str | None = None
    """A header set by a trusted proxy in front, for example `X-Tenant`."""

    @model_validator(mode="after")
    def _one_place(self) -> "TenantSettings":
        if (self.claim is None) == (self.header is None):
            raise ValueError("set claim or header, one of them")
        return self


class IdentitySettings(Block):
    """Who is asking. The first that finds somebody counts; nobody found means batch."""

    jwt: JwtSettings | None = JwtSettings()
    """A bearer token. `null` turns it off."""
    header: str | None = None
    """A header set by a trusted proxy in front, for example `X-User-Id`. Clients must not reach
    Headgate past that proxy."""
    cookie: str | None = None
    """A session cookie; its value is hashed, never kept."""
    tenant: TenantSettings | None = None
    """Where the user's tenant stands, if flags are to know it."""


class MemoryLogSettings(Block):
    """Finished runs kept for reconnects, per worker process."""

    runs: int = Field(default=1000, ge=1)
    """At most so many finished runs; the oldest go first."""
    bytes: ByteSize = Field(default=ByteSize(64 * 1024 * 1024), ge=1024)
    """At most so many bytes of them, for example `64MiB`."""
    ttl_s: Seconds = 600
    """No longer than this after their end."""


class ValkeyLogSettings(Block):
    """Runs shared by all replicas and workers, in Valkey or Redis (6.2 or later, one server, no cluster)."""

    url: Annotated[SecretStr, AfterValidator(_store)]
    """`redis://USER:PASSWORD@HOST:PORT/DB`; `rediss://` for TLS, `unix://` for a socket."""
    key: SecretStr = Field(min_length=32)
    """Secret of 32 characters or more that everything stored is encrypted with; the same for all replicas.
    With another one, runs that are stored already cannot be read."""
    prefix: str = Field(default="headgate", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """Begins the name of every key, so that several Headgates can share one store."""
    ttl_s: Seconds = 600
    """A run is kept no longer than this after its end."""


class EventLogSettings(Block):
    """Where runs keep their events."""

    memory: MemoryLogSettings = MemoryLogSettings()
    valkey: ValkeyLogSettings | None = None
    """Also there, so that every replica can show the runs of every other one."""


class LogSettings(Block):
    """The process's own log, on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`info` has a line for each request that matches a route; `debug` also for the others."""


class SectionSettings(Block):
    """One text of the answer, and where a viewer shows it. Their order is the order of the stages."""

    stage: Annotated[str, AfterValidator(_stage)]
    """Name of the stage that writes it; unique in its route."""
    panel: str = Field(default="reasoning", min_length=1, max_length=64)
    """Where the viewer shows it: `reasoning`, `chat` or a name of yours."""
    at: JsonPath
    """JSONPath of the text in the batch answer."""
    poll_at: JsonPath | None = None
    """JSONPath of the text within the stage's row of the polled document; without it the text comes
    with the batch answer."""


class ChunkSettings(Block):
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


class PollSettings(Block):
    """A resource that shows finished stages while the request still runs."""

    path: Annotated[str, AfterValidator(_path)]
    """Its path, with the route's parameters, for example `/api/cases/{case_id}/details`."""
    every_ms: int = Field(default=1000, ge=50, le=60_000)
    """Between two polls; ±20 %, never two at once, and slower when the resource is."""
    row: JsonPath
    """JSONPath of a stage's row; `{stage}` stands for the stage's name."""
    updated_at: Annotated[list[JsonPath], BeforeValidator(_one_or_many), Field(min_length=1)]
    """JSONPaths within the row of the time it was written; the first that is set counts. A row whose
    time is the one it had before the request is an earlier run's and is not shown."""


class StageCallSettings(Block):
    """One single-stage call of a group."""

    stage: Annotated[str, AfterValidator(_stage)]
    """Its name, for `{{ stage $.path }}` in later calls and in `answer`."""
    request: Annotated[str, AfterValidator(_request)]
    """Method, path and query, with the route's parameters."""
    body: Any = None
    """JSON body as a template; none is sent when it is left out."""


class StagesSettings(Block):
    """A group made out of its single-stage calls, for upstreams where these are equivalent."""

    calls: list[StageCallSettings] = Field(min_length=1)
    """In order; each may use the answers of the earlier ones, and `request`, the client's own body."""
    answer: Any
    """The group's answer as a template of the calls' answers."""


class ConditionSettings(Block):
    """A value that an event's JSON must have."""

    at: JsonPath
    """Where it stands."""
    equals: bool | int | float | str
    """Equal to it, and of the same type."""


class NativeEventSettings(Block):
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


class NativeSettings(Block):
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


class TapCallSettings(Block):
    """One of the calls that the upstream makes to its language model while it works on a request."""

    stage: Annotated[str, AfterValidator(_stage)] | None = None
    """The stage that shows its text; left out for a call whose text is shown nowhere."""
    panel: str | None = None
    """The panel of that stage, for who reads this list; it is the one of `sections`."""
    model: Annotated[str, AfterValidator(_pattern)] | None = None
    """Regular expression that the call's model must match somewhere, for calls that come in no order."""
    system: Annotated[str, AfterValidator(_pattern)] | None = None
    """The same for its system prompt."""


class TapSettings(Block):
    """Which of the upstream's model calls is which stage."""

    calls: list[TapCallSettings] = Field(min_length=1, max_length=100)
    """In the order in which they are made. A call takes the first that no call before it has taken and that
    its patterns allow. A call that is made again, with the same request, keeps its place."""


class RouteSettings(Block):
    """One endpoint that can stream."""

    name: Annotated[str, AfterValidator(_name)]
    """Unique; the metrics' label."""
    match: Annotated[str, AfterValidator(_match)]
    """Method and path; `{name}` stands for one path segment."""
    stream_path: Annotated[str, AfterValidator(_path)] | None = None
    """A path for EventSource: a GET there starts the same request, or joins the one that runs."""
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
    """A request that is the same as one in flight, by the same principal, gets the answer of that one, and
    so does one with its `Idempotency-Key`. `false` where repetition is meant."""
    unwatched: Literal["finish", "cancel"] = "finish"
    """What becomes of a run that nobody watches: the upstream finishes its work, or it is ended."""
    grace_s: Seconds = 30
    """With `unwatched: cancel`, seconds that a viewer has to come back."""
    max_runs: int = Field(default=500, ge=1)
    """Runs in flight per process. Over it, requests get the batch answer; those that take nothing but
    events get 503."""
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
        known = set(_PARAMETER.findall(self.match))
        for where, template in self._templates():
            for name in _PARAMETER.findall(template):
                if name not in known:
                    raise ValueError(f"{where}: {{{name}}} is no parameter of match")
        if self.stream_path is not None:
            for name in sorted(known - set(_PARAMETER.findall(self.stream_path))):
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


class ProviderSettings(Block):
    """Where the upstream's language model really is."""

    name: Annotated[str, AfterValidator(_name)]
    """Unique."""
    url: Annotated[str, AfterValidator(_origin)]
    """Its origin, for example `https://api.openai.com`."""
    path: Annotated[str, AfterValidator(_mount)] | None = None
    """What stands before the provider's own path in the base URL that the upstream is given; `/NAME` if
    left out, so `http://HEADGATE:8090/openai/v1` for the provider `openai`. `/` for the only one."""
    api: Literal["openai", "gemini"] = "openai"
    """The shape of its API. `openai` is also Azure's, DeepSeek's and that of every compatible server."""
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()

    @property
    def mount(self) -> str:
        """`path` without a slash at its end."""
        return (f"/{self.name}" if self.path is None else self.path).rstrip("/")


class LlmSettings(Block):
    """The model port, for the source `tap`: the upstream's own base URL of its language model points here."""

    listen: Address = "127.0.0.1:8090"
    """Where the upstream connects. Never public: what comes here is passed on to the providers."""
    providers: Annotated[list[ProviderSettings], Field(min_length=1)]
    """The language models behind it."""
    ask_again: Literal["never", "unbilled", "always"] = "unbilled"
    """Whether a call whose stream failed is asked once more, as the batch call it was: only as long as no
    token has come (`unbilled`), or also when tokens are paid twice for it (`always`). Otherwise the upstream
    gets the error, and does what it does about errors."""

    @model_validator(mode="after")
    def _providers_are_told_apart(self) -> "LlmSettings":
        for what in ("name", "mount"):
            seen = [getattr(provider, what) for provider in self.providers]
            if len(set(seen)) < len(seen):
                raise ValueError(f"providers: two have the same {'path' if what == 'mount' else what}")
        if any(provider.mount == "" for provider in self.providers) and len(self.providers) > 1:
            raise ValueError("providers: the path / is for a single one")
        return self


class Settings(Block):
    """The whole file."""

    listen: Address = "127.0.0.1:8080"
    """Where clients connect."""
    admin: Address = "127.0.0.1:9464"
    """Where ops connect: `/livez`, `/readyz`, `/metrics`, `/runs`, `/kill`. Never public."""
    admin_token: SecretStr | None = None
    """Bearer token for `POST /kill` and `DELETE /kill`; without it they are refused."""
    upstream: UpstreamSettings
    flags: FlagSettings = FlagSettings()
    llm: LlmSettings | None = None
    """For the source `tap`."""
    identity: IdentitySettings = IdentitySettings()
    event_log: EventLogSettings = EventLogSettings()
    log: LogSettings = LogSettings()
    client_keep_alive_s: Seconds = 75
    """Idle client connections are closed after this."""
    attach_wait_s: Annotated[float, Field(ge=0, le=60)] = 5
    """How long the events of a run that has not begun yet are waited for."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 20
    """Seconds that runs and answers get to finish after SIGTERM. Set it to your longest answer, and the
    grace period of whatever stops Headgate to 10 seconds more."""
    routes: list[RouteSettings] = []
    """Endpoints that can stream; everything else is relayed."""

    @model_validator(mode="before")
    @classmethod
    def _flags_stand_beside_the_settings(cls, document: Any) -> Any:
        """A default that is made before the file is read would be relative to the working directory."""
        return {"flags": {}, **document} if isinstance(document, dict) else document

    @model_validator(mode="after")
    def _taps_have_a_port(self) -> "Settings":
        for index, route in enumerate(self.routes):
            if route.tap is not None and self.llm is None:
                raise ValueError(f"routes[{index}].tap: needs the block 'llm', where the model calls come")
        return self

    @model_validator(mode="after")
    def _names_and_matches_are_unique(self) -> "Settings":
        seen: set[str] = set()
        for route in self.routes:
            keys = [route.name, _shape(route.match)]
            if route.stream_path is not None:
                keys.append(_shape(f"GET {route.stream_path}"))
            for key in keys:
                if key in seen:
                    raise ValueError(f"routes: '{key}' stands there twice")
                seen.add(key)
        return self


def _shape(match: str) -> str:
    return _PARAMETER.sub("{}", match)
