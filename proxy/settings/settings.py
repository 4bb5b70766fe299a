"""All settings, with defaults, units and dangers; unknown names are refused.

This file and those it imports are the source of `docs/reference/settings.md`.
"""

from importlib.util import find_spec
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator

from proxy.settings.blocks.attach import AttachSettings
from proxy.settings.blocks.block import SettingsBlock, with_authorities
from proxy.settings.blocks.certificates import OwnCertificate, PortCertificate
from proxy.settings.blocks.egress import EgressSettings
from proxy.settings.blocks.flags import FlagSettings
from proxy.settings.blocks.identity import IdentitySettings
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.secret_rules import check_token
from proxy.settings.blocks.store_address import (
    StoreShard,
    is_cluster,
    is_store_address,
    key_prefix,
    key_prefixes,
)
from proxy.settings.blocks.upstream import LlmSettings, UpstreamSettings
from proxy.settings.blocks.values import (
    PARAMETER,
    Address,
    Authorities,
    HeaderName,
    ListenAddress,
    PageOrigin,
    PeerNetwork,
    Seconds,
    WebAddress,
    unix_path,
)

MAX_SHARDS = 64
"""Each costs a process five connections."""

ShardName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


def _store(value: SecretStr) -> SecretStr:
    if not is_store_address(value.get_secret_value()):
        raise ValueError(
            "must be redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH, "
            "redis+sentinel://HOST:PORT,…/SERVICE or redis+cluster://HOST:PORT,…"
        )
    return value


def _controller(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")
        good = good and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be http://HOST:PORT")
    return value.rstrip("/")


def _with_traces(value: str) -> str:
    try:
        found = find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.common")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError("needs an extra package: install headgate[traces], which is OpenTelemetry's SDK")
    if urlsplit(value).username or urlsplit(value).password:
        raise ValueError("must not carry credentials: use headers")
    return value


class OverallTlsSettings(OwnCertificate):
    """TLS of the public port, if it has a certificate; and to every server that Headgate connects to:
    upstream, providers, Unleash, `jwks_url`, Valkey."""

    client_ca: Authorities | None = None
    """PEM file of the authorities of the public port's clients, each of which must then show a certificate of
    one of them."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's, wherever a server has no `ca_file` of its
    own. With private and public servers it needs the authorities of both."""

    strict: bool = True
    """Hold certificates to the letter of RFC 5280, on every Python. Private authorities often leave out, for
    example, the Authority Key Identifier, and are refused for it: the log says which certificate lacks what.
    `false` trusts those too. Chain, dates and name are always verified."""

    @model_validator(mode="after")
    def _clients_need_a_port_with_tls(self) -> "OverallTlsSettings":
        if self.client_ca is not None and self.cert is None:
            raise ValueError("client_ca: needs cert and key, for the port to speak https")
        return self

    @property
    def port(self) -> PortCertificate | None:
        """The public port's certificate, or None: it speaks `http`."""
        if self.cert is None or self.key is None:
            return None
        return PortCertificate(cert=self.cert, key=self.key, client_ca=self.client_ca)


class MemoryLogSettings(SettingsBlock):
    """Finished runs that are kept for reconnects, per worker process."""

    runs: int = Field(default=1000, ge=1)
    """The most runs that are kept. The oldest are dropped first."""
    bytes: ByteSize = Field(default=ByteSize(64 * 1024 * 1024), ge=1024)
    """The most bytes that kept runs take, for example `64MiB`."""
    ttl_s: Seconds = 600
    """Seconds that a run is kept after its end, at most."""


class ValkeyLogSettings(SettingsBlock):
    """Runs shared by all replicas and workers, in Valkey or Redis (6.2 or later): one server, the primary
    that Sentinels name, nodes of a cluster, or several of these (`shards`)."""

    url: Annotated[SecretStr, AfterValidator(_store)] | None = None
    """`redis://USER:PASSWORD@HOST:PORT/DB`; `rediss://` for TLS, `unix://` for a socket. With Sentinels
    `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB`, or `rediss+sentinel://`: these are asked
    for the primary of `SERVICE`, with a login of their own, if `?sentinel_password=…` names one, and
    `sentinel_username=…`. `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`, or
    `rediss+cluster://`, names nodes of a cluster, one of which then has all keys, unless `nodes` says
    otherwise."""
    nodes: int = Field(default=1, ge=1, le=MAX_SHARDS)
    """Primaries of the cluster of `url` that users are spread over, each with its runs."""
    shards: dict[ShardName, Annotated[SecretStr, AfterValidator(_store)]] = Field(
        default={}, max_length=MAX_SHARDS
    )
    """In place of `url`, stores by names of your choice, as `{one: redis://…, two: redis://…}`: each has the
    runs of some users, chosen by a hash of the user and of the names. The same for all replicas. See
    [operate](../operate.md#several-stores) for how to add one."""
    key: SecretStr = Field(min_length=32)
    """Secret of 32 characters or more that encrypts everything in the store; the same for all replicas. To
    change it without losing a run, see [operate](../operate.md#another-key-for-the-store)."""
    other_keys: list[Annotated[SecretStr, Field(min_length=32)]] = Field(default=[], max_length=3)
    """Secrets that open values too, and seal none: while `key` is changed, that of before or that to come."""
    names_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Secret that the names of records, and the owners of runs, are derived from; it opens nothing. Without
    it, `key`. After a change, nobody finds the runs of before."""
    ca_file: Authorities | None = None
    """PEM file of authorities to trust beside the system's, for `rediss://`. `?ssl_ca_certs=` in the URL
    takes precedence."""
    prefix: str = Field(default="headgate", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """Start of every key's name, so that several Headgates can share one store."""
    ttl_s: Seconds = 600
    """Seconds that a run is kept after its end, at most."""
    bytes_of_user: ByteSize = Field(default=ByteSize(64 * 1024 * 1024), ge=1024)
    """Ended runs of one user are kept up to so many bytes, and 1000 of them. The oldest go first. Give the
    store memory for the users of `ttl_s`."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> "ValkeyLogSettings":
        if (self.url is None) == (not self.shards):
            raise ValueError("set url or shards, one of them")
        if self.nodes > 1 and not (self.url is not None and is_cluster(self.url.get_secret_value())):
            raise ValueError("nodes are those of a url with redis+cluster://")
        return self

    @property
    def places(self) -> list[StoreShard]:
        """The parts of the store; one, without a name, if it has none."""
        if self.url is None:
            urls = {name: url.get_secret_value() for name, url in self.shards.items()}
            return [StoreShard(name, url, key_prefix(url, self.prefix)) for name, url in urls.items()]
        url = self.url.get_secret_value()
        if self.nodes == 1:
            return [StoreShard("", url, key_prefix(url, self.prefix))]
        prefixes = key_prefixes(self.prefix, self.nodes)
        return [StoreShard(prefix.strip("{}"), url, prefix) for prefix in prefixes]


class EventLogSettings(SettingsBlock):
    """The place where runs keep their events."""

    memory: MemoryLogSettings = MemoryLogSettings()
    valkey: ValkeyLogSettings | None = None
    """A store that all replicas share, so that each can show the runs of all."""


class LogSettings(SettingsBlock):
    """The process's own log, on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`info` logs each request that matches a route; `debug` all requests."""


class LimitSettings(SettingsBlock):
    """Limits that all clients share, per worker process. Over a limit: 503 with `Retry-After`, counted in
    `headgate_over_budget_total`. The admin port has none."""

    connections: int = Field(default=10_000, ge=1)
    """Connections of clients, and as many again on the model port. Fewer where file descriptors do not
    suffice for these and the upstream's; some are reserved for the admin port."""
    connections_of_client: int = Field(default=2_500, ge=1)
    """Connections of one address. Where a proxy in front is believed (`trusted_proxies`, or `x_forwarded:
    append`), the address that it names counts, while its request is answered."""
    bodies: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), ge=1024)
    """Bytes of request bodies that are held, for runs too; for example `256MiB`. Relayed bodies are not held.
    As many again on the model port, with the streams that answers are made of: over it a call goes through as
    batch."""
    answers: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), ge=1024)
    """Bytes of copies of relayed answers, for comparing the arms and for clients that accept only events; and
    of the texts of `dark` requests.
    Without room an answer goes out as it came, unread, and counts as complete."""
    run_answers: ByteSize = Field(default=ByteSize(256 * 1024 * 1024), ge=1024)
    """Bytes of the answers of runs in flight, and of their live text. Near the limit requests get the batch
    answer (`overloaded`). Over it runs read on one after another, and show the rest of their text at the
    end."""


class TraceSettings(SettingsBlock):
    """Headgate's own spans, sent as OTLP. Needs Headgate's extra `traces`."""

    endpoint: Annotated[WebAddress, AfterValidator(_with_traces)]
    """Where spans are sent by OTLP over HTTP, for example `http://otel-collector:4318/v1/traces`."""
    headers: dict[HeaderName, SecretStr] = Field(default={})
    """Sent along, for example `authorization: ${OTLP_TOKEN}`."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Part of the requests without a trace context that are recorded. All others are as their context
    says."""
    service_name: str = Field(default="headgate", pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    """Name of the service in traces."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's."""


class CorsSettings(SettingsBlock):
    """Pages of other origins than this proxy's. What they may ask the upstream is its own affair."""

    origins: list[PageOrigin] = Field(default=[])
    """Origins whose pages may read runs, with their users' credentials. For these, the upstream's preflights
    do not have to know Headgate's own headers, and Headgate answers preflights under `/_headgate/` itself."""


class Settings(SettingsBlock):
    """The whole file."""

    listen: ListenAddress = "127.0.0.1:8080"
    """The address at which clients connect, or a Unix socket for a proxy on this machine:
    `unix:/run/headgate/headgate.sock`."""
    admin: Address = "127.0.0.1:9464"
    """The address at which operators connect: a page at `/`, and `/livez`, `/readyz`, `/metrics`, `/runs`,
    `/learned`, `/llm`, `/kill`. Never public."""
    admin_token: Annotated[SecretStr, AfterValidator(check_token)] | None = None
    """Bearer token for `POST /kill` and `DELETE /kill`, and for the warnings and settings of the operators'
    page, of 16 characters or more. Without it all of these are refused."""
    controller: Annotated[str, AfterValidator(_controller)] | None = None
    """The `listen` of a rollout's controller, as `http://HOST:9465`: the operators' page shows the rollout
    that its metrics show. It is asked while a page is open, and decides nothing here."""
    trusted_proxies: list[PeerNetwork] | None = Field(default=None, max_length=256)
    """Networks of the proxies in front, for example `[10.0.0.0/8, "fd00::/8"]`; `unix` is whoever connects by
    a Unix socket. What these say in `X-Forwarded-…` and `Forwarded` is believed, as far as their chain
    reaches. What all others say there is dropped. Headers that name the user (`identity.header`) are believed
    from these alone, too. Without it, everybody is believed, in `X-Forwarded-…` with `x_forwarded: append`.
    See [who the client is](../operate.md#who-the-client-is)."""
    upstream: UpstreamSettings
    flags: FlagSettings = FlagSettings()
    llm: LlmSettings | None = None
    """The model port, for the source `tap`."""
    identity: IdentitySettings = IdentitySettings()
    tls: OverallTlsSettings = OverallTlsSettings()
    proxy: EgressSettings = EgressSettings()
    event_log: EventLogSettings = EventLogSettings()
    log: LogSettings = LogSettings()
    traces: TraceSettings | None = None
    """Where Headgate's own spans go; without it there are none, and they cost nothing."""
    cors: CorsSettings = CorsSettings()
    attach: AttachSettings = AttachSettings()
    limits: LimitSettings = LimitSettings()
    client_keep_alive_s: Seconds = 75
    """Seconds after which an idle client connection is closed."""
    attach_wait_s: Annotated[float, Field(ge=0, le=60)] = 5
    """Seconds that a request for a run's events waits for the run to begin."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 20
    """Seconds that runs and answers get to finish after SIGTERM. Set it to your longest answer, and the grace
    period of the service manager to 10 seconds more."""
    routes: list[RouteSettings] = Field(default=[])
    """Endpoints that can stream; everything else is relayed."""

    @model_validator(mode="before")
    @classmethod
    def _flags_stand_beside_the_settings(cls, document: Any) -> Any:
        """A default that is made before the file is read would be relative to the working directory."""
        return {"flags": {}, **document} if isinstance(document, dict) else document

    @model_validator(mode="after")
    def _proxies_are_believed_or_not(self) -> "Settings":
        if self.trusted_proxies and self.upstream.forwarding.x_forwarded == "replace":
            raise ValueError(
                "trusted_proxies: what they say would be dropped by upstream.forwarding.x_forwarded "
                "'replace': leave that out, or make it 'append'"
            )
        return self

    @model_validator(mode="after")
    def _a_unix_socket_is_reached_straight(self) -> "Settings":
        if unix_path(self.upstream.url) is not None and self.proxy.upstream:
            raise ValueError(
                "proxy.upstream: no proxy reaches the Unix socket of upstream.url: leave it out, or make it "
                "false"
            )
        return self

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

    @model_validator(mode="after")
    def _authorities_of_all_are_those_of_each(self) -> "Settings":
        return self if self.tls.ca_file is None else with_authorities(self, self.tls.ca_file)


def _shape(match: str) -> str:
    return PARAMETER.sub("{}", match)
