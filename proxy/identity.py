"""The caller's identity: the principal that owns a run, and the flag context that decides about it.

Nothing of a credential is kept: a principal is a keyed hash, and it stays in this process.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flags.egress import STRAIGHT, Egress
from flags.tls import trusting, why
from proxy.http.headers import Headers
from proxy.settings.blocks.identity import IdentitySettings, JwtSettings

logger = logging.getLogger("headgate.identity")

BUCKETS = 16
"""User buckets of `headgate_outcomes_total`; their hash has nothing to do with the flags' hash."""

JWKS_S = 600.0
"""Seconds between two fetches of an issuer's keys."""

JWKS_RETRY_S = 10.0
"""The same after a failed fetch, and when a token names an unknown key: strangers can make up such names."""

JWKS_TIMEOUT_S = 10.0

MAX_TOKEN_BYTES = 16 * 1024

_BEARER = re.compile(r"bearer(?![!-~])", re.IGNORECASE)
_BEARER_TOKEN = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)
"""The credential of RFC 6750 2.1, where a tab is no space."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One user, as far as a request shows."""

    principal: str
    """Opaque; equal for requests of one user (verified) or one credential (not verified)."""
    user: str
    """`userId` of the flag context. Never logged, never a label."""
    session: str | None = None
    expires_at: float | None = None
    """The time at which the user's verified token ends, in seconds since the epoch; None: it does not say."""
    tenant: str | None = None
    """The user's tenant, if the settings say where requests name it. Never logged, never a label."""

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


def is_verified(settings: IdentitySettings) -> bool:
    """True if identities are proved: tokens are verified, the header comes from a trusted proxy, and there is
    no cookie, which any client can invent.
    """
    jwt = settings.jwt
    return settings.cookie is None and (jwt is None or jwt.verifies)


class Identifier:
    """Identifies the sender of a request, by token, header or cookie, in this order."""

    def __init__(
        self,
        settings: IdentitySettings,
        secret: bytes | None = None,
        *,
        strict_tls: bool = True,
        ways: Egress = STRAIGHT,
    ) -> None:
        self._ways = ways
        self._strict_tls = strict_tls
        self._secret = secret or os.urandom(32)
        self._keys: Mapping[str, Any] = {}
        self._key_is_missing = asyncio.Event()
        self._jwt = settings.jwt
        tenant = settings.tenant
        self._tenant_claim = tenant.claim if tenant else None
        self._tenant_header = tenant.header.lower().encode() if tenant and tenant.header else None
        self._of_proxies = settings.set_by_proxies
        self._methods: list[Callable[[Headers], Identity | None]] = []
        if settings.header is not None:
            self._header = settings.header.lower().encode()
            self._methods.append(self._by_header)
        if settings.cookie is not None:
            self._cookie = settings.cookie
            self._methods.append(self._by_cookie)

    def credentials(self, headers: Headers, *, names_its_user: bool) -> Headers:
        """Those to identify a sender by: without what proxies in front set, if the peer may not say it."""
        if names_its_user or not self._of_proxies:
            return headers
        return [pair for pair in headers if pair[0] not in self._of_proxies]

    def identify(self, headers: Headers) -> Identity | None:
        """The sender of these headers (names in lower case); None if it is unknown. Never raises."""
        identity = self._found(headers)
        if identity is not None and self._tenant_header is not None:
            return self._of_tenant(identity, _values(headers, self._tenant_header))
        return identity

    def _found(self, headers: Headers) -> Identity | None:
        bearers = _bearers(headers) if self._jwt is not None else []
        if bearers:
            token = _token_of(bearers)
            identity = None if token is None else self._by_token(token)
            # A token that cannot be read or verified identifies nobody, whatever else the request has.
            if identity is not None or token is None or self._verifies:
                return identity
        return next((found for method in self._methods if (found := method(headers)) is not None), None)

    def _of_tenant(self, identity: Identity, tenants: Sequence[object]) -> Identity | None:
        """The same user name in another tenant is another user. Two tenants, or a name that is no text,
        identify nobody.
        """
        if not tenants:
            return identity
        tenant = tenants[0]
        if len(tenants) > 1 or not isinstance(tenant, str):
            return None
        return replace(
            identity, principal=self._hash("tenant", f"{identity.principal}\n{tenant}"), tenant=tenant
        )

    def _by_token(self, token: str) -> Identity | None:
        assert self._jwt is not None
        try:
            claims = self._claims(token, self._jwt)
            identity = self._of_claims(token, claims, self._jwt)
            claimed = claims.get(self._tenant_claim) if self._tenant_claim is not None else None
            if identity is None or claimed is None:
                return identity
            return self._of_tenant(identity, [claimed])
        except Exception:  # noqa: BLE001 - claims that make the library fail identify nobody
            return None

    def _of_claims(self, token: str, claims: dict[str, Any], settings: JwtSettings) -> Identity | None:
        user = claims.get(settings.claim)
        if not isinstance(user, str) or not user.encode():  # fails for a lone surrogate
            return None
        if not self._verifies:
            return Identity(self._hash("token", token), user)
        principal = self._hash("user", repr((claims.get("iss"), user)))
        return Identity(principal, user, expires_at=_expiry(claims.get("exp"), settings.leeway_s))

    @property
    def _verifies(self) -> bool:
        return self._jwt is not None and self._jwt.verifies

    def _claims(self, token: str, settings: JwtSettings) -> dict[str, Any]:
        if not self._verifies:
            return unverified_claims(token)
        import jwt  # has been loaded at the start, for these settings

        key: Any
        if settings.key is not None:
            key = settings.key.get_secret_value()
        else:
            key = self._key_named(jwt.get_unverified_header(token).get("kid", ""))
        return jwt.decode(
            token,
            key,
            algorithms=settings.algorithms,
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=settings.leeway_s,
            options={"verify_aud": settings.audience is not None},
        )

    def _key_named(self, kid: str) -> Any:
        if kid not in self._keys:
            self._key_is_missing.set()  # the issuer may have begun to sign with it
        return self._keys[kid]

    def _by_header(self, headers: Headers) -> Identity | None:
        value = _single(headers, self._header)
        return Identity(self._hash("header", value), value) if value else None

    def _by_cookie(self, headers: Headers) -> Identity | None:
        value = _single(headers, b"cookie")
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

    async def keep_keys(self, *, retry_s: float = JWKS_RETRY_S) -> None:
        """Fetch the issuer's keys every `JWKS_S`, and when one is missing; at most once in `retry_s`."""
        while True:
            self._key_is_missing.clear()
            refreshed = await self.refresh_keys()
            await asyncio.sleep(retry_s)
            if refreshed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(JWKS_S - retry_s):
                        await self._key_is_missing.wait()

    async def refresh_keys(self) -> bool:
        """Fetch the issuer's keys, if there is a `jwks_url`. False: it failed, and the known keys stay."""
        if self._jwt is None or self._jwt.jwks_url is None:
            return True
        import httpx
        import jwt

        try:
            tls = trusting(self._jwt.ca_file, strict=self._strict_tls)
            proxy = self._ways.for_httpx(self._jwt.jwks_url)
            async with (
                asyncio.timeout(JWKS_TIMEOUT_S),  # of the whole; the client's is of each step
                httpx.AsyncClient(verify=tls, timeout=JWKS_TIMEOUT_S, trust_env=False, proxy=proxy) as client,
            ):
                answer = (await client.get(self._jwt.jwks_url)).raise_for_status()
            keys = jwt.PyJWKSet.from_dict(answer.json()).keys
        except Exception as exc:  # noqa: BLE001 - whatever the issuer sends, the next refresh must come
            logger.warning(
                "keys not refreshed", extra={"why": why(exc) + self._ways.through(self._jwt.jwks_url)}
            )
            return False
        self._keys = {key.key_id or "": key for key in keys}
        return True


def unverified_claims(token: str) -> dict[str, Any]:
    """The claims of a token as they stand there, whoever wrote them.

    PyJWT reads the same ones. It brings a library of ciphers along, for which there is nothing to do here.

    Raises:
        ValueError: it is no JWS of a JSON object, or relies on an extension.
    """
    signing_input, _, signature = token.encode().rpartition(b".")
    protected, _, payload = signing_input.partition(b".")
    header, _, claims = json.loads(_unpacked(protected)), _unpacked(signature), json.loads(_unpacked(payload))
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ValueError("not of JSON objects")
    if header.get("b64", True) is False or "crit" in header or not isinstance(header.get("kid", ""), str):
        raise ValueError("a header that is not to be read over")
    return claims


def _unpacked(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _expiry(exp: Any, leeway_s: float) -> float | None:
    """The time at which a verified token expires. One that has expired only by our clock gets the leeway."""
    if exp is None:
        return None
    end = float(exp)
    return end if end > time.time() else end + leeway_s


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _single(headers: Headers, name: bytes) -> str | None:
    """The value of a header that occurs once; None otherwise."""
    values = _values(headers, name)
    return values[0] if len(values) == 1 else None


def _bearers(headers: Headers) -> list[str]:
    """Every `Authorization`, if any of them has the scheme `Bearer`."""
    values = _values(headers, b"authorization")
    return values if any(_BEARER.match(value) for value in values) else []


def _token_of(bearers: Sequence[str]) -> str | None:
    """The only token; None if there are several, or it is malformed."""
    found = _BEARER_TOKEN.fullmatch(bearers[0]) if len(bearers) == 1 else None
    return found[1] if found is not None and len(found[1]) <= MAX_TOKEN_BYTES else None
