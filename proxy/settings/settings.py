"""What may be set, with defaults, units and dangers; unknown names are refused.

This file and `route_settings.py` are the source of `docs/reference/settings.md`.
"""

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ByteSize, Field, SecretStr, ValidationInfo, model_validator

from proxy.settings.block import Name, Seconds, SettingsBlock
from proxy.settings.route import PARAMETER, RouteSettings
from proxy.settings.secret_rules import check_algorithms, check_key, check_token, fits


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


def _mount(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)*/?", value) or not value.startswith("/"):
        raise ValueError("must be / or segments of letters, digits, '_', '.' and '-', for example /openai")
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


Address = Annotated[str, AfterValidator(_address)]
File = Annotated[Path, AfterValidator(_beside_the_settings)]


class TimeoutSettings(SettingsBlock):
    """Measured at the upstream's own connection, each for its phase."""

    connect_s: Seconds = 5
    """To open a connection, TLS included. Over it: 502."""
    first_byte_s: Seconds | None = None
    """From the request sent to the answer's head. Over it: 504. It counts the time for which a call waits
    until a worker of the upstream is free, so it is `total_s` if left out."""
    idle_s: Seconds = 120
    """Between two reads of an answer's body, while this side is reading."""
    total_s: Seconds = 900
    """For one request and its answer, the time in the upstream's own queue included: more than the slowest
    answer times the calls at once for each of its workers."""


class TlsSettings(SettingsBlock):
    """For an `https` upstream."""

    ca_file: Annotated[File, AfterValidator(_readable)] | None = None
    """PEM file of the authorities to trust instead of the system's."""
    verify: bool = True
    """Check the upstream's certificate and name. Turning it off lets anybody on the way read along."""


class StrictnessSettings(SettingsBlock):
    """TLS to everything that Headgate asks: upstream, providers, Unleash, `jwks_url`, Valkey."""

    strict: bool = True
    """Hold certificates to the letter of RFC 5280, on every Python. Authorities of one's own often leave out
    the Authority Key Identifier, say, and are refused for it: the log says which certificate lacks what.
    `false` trusts those too. Chain, dates and name are verified in any case."""


class PoolSettings(SettingsBlock):
    """Connections to the upstream, per worker process."""

    max_connections: int = Field(default=2048, ge=1)
    """In use at once. Over it: 503. A streamed run holds one for its whole time."""
    max_idle: int = Field(default=512, ge=0)
    """Kept open for the next request."""
    keep_alive_s: Seconds = 4
    """Idle connections are closed after this. Keep it below the upstream's own limit (uvicorn: 5 s)."""


class ForwardingSettings(SettingsBlock):
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


class BreakerSettings(SettingsBlock):
    """When the upstream fails again and again, no streams begin for a while: everybody gets batch."""

    failures: int = Field(default=5, ge=1, le=1000)
    """Runs of different callers that fail one after another: by connect, reset, timeout or 5xx."""
    window_s: Seconds = 60
    """Within this time."""
    open_s: Seconds = 15
    """So long; then one run tries."""


class UpgradeSettings(SettingsBlock):
    """Connections that go on in another protocol, WebSocket for example, per worker process."""

    idle_s: Seconds = 3600
    """Without a byte either way. Over it: cut. Clients with pings of their own never meet it."""
    total_s: Seconds = 86_400
    """For one. Over it: cut."""
    max_open: int = Field(default=4096, ge=0)
    """At the same time; they do not count for `pool.max_connections`. Over it: 503. Each has two sockets."""


class UpstreamSettings(SettingsBlock):
    """The existing batch API."""

    url: Annotated[str, AfterValidator(_origin)]
    """Its origin, for example `http://127.0.0.1:8000`."""
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    upgrades: UpgradeSettings = UpgradeSettings()
    breaker: BreakerSettings = BreakerSettings()


class UnleashSettings(SettingsBlock):
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


class FlagSettings(SettingsBlock):
    """Who gets streams: from a file, or from an Unleash server."""

    file: File | None = Field(default=Path("flags.json"), validate_default=True)
    """Unleash client-features JSON; watched, a change is applied within 2 s. A broken file keeps the
    last good state. Relative to the settings file. Not together with `unleash`."""
    unleash: UnleashSettings | None = None
    """A server, instead of the file."""
    kill_flag: str = "headgate.kill"
    """The flag that, when enabled, sends everybody to batch."""
    kill_file: File | None = None
    """The local kill switch is on while this file exists: it outlives `serve`, and can be engaged by hand.
    Without it, the switch ends with `serve`."""
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


class JwtSettings(SettingsBlock):
    """A bearer token in `Authorization`."""

    claim: str = "sub"
    """The claim that names the user: the `userId` of the flag context."""
    key: Annotated[SecretStr, AfterValidator(check_key)] | None = None
    """Secret (HS256; 32 bytes or more) or PEM public key to verify tokens with. Without `key` and `jwks_url`
    a token is read but not verified: good enough to choose an arm, since the upstream verifies it anyway."""
    jwks_url: Annotated[str, AfterValidator(_web_address)] | None = None
    """Where the issuer publishes its keys; fetched at start, every 10 minutes, and when a token names one
    that is not known, at most once in 10 seconds."""
    algorithms: Annotated[list[str], AfterValidator(check_algorithms)] = Field(
        default=["HS256", "RS256", "ES256"]
    )
    """Accepted signature algorithms; never `none`."""
    audience: str | None = None
    """Required `aud`, if tokens are verified."""
    issuer: str | None = None
    """Required `iss`, if tokens are verified."""
    leeway_s: Annotated[float, Field(ge=0, le=600)] = 60
    """Seconds that clocks may differ: a verified token counts so long before its `nbf` and `iat`, and so
    long after its `exp`."""

    @model_validator(mode="after")
    def _one_key(self) -> "JwtSettings":
        if self.key is not None and self.jwks_url is not None:
            raise ValueError("set key or jwks_url, not both")
        if self.key is not None and not fits(self.key, self.algorithms):
            raise ValueError("key: fits none of algorithms: HS256 takes a secret, RS256 a public key in PEM")
        return self


class TenantSettings(SettingsBlock):
    """Whose user somebody is: the property `tenant` of the flag context, for segments and constraints. Users
    of two tenants share no run, whatever they are called."""

    claim: str | None = None
    """A claim of the bearer token."""
    header: str | None = None
    """A header set by a trusted proxy in front, for example `X-Tenant`."""

    @model_validator(mode="after")
    def _one_place(self) -> "TenantSettings":
        if (self.claim is None) == (self.header is None):
            raise ValueError("set claim or header, one of them")
        return self


class IdentitySettings(SettingsBlock):
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


class MemoryLogSettings(SettingsBlock):
    """Finished runs kept for reconnects, per worker process."""

    runs: int = Field(default=1000, ge=1)
    """At most so many finished runs; the oldest go first."""
    bytes: ByteSize = Field(default=ByteSize(64 * 1024 * 1024), ge=1024)
    """At most so many bytes of them, for example `64MiB`."""
    ttl_s: Seconds = 600
    """No longer than this after their end."""


class ValkeyLogSettings(SettingsBlock):
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


class EventLogSettings(SettingsBlock):
    """Where runs keep their events."""

    memory: MemoryLogSettings = MemoryLogSettings()
    valkey: ValkeyLogSettings | None = None
    """Also there, so that every replica can show the runs of every other one."""


class LogSettings(SettingsBlock):
    """The process's own log, on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`info` has a line for each request that matches a route; `debug` also for the others."""


class ProviderSettings(SettingsBlock):
    """Where the upstream's language model really is."""

    name: Name
    """Unique."""
    url: Annotated[str, AfterValidator(_origin)]
    """Its origin, for example `https://api.openai.com`."""
    path: Annotated[str, AfterValidator(_mount)] | None = None
    """What stands before the provider's own path in the base URL that the upstream is given; `/NAME` if
    left out, so `http://HEADGATE:8090/openai/v1` for the provider `openai`. `/` for the only one."""
    api: Literal["openai", "gemini"] = "openai"
    """The shape of its API. `openai` is also Azure's, DeepSeek's and that of every compatible server."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """Before a stream's first text `first_byte_s` holds in the place of `idle_s`: a model that thinks is
    waited for as long as for its batch answer."""
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()

    @property
    def mount(self) -> str:
        """`path` without a slash at its end."""
        return (f"/{self.name}" if self.path is None else self.path).rstrip("/")


class LlmSettings(SettingsBlock):
    """The model port, for the source `tap`: the upstream's own base URL of its language model points here."""

    listen: Address = "127.0.0.1:8090"
    """Where the upstream connects. Never public: what comes here is passed on to the providers."""
    providers: Annotated[list[ProviderSettings], Field(min_length=1)]
    """The language models behind it."""
    ask_again: Literal["never", "unbilled", "always"] = "always"
    """Whether a call whose stream failed is asked once more, as the batch call it was: also when tokens are
    paid twice for it (`always`), or only as long as no token has come (`unbilled`). Otherwise the upstream
    gets the error, and does what it does about errors: not every client of a model asks again by itself."""
    learned_s: Seconds = 86400
    """How long a model is asked for no streams after one that made no batch answer, all workers and replicas
    alike."""

    @model_validator(mode="after")
    def _providers_are_told_apart(self) -> "LlmSettings":
        for what in ("name", "mount"):
            seen = [getattr(provider, what) for provider in self.providers]
            if len(set(seen)) < len(seen):
                raise ValueError(f"providers: two have the same {'path' if what == 'mount' else what}")
        if any(provider.mount == "" for provider in self.providers) and len(self.providers) > 1:
            raise ValueError("providers: the path / is for a single one")
        return self


class LimitSettings(SettingsBlock):
    """What all clients share, per worker process. Over a limit: 503 with `Retry-After`, counted in
    `headgate_over_budget_total`. The admin port has none."""

    connections: int = Field(default=10_000, ge=1)
    """Connections of clients, and on the model port as many again; fewer where the file descriptors do not
    suffice for them and the upstream's: some are kept back for the admin port."""
    connections_of_client: int = Field(default=2_500, ge=1)
    """Of one address. With `x_forwarded: append` the address that the proxy in front names counts, while its
    request is answered."""
    bodies: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), ge=1024)
    """Request bodies that are held, those of runs included, and on the model port as many again; for example
    `256MiB`. What is relayed is not held."""
    answers: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), ge=1024)
    """Copies of relayed answers, of the two arms that are compared and for clients that take nothing but
    events. Without room an answer goes out as it came, unread, and counts as complete."""


class Settings(SettingsBlock):
    """The whole file."""

    listen: Address = "127.0.0.1:8080"
    """Where clients connect."""
    admin: Address = "127.0.0.1:9464"
    """Where ops connect: `/livez`, `/readyz`, `/metrics`, `/runs`, `/learned`, `/kill`. Never public."""
    admin_token: Annotated[SecretStr, AfterValidator(check_token)] | None = None
    """Bearer token for `POST /kill` and `DELETE /kill`, of 16 characters or more; without it they are
    refused."""
    upstream: UpstreamSettings
    flags: FlagSettings = FlagSettings()
    llm: LlmSettings | None = None
    """For the source `tap`."""
    identity: IdentitySettings = IdentitySettings()
    tls: StrictnessSettings = StrictnessSettings()
    event_log: EventLogSettings = EventLogSettings()
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    client_keep_alive_s: Seconds = 75
    """Idle client connections are closed after this."""
    attach_wait_s: Annotated[float, Field(ge=0, le=60)] = 5
    """How long the events of a run that has not begun yet are waited for."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 20
    """Seconds that runs and answers get to finish after SIGTERM. Set it to your longest answer, and the
    grace period of whatever stops Headgate to 10 seconds more."""
    routes: list[RouteSettings] = Field(default=[])
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
    return PARAMETER.sub("{}", match)
