"""The way out of the house: a part of `settings.py`."""

import ssl
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from flags.egress import Egress, Spared, from_environment, named, proxy_address
from flags.tls import trusting
from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.values import Authorities


def _spared(value: str) -> str:
    Spared.parse(value)
    return value


class EgressSettings(SettingsBlock):
    """The proxy between Headgate and others' servers: providers, Unleash, `jwks_url`, and what `doctor` asks.
    It is never on the way to Valkey and to loopback, and to the upstream only with `upstream`."""

    url: Annotated[str, AfterValidator(proxy_address)] | None = None
    """Its address, `http://HOST:PORT` or `https://HOST:PORT`, without credentials. It wins: then
    `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment do not count."""
    environment: bool = True
    """These variables count where `url` is not set."""
    username: Annotated[str, Field(pattern=r"^[!-9;-~]+$")] | None = None
    """The name for `url`, if the proxy wants one (Basic)."""
    password: SecretStr | None = None
    """The password for that, for example `${PROXY_PASSWORD}`. In the environment both stand in the
    address."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's, for a proxy of `https`."""
    no_proxy: list[Annotated[str, AfterValidator(_spared)]] = Field(default=[])
    """Servers that are reached straight, beside those of `NO_PROXY` where that counts: a name (with all below
    it), an address, a network (`10.0.0.0/8`), each but the last with a port or without; `*` for all."""
    upstream: bool = False
    """The way to the upstream goes through the proxy, too. For an upstream of `http` the proxy reads each
    request, and may not pass on upgrades such as WebSocket; the `Host` is the upstream's."""

    @model_validator(mode="after")
    def _credentials_have_a_proxy(self) -> "EgressSettings":
        if self.url is None and (self.username or self.password):
            raise ValueError("username and password are those of url, which is not set")
        if self.password and not self.username:
            raise ValueError("password needs username")
        return self

    def way(self, environment: Mapping[str, str], *, strict: bool) -> Egress:
        """Return the way to each server. Raises ValueError for a variable that names no proxy."""

        def tls() -> ssl.SSLContext:
            return trusting(self.ca_file, strict=strict)

        if self.url is not None:
            password = "" if self.password is None else self.password.get_secret_value()
            return named(
                self.url, tls, username=self.username or "", password=password, no_proxy=self.no_proxy
            )
        return from_environment(environment if self.environment else {}, tls, no_proxy=self.no_proxy)
