"""How the upstream and its language models are reached: a part of `settings.py`."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from proxy.settings.block import SettingsBlock
from proxy.settings.values import Address, Name, Origin, ReadableFile, Seconds


def _mount(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)*/?", value) or not value.startswith("/"):
        raise ValueError("must be / or segments of letters, digits, '_', '.' and '-', for example /openai")
    return value


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

    ca_file: ReadableFile | None = None
    """PEM file of the authorities to trust instead of the system's."""
    verify: bool = True
    """Check the upstream's certificate and name. Turning it off lets anybody on the way read along."""


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

    url: Origin
    """Its origin, for example `http://127.0.0.1:8000`."""
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    pool: PoolSettings = PoolSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    upgrades: UpgradeSettings = UpgradeSettings()
    breaker: BreakerSettings = BreakerSettings()


class ProviderSettings(SettingsBlock):
    """Where the upstream's language model really is."""

    name: Name
    """Unique."""
    url: Origin
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
