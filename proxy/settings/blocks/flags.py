"""The source of the flags: a part of `settings.py`."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.values import Authorities, File, Seconds, WebAddress


def _unleash(value: str) -> str:
    parts = urlsplit(value)
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


class UnleashSettings(SettingsBlock):
    """An Unleash server as the source of flags. Each worker process fetches for itself, and keeps the flags
    in memory. While the server is down, the last flags hold until they are stale. A process that never got
    flags gives everybody batch."""

    url: Annotated[WebAddress, AfterValidator(_unleash)]
    """The server's address as a browser shows it, for example `https://unleash.example.org`, without
    `/api`."""
    token: Annotated[SecretStr, AfterValidator(_token)]
    """Backend (client) token of one environment."""
    app_name: str = Field(default="headgate", pattern=r"^[A-Za-z0-9_.~-]{1,100}$")
    """The name under which Unleash lists this application."""
    refresh_s: Annotated[float, Field(ge=1, le=3600)] = 15
    """The most seconds between two fetches; a kill takes 2 s more. An overloaded server is asked less often,
    but at least once a minute."""
    timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 5
    """Seconds for one request to the server. At start the first flags are waited for no longer than this."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's."""


class FlagSettings(SettingsBlock):
    """Flags say which users get streams. They come from a file or from an Unleash server."""

    file: File | None = Field(default=Path("flags.json"), validate_default=True)
    """Unleash client-features JSON, relative to the settings file. A change is applied within 2 s. While the
    file is broken, the last good flags hold. Not together with `unleash`."""
    unleash: UnleashSettings | None = None
    """A server instead of the file."""
    kill_flag: str = "headgate.kill"
    """The flag that, when enabled, sends everybody to batch."""
    kill_file: File | None = None
    """The local kill switch is on while this file exists, so it outlives `serve`, and `touch` turns it on.
    Without this setting the switch goes off when `serve` ends."""
    stale_s: Seconds = 300
    """Seconds after which flags that could not be confirmed count as off: everybody gets batch."""
    settle_s: Annotated[float, Field(ge=0, le=3600)] = 150
    """Seconds from the start of a request until it counts in `headgate_outcomes_total`; one that ends later
    counts at its end. Set it longer than nearly all answers take, so that quick and slow ones are
    compared."""

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
