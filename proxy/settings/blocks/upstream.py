"""The upstream and its language models, and the ways to reach them: a part of `settings.py`."""

import re
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.certificates import OwnCertificate, PortCertificate
from proxy.settings.blocks.values import Address, Name, Origin, ReadableFile, Seconds, UpstreamAddress


def _mount(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)*/?", value) or not value.startswith("/"):
        raise ValueError("must be / or segments of letters, digits, '_', '.' and '-', for example /openai")
    return value


def _with_its_extra(api: str) -> str:
    if api == "bedrock" and find_spec("botocore") is None:
        raise ValueError("bedrock needs an extra package: install headgate[bedrock], which is botocore")
    return api


class TimeoutSettings(SettingsBlock):
    """Seconds that each phase of a request to the upstream may take, measured at the upstream's own
    connection."""

    connect_s: Seconds = 5
    """Seconds to open a connection, TLS included. Over it: 502."""
    first_byte_s: Seconds | None = None
    """Seconds from the request sent to the answer's head. Over it: 504. This includes the time that a call
    waits for a free worker of the upstream, so the default is `total_s`."""
    idle_s: Seconds = 120
    """Between two reads of an answer's body, while Headgate is reading."""
    total_s: Seconds = 900
    """Seconds for one request and its answer, the time in the upstream's own queue included. Set it to more
    than the slowest answer times the number of calls at once for each of the upstream's workers."""


class TlsSettings(OwnCertificate):
    """Settings of TLS to an `https` server. One that asks for a certificate of its clients gets `cert`."""

    ca_file: ReadableFile | None = None
    """PEM file of the authorities to trust instead of the system's."""
    verify: bool = True
    """Check the upstream's certificate and name. With `false` anybody on the network path can read along."""


class PoolSettings(SettingsBlock):
    """Connections to the upstream, per worker process."""

    max_connections: int = Field(default=2048, ge=1)
    """Connections in use at once. Over it: 503. A streamed run holds one connection until it ends."""
    max_idle: int = Field(default=512, ge=0)
    """Idle connections that are kept open for later requests."""
    keep_alive_s: Seconds = 4
    """Idle connections are closed after this. Keep it below the upstream's own limit (uvicorn: 5 s)."""


class ForwardingSettings(SettingsBlock):
    """Headers that tell the upstream about the client."""

    x_forwarded: Literal["append", "replace", "off"] = "append"
    """`X-Forwarded-For`, `-Proto`, `-Host`. `append` adds to what a proxy in front has written: anybody,
    unless `trusted_proxies` says who may. `replace` drops what came: use it where clients reach Headgate
    directly."""
    forwarded: bool = False
    """Also append an element of `Forwarded` (RFC 7239)."""
    via: bool = False
    """Also append `Via: 1.1 headgate` to requests."""
    host: Literal["client", "upstream"] = "client"
    """The `Host` that the upstream sees. With `client` its redirects point where the client is."""


class BreakerSettings(SettingsBlock):
    """The circuit breaker: after repeated failures of the upstream no streams begin for a while, and
    everybody gets batch."""

    failures: int = Field(default=5, ge=1, le=1000)
    """Consecutive failed runs, of different callers, that open the breaker. Failures are connect, reset,
    timeout and 5xx."""
    window_s: Seconds = 60
    """Seconds within which these runs fail."""
    open_s: Seconds = 15
    """Seconds until one run tries the upstream again."""


class UpgradeSettings(SettingsBlock):
    """Connections that are upgraded to another protocol, for example WebSocket, per worker process."""

    idle_s: Seconds = 3600
    """Seconds without a byte in either direction. Over it the connection is cut. Clients that send pings
    never reach it."""
    total_s: Seconds = 86_400
    """Seconds that one connection may last. Over it the connection is cut."""
    max_open: int = Field(default=4096, ge=0)
    """Open at once, not counted in `pool.max_connections`. Over it: 503. Each takes two sockets."""


class UpstreamSettings(SettingsBlock):
    """The existing batch API."""

    url: UpstreamAddress
    """Its origin, for example `http://127.0.0.1:8000`, or its Unix socket: `unix:/run/app.sock`."""
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    upgrades: UpgradeSettings = UpgradeSettings()
    breaker: BreakerSettings = BreakerSettings()


class PriceSettings(SettingsBlock):
    """Prices of a model, in any currency, for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    """Of what the model reads; also of what it reads from a cache, which some sell for less."""
    output: Annotated[float, Field(ge=0)]
    """Of what it writes."""


class ModelSettings(SettingsBlock):
    """A model whose tokens are counted by its name."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """The model as the upstream's calls name it; the label `model` of metrics."""
    price: PriceSettings | None = None
    """Without it no cost is counted."""


OTHER_MODEL = "other"
"""The label `model` of all models that a provider's `models` do not name."""


class ProviderSettings(SettingsBlock):
    """A language model of the upstream, behind the model port."""

    name: Name
    """Unique."""
    url: Origin
    """Its origin, for example `https://api.openai.com`."""
    path: Annotated[str, AfterValidator(_mount)] | None = None
    """The part before the provider's own path in the base URL that the upstream uses. The default is `/NAME`:
    `http://HEADGATE:8090/openai/v1` for the provider `openai`. A single provider may have `/`."""
    api: Annotated[
        Literal["openai", "anthropic", "gemini", "ollama", "cohere", "bedrock"],
        AfterValidator(_with_its_extra),
    ] = "openai"
    """The shape of its API, see [dialects](dialects.md). `openai` is also the shape of Azure, DeepSeek and
    every compatible server; `gemini` is also Vertex AI's, with Anthropic's models there. `bedrock` needs
    Headgate's extra of that name."""
    models: list[ModelSettings] = Field(default=[], max_length=50)
    """Models that `headgate_tap_tokens` counts by name. All others are `other`."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """Before a stream's first text `first_byte_s` applies instead of `idle_s`: a thinking model gets as much
    time as for its batch answer."""
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()

    @model_validator(mode="after")
    def _models_are_told_apart(self) -> "ProviderSettings":
        names = [OTHER_MODEL, *(model.name for model in self.models)]
        if len(set(names)) < len(names):
            raise ValueError(f"models: two have the same name, or one has the name '{OTHER_MODEL}'")
        return self

    @property
    def mount(self) -> str:
        """`path` without a trailing slash."""
        return (f"/{self.name}" if self.path is None else self.path).rstrip("/")


class LlmSettings(SettingsBlock):
    """The model port, for the source `tap`. In the upstream's own settings, the base URL of its language
    model points here."""

    listen: Address = "127.0.0.1:8090"
    """The address at which the upstream connects. Never public: every call that comes here is passed on to
    the providers."""
    tls: PortCertificate | None = None
    """Makes it `https`, which AWS's SDKs want for a bearer key. Without it the port speaks `http`."""
    providers: Annotated[list[ProviderSettings], Field(min_length=1)]
    """The language models behind it."""
    ask_again: Literal["never", "unbilled", "always"] = "always"
    """A call is asked again as batch after its stream failed: even if tokens are paid twice (`always`), or
    only if no token has come (`unbilled`). Otherwise the upstream gets the error, and handles it as any
    other. Not every client of a model repeats a call by itself."""
    learned_s: Seconds = 86400
    """Seconds that a model is asked for no streams, by all workers and replicas, after a stream that no batch
    answer could be made of."""

    @model_validator(mode="after")
    def _providers_are_told_apart(self) -> "LlmSettings":
        for what in ("name", "mount"):
            seen = [getattr(provider, what) for provider in self.providers]
            if len(set(seen)) < len(seen):
                raise ValueError(f"providers: two have the same {'path' if what == 'mount' else what}")
        if any(provider.mount == "" for provider in self.providers) and len(self.providers) > 1:
            raise ValueError("providers: the path / is for a single one")
        return self
