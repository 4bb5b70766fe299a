"""HS256 tokens: who a call is from. A token that was refused comes back as `Unauthorized`."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import jwt

from examples.clinic.refusals import Unauthorized

AUDIENCE = "authenticated"
DEMO_USERS = UUID("5b0c3f52-6f3e-4a52-9d0b-1c8f5a7f0e11")
"""Namespace of the made-up users: one name is always the same user."""


@dataclass(frozen=True)
class Caller:
    id: str
    email: str | None
    name: str | None


def read_authorization(header: str, secret: str) -> Caller:
    """The caller that `Bearer <token>` names; raises `Unauthorized`."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("Invalid authentication scheme")
    if not token.strip():
        raise Unauthorized("Token is missing")
    return _caller(_claims(token.strip(), secret))


def demo_token(name: str, secret: str, **claims: object) -> str:
    """A token of one hour for a made-up user; `claims` replace what it would say."""
    payload = {
        "sub": str(uuid5(DEMO_USERS, name)),
        "email": f"{name}@clinic.example",
        "user_metadata": {"name": name},
        "aud": AUDIENCE,
        "exp": datetime.now(UTC) + timedelta(hours=1),
    }
    return jwt.encode(payload | claims, secret, algorithm="HS256")


def _claims(token: str, secret: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token, secret, algorithms=["HS256"], audience=AUDIENCE, options={"require": ["exp"]}
        )
    except jwt.ExpiredSignatureError as exc:
        raise Unauthorized("Token has expired") from exc
    except jwt.PyJWTError as exc:
        raise _not_valid(exc) from exc


def _caller(claims: dict[str, Any]) -> Caller:
    try:
        user_id = UUID(claims["sub"])
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise _not_valid("the subject is not a UUID") from exc
    about = claims.get("user_metadata") or {}
    return Caller(str(user_id), claims.get("email"), about.get("name"))


def _not_valid(reason: object) -> Unauthorized:
    return Unauthorized(f"Could not validate credentials: {reason}")
