"""Settings of the caller's identity: a part of `settings.py`."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.secret_rules import check_algorithms, check_key, fits
from proxy.settings.blocks.values import Authorities, WebAddress


class JwtSettings(SettingsBlock):
    """A bearer token in `Authorization`."""

    claim: str = "sub"
    """The claim that names the user. Its value is the `userId` of the flag context."""
    key: Annotated[SecretStr, AfterValidator(check_key)] | None = None
    """Secret (HS256; 32 bytes or more) or PEM public key that verifies tokens. Without `key` and `jwks_url` a
    token is read but not verified. That is enough to choose an arm, since the upstream verifies the token
    anyway."""
    jwks_url: WebAddress | None = None
    """The address at which the issuer publishes its keys. They are fetched at start, every 10 minutes, and
    when a token names an unknown key, then at most once in 10 seconds."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's, for `jwks_url`."""
    algorithms: Annotated[list[str], AfterValidator(check_algorithms)] = Field(
        default=["HS256", "RS256", "ES256"]
    )
    """Accepted signature algorithms; never `none`."""
    audience: str | None = None
    """Required `aud`, where tokens are verified."""
    issuer: str | None = None
    """Required `iss`, where tokens are verified."""
    leeway_s: Annotated[float, Field(ge=0, le=600)] = 60
    """Seconds that clocks may differ. A verified token is accepted so long before its `nbf` and `iat`, and so
    long after its `exp`."""

    @property
    def verifies(self) -> bool:
        """True if tokens are verified."""
        return self.key is not None or self.jwks_url is not None

    @model_validator(mode="after")
    def _one_key(self) -> "JwtSettings":
        if self.key is not None and self.jwks_url is not None:
            raise ValueError("set key or jwks_url, not both")
        if self.key is not None and not fits(self.key, self.algorithms):
            raise ValueError("key: fits none of algorithms: HS256 takes a secret, RS256 a public key in PEM")
        return self


class TenantSettings(SettingsBlock):
    """The user's tenant: the property `tenant` of the flag context, for segments and constraints. Users of
    two tenants never share a run, even if they have the same name."""

    claim: str | None = None
    """A claim of the bearer token."""
    header: str | None = None
    """A header set by a proxy in front, for example `X-Tenant`. It is believed as `identity.header` is."""

    @model_validator(mode="after")
    def _one_place(self) -> "TenantSettings":
        if (self.claim is None) == (self.header is None):
            raise ValueError("set claim or header, one of them")
        return self


class IdentitySettings(SettingsBlock):
    """The ways to find the user of a request. The first way that finds one counts, in this order. A request
    without a user gets batch."""

    jwt: JwtSettings | None = JwtSettings()
    """A bearer token. `null` turns it off."""
    header: str | None = None
    """A header set by a proxy in front, for example `X-User-Id`. With `trusted_proxies` it is believed from
    those alone; without, from everybody: then clients must not reach Headgate past that proxy."""
    cookie: str | None = None
    """A session cookie. Its value is hashed, never kept."""
    tenant: TenantSettings | None = None
    """The place of the user's tenant, if flags use it."""

    @property
    def set_by_proxies(self) -> frozenset[bytes]:
        """The headers in which a proxy in front says who the user is; in lower case."""
        names = (self.header, self.tenant.header if self.tenant else None)
        return frozenset(name.lower().encode() for name in names if name is not None)
