"""The controller's way out of the house: a part of `policy.py`. No I/O."""

import ssl
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from flags.egress import Egress, Spared, from_environment, named, proxy_address
from flags.rollout.policy.value_types import Authorities, PolicyBlock, Secret, Yes
from flags.tls import trusting


def _spared(value: str) -> str:
    Spared.parse(value)
    return value


class ProxySettings(PolicyBlock):
    """The proxy between the controller and Unleash, Prometheus and the webhook. It is never on the way to
    Kubernetes, to the proxies' own pages, and to loopback."""

    url: Annotated[str, AfterValidator(proxy_address)] | None = None
    """Its address, `http://HOST:PORT` or `https://HOST:PORT`, without credentials. It wins: then
    `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment do not count."""
    environment: Yes = True
    """These variables count where `url` is not set."""
    username: Annotated[str, Field(pattern=r"^[!-9;-~]+$")] | None = None
    """The name for `url`, if the proxy wants one (Basic)."""
    password: Secret | None = None
    """The password for that. In the environment both stand in the address."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust for a proxy of `https`."""
    no_proxy: Annotated[tuple[Annotated[str, AfterValidator(_spared)], ...], Field(max_length=100)] = ()
    """Servers that are reached straight, beside those of `NO_PROXY` where that counts: a name (with all below
    it), an address, a network, each but the last with a port or without; `*` for all."""

    @field_validator("username")
    @classmethod
    def _of_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("url") is None:
            raise ValueError("is that for `url`, which is not set")
        return value

    @field_validator("password")
    @classmethod
    def _of_username(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if value is not None and info.data.get("username") is None:
            raise ValueError("needs `username`")
        return value

    def way(self, environment: Mapping[str, str], authorities: Authorities | None, *, strict: bool) -> Egress:
        """Return the way to each server.

        Args:
            environment: of this process.
            authorities: those of the whole policy.
            strict: see `tls.strict`.

        Raises:
            ValueError: for a variable that names no proxy.
        """

        def tls() -> ssl.SSLContext:
            return trusting(self.ca_file or authorities, strict=strict)

        if self.url is not None:
            password = "" if self.password is None else self.password.get_secret_value()
            return named(
                self.url, tls, username=self.username or "", password=password, no_proxy=self.no_proxy
            )
        return from_environment(environment if self.environment else {}, tls, no_proxy=self.no_proxy)
