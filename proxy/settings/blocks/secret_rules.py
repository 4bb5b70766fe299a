"""Rules that secrets must fulfil. No message contains a value."""

from pydantic import SecretStr

MIN_TOKEN_CHARS = 16
"""The shortest bearer token that people choose: at a guess per millisecond, finding it takes too long for
anybody."""

MIN_HMAC_BYTES = 32
"""The shortest key that signs tokens (RFC 7518 3.2: as long as the hash). A shorter key can be found offline
from a single token."""

PEM = "-----BEGIN "


def check_token(value: SecretStr) -> SecretStr:
    """A bearer token. No client could send one with spaces around it."""
    token = value.get_secret_value()
    if token != token.strip():
        raise ValueError("must have no space or line break at its ends")
    if len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"must have {MIN_TOKEN_CHARS} characters or more: openssl rand -hex 32 makes some")
    return value


def check_algorithms(value: list[str]) -> list[str]:
    """Names of signature algorithms: at least one, and never `none`."""
    if not value:
        raise ValueError("must name one or more: without any, nothing verifies")
    import jwt  # only for who names algorithms, or a key

    for name in value:
        if name.lower() == "none":
            raise ValueError("must not have 'none': everybody could sign for everybody")
        if name not in jwt.algorithms.get_default_algorithms():
            raise ValueError("has one that is not known here; PyJWT's names are: HS256, RS256, ES256, …")
    return value


def check_key(value: SecretStr) -> SecretStr:
    """A key that verifies tokens: a public key in PEM, or a secret that is long enough."""
    text = value.get_secret_value().strip()
    if not text.startswith(PEM) and len(text.encode()) < MIN_HMAC_BYTES:
        raise ValueError(
            f"must have {MIN_HMAC_BYTES} bytes or more: a shorter secret is found from one token"
        )
    return value


def fits(key: SecretStr, algorithms: list[str]) -> bool:
    """True if a key fits any of the algorithms."""
    return any(_prepares(key.get_secret_value(), name) for name in algorithms)


def _prepares(key: str, algorithm: str) -> bool:
    import jwt

    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True
