"""Encryption of the values in a store. No I/O.

AES-256-GCM (NIST SP 800-38D) under keys that HKDF (RFC 5869) derives from one secret: one key for each scope,
such as a run, so that random nonces never come near the 2³² of section 8.3. What a value is, and which number
it has, is authenticated with it: a value that was moved or changed cannot be opened.
"""

import hmac
import os
from collections.abc import Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
"""The first byte of every sealed value."""

NONCE_BYTES = 12


class Unsealable(ValueError):
    """Sealed with another key, as another value, or changed since. The message names no content."""


class Box:
    """Seals the values of one scope with one cipher, and opens what any of several has sealed."""

    __slots__ = ("_cipher", "_openers")

    def __init__(self, cipher: AESGCM, *others: AESGCM) -> None:
        self._cipher = cipher
        self._openers = (cipher, *others)

    def seal(self, kind: str, number: int, plain: bytes) -> bytes:
        """`plain` as the value of this kind with this number."""
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, plain, b"%b %d" % (kind.encode(), number))

    def open(self, kind: str, number: int, sealed: bytes) -> bytes:
        """The plain value.

        Raises:
            Unsealable: it was not sealed here as this kind with this number.
        """
        body = 1 + NONCE_BYTES
        if sealed[:1] != VERSION or len(sealed) < body:
            raise Unsealable(f"{kind} {number} is in no known form")
        what = b"%b %d" % (kind.encode(), number)
        for cipher in self._openers:
            with suppress(InvalidTag):
                return cipher.decrypt(sealed[1:body], sealed[body:], what)
        raise Unsealable(f"{kind} {number} cannot be opened")


class Sealing:
    """Everything that is derived from the secrets of the settings; keys are as hard to guess as they are.

    Args:
        secret: seals, and opens.
        others: open what replicas with another secret seal, while it is changed.
        names: for names, and for what else all replicas must agree on; None: `secret`.
    """

    def __init__(self, secret: str, others: Sequence[str] = (), names: str | None = None) -> None:
        self._secrets = [each.encode() for each in (secret, *others)]
        self._agreed = (secret if names is None else names).encode()
        self._names = _derived(self._agreed, "names")

    def box(self, scope: str) -> Box:
        """The box of one scope's values. Making one costs about 20 µs: keep it."""
        return Box(*(AESGCM(_derived(secret, f"values {scope}")) for secret in self._secrets))

    def secret(self, purpose: str) -> bytes:
        """32 bytes for another purpose that all replicas must agree on."""
        return _derived(self._agreed, purpose)

    def name(self, value: str) -> str:
        """32 hexadecimal digits: equal for equal values, and they say nothing about the value."""
        return hmac.digest(self._names, value.encode(), "sha256")[:16].hex()


def _derived(secret: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, None, b"headgate " + purpose.encode()).derive(secret)
