"""What a secret must be, so that it is one. Nothing here says a value."""

import jwt
from pydantic import SecretStr

MIN_TOKEN_CHARS = 16
"""Of a token that people choose; a guess a millisecond takes longer than anybody waits."""

MIN_HMAC_BYTES = 32
"""Of a key that signs tokens (RFC 7518 3.2: as long as the hash): a shorter one can be found at home, from
one token."""

PEM = "-----BEGIN "


def check_token(value: SecretStr) -> SecretStr:
    """A bearer token; one with spaces around it could be sent by no client."""
    token = value.get_secret_value()
    if token != token.strip():
        raise ValueError("must have no space or line break at its ends")
    if len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"must have {MIN_TOKEN_CHARS} characters or more: openssl rand -hex 32 makes some")
    return value


def check_algorithms(value: list[str]) -> list[str]:
    """Names of signature algorithms: at least one, and each one that proves something."""
    if not value:
        raise ValueError("must name one or more: without any, nothing verifies")
    for name in value:
        if name.lower() == "none":
            raise ValueError("must not have 'none': everybody could sign for everybody")
        if name not in jwt.algorithms.get_default_algorithms():
            raise ValueError("has one that is not known here; PyJWT's names are: HS256, RS256, ES256, …")
    return value


def check_key(value: SecretStr) -> SecretStr:
    """A key for tokens: a public one in PEM, which is no secret, or a secret that nobody finds."""
    text = value.get_secret_value().strip()
    if not text.startswith(PEM) and len(text.encode()) < MIN_HMAC_BYTES:
        raise ValueError(
            f"must have {MIN_HMAC_BYTES} bytes or more: a shorter secret is found from one token"
        )
    return value


def fits(key: SecretStr, algorithms: list[str]) -> bool:
    """Whether any token can be verified with a key."""
    return any(_prepares(key.get_secret_value(), name) for name in algorithms)


def _prepares(key: str, algorithm: str) -> bool:
    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True
