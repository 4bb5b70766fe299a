"""Who is asking: the principal that owns a run, and the flag context that decides about it.

Nothing of a credential is kept: a principal is a keyed hash, and it stays in this process.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import jwt

from flags.tls import strictly, why
from proxy.headers import Headers
from proxy.settings import IdentitySettings, JwtSettings

logger = logging.getLogger("headgate.identity")

BUCKETS = 16
"""User buckets of `headgate_outcomes_total`; their hash has nothing to do with the flags' hash."""

JWKS_S = 600.0
"""Seconds between two fetches of an issuer's keys."""

JWKS_RETRY_S = 10.0
"""The same after a fetch that failed."""

JWKS_TIMEOUT_S = 10.0

MAX_TOKEN_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody."""

    principal: str
    """Opaque; equal for requests of one user (verified) or one credential (not verified)."""
    user: str
    """`userId` of the flag context. Never logged, never a label."""
    session: str | None = None
    expires_at: float | None = None
    """When its token ends, in seconds since the epoch, if a verified one says so."""
    tenant: str | None = None
    """Whose user it is, as far as the settings say where that stands. Never logged, never a label."""

    @property
    def bucket(self) -> int:
        digest = hashlib.blake2b(self.user.encode(), digest_size=2, person=b"headgate-bucket").digest()
        return int.from_bytes(digest, "big") % BUCKETS

    def context(self, route: str) -> dict[str, Any]:
        """The Unleash context of a request."""
        context: dict[str, Any] = {"userId": self.user, "properties": {"route": route}}
        if self.tenant is not None:
            context["properties"]["tenant"] = self.tenant
        if self.session is not None:
            context["sessionId"] = self.session
        return context


class Identifier:
    """Finds out who sent a request, by the settings' ways in order: token, header, cookie."""

    def __init__(
        self, settings: IdentitySettings, secret: bytes | None = None, *, strict_tls: bool = True
    ) -> None:
        self._strict_tls = strict_tls
        self._secret = secret or os.urandom(32)
        self._keys: Mapping[str, Any] = {}
        self._jwt = settings.jwt
        tenant = settings.tenant
        self._tenant_claim = tenant.claim if tenant else None
        self._tenant_header = tenant.header.lower().encode() if tenant and tenant.header else None
        self._ways: list[Callable[[Headers], Identity | None]] = []
        if settings.jwt is not None:
            self._ways.append(self._by_token)
        if settings.header is not None:
            self._header = settings.header.lower().encode()
            self._ways.append(self._by_header)
        if settings.cookie is not None:
            self._cookie = settings.cookie
            self._ways.append(self._by_cookie)

    def identify(self, headers: Headers) -> Identity | None:
        """Who sent these headers (names in lower case); None if that cannot be said. Never raises."""
        if self._verifies and _bearer(headers) is not None:
            identity = self._by_token(headers)  # one that does not verify is nobody's, whatever else is there
        else:
            identity = next((found for way in self._ways if (found := way(headers)) is not None), None)
        if identity is not None and self._tenant_header is not None:
            return self._of_tenant(identity, _only(headers, self._tenant_header))
        return identity

    def _of_tenant(self, identity: Identity, tenant: str | None) -> Identity:
        """User 7 of one tenant is another one's user 7 only by name."""
        if tenant is None:
            return identity
        return replace(
            identity, principal=self._hash("tenant", f"{identity.principal}\n{tenant}"), tenant=tenant
        )

    def _by_token(self, headers: Headers) -> Identity | None:
        assert self._jwt is not None
        token = _bearer(headers)
        if token is None:
            return None
        try:
            claims = self._claims(token, self._jwt)
            user = claims.get(self._jwt.claim)
            if not isinstance(user, str) or not user.encode():  # a lone surrogate is nobody's name
                return None
        except (jwt.PyJWTError, KeyError, ValueError, RecursionError):
            return None
        claimed = claims.get(self._tenant_claim) if self._tenant_claim is not None else None
        tenant = claimed if isinstance(claimed, str) else None
        if not self._verifies:
            return Identity(self._hash("token", token), user, tenant=tenant)
        expires_at = claims.get("exp")
        identity = Identity(
            self._hash("user", repr((claims.get("iss"), user))),
            user,
            expires_at=float(expires_at) if expires_at is not None else None,
        )
        return self._of_tenant(identity, tenant)

    @property
    def _verifies(self) -> bool:
        return self._jwt is not None and (self._jwt.key is not None or self._jwt.jwks_url is not None)

    def _claims(self, token: str, settings: JwtSettings) -> dict[str, Any]:
        if not self._verifies:
            return jwt.decode(token, options={"verify_signature": False})
        key: Any
        if settings.key is not None:
            key = settings.key.get_secret_value()
        else:
            key = self._keys[jwt.get_unverified_header(token).get("kid", "")]
        return jwt.decode(
            token,
            key,
            algorithms=settings.algorithms,
            audience=settings.audience,
            issuer=settings.issuer,
            options={"verify_aud": settings.audience is not None},
        )

    def _by_header(self, headers: Headers) -> Identity | None:
        value = _only(headers, self._header)
        return Identity(self._hash("header", value), value) if value else None

    def _by_cookie(self, headers: Headers) -> Identity | None:
        value = _only(headers, b"cookie")
        if value is None:
            return None
        pairs = (pair.strip().partition("=") for pair in value.split(";"))
        # As RFC 6265 5.4 writes them; `http.cookies` gives up at the first cookie it does not like.
        values = [content for name, _, content in pairs if name == self._cookie]
        if len(values) != 1 or not values[0]:
            return None
        user = hashlib.sha256(values[0].encode()).hexdigest()
        return Identity(self._hash("cookie", values[0]), user, session=user)

    def _hash(self, kind: str, value: str) -> str:
        return hmac.new(self._secret, f"{kind}\n{value}".encode(), "sha256").hexdigest()

    async def refresh_keys(self) -> bool:
        """Fetch the issuer's keys, if there is a `jwks_url`. On failure, False, and the known keys stay."""
        if self._jwt is None or self._jwt.jwks_url is None:
            return True
        try:
            tls = strictly(httpx.create_ssl_context(), self._strict_tls)
            async with httpx.AsyncClient(verify=tls, timeout=JWKS_TIMEOUT_S) as client:
                answer = (await client.get(self._jwt.jwks_url)).raise_for_status()
            keys = jwt.PyJWKSet.from_dict(answer.json()).keys
        except Exception as exc:  # noqa: BLE001 - whatever the issuer sends, the next refresh must come
            logger.warning("keys not refreshed", extra={"why": why(exc)})
            return False
        self._keys = {key.key_id or "": key for key in keys}
        return True


def _only(headers: Headers, name: bytes) -> str | None:
    """The value of a header that stands there once; twice is nobody's."""
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def _bearer(headers: Headers) -> str | None:
    value = _only(headers, b"authorization")
    if value is None or len(value) > MAX_TOKEN_BYTES:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
