"""Certificates of our own: what a port shows to its clients, and what we show to a server."""

import ssl
from pathlib import Path

from pydantic import model_validator

from proxy.settings.blocks.block import SettingsBlock
from proxy.settings.blocks.values import Authorities, ReadableFile


class OwnCertificate(SettingsBlock):
    """A certificate that may be set, and its key."""

    cert: ReadableFile | None = None
    """PEM file of the certificate to show, and of those between it and its authority."""
    key: ReadableFile | None = None
    """PEM file of its private key, without a passphrase."""

    @model_validator(mode="after")
    def _belong_together(self) -> "OwnCertificate":
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert, key: one needs the other")
        if self.cert is not None and self.key is not None:
            check_pair(self.cert, self.key)
        return self


class PortCertificate(SettingsBlock):
    """The certificate of a port, so that it speaks `https`. The files may be replaced while Headgate serves:
    new connections have the new certificate."""

    cert: ReadableFile
    """PEM file of the certificate and those between it and its authority."""
    key: ReadableFile
    """PEM file of its private key, without a passphrase."""
    client_ca: Authorities | None = None
    """PEM file of the authorities of clients. Each client must then show a certificate of one of them."""

    @model_validator(mode="after")
    def _belong_together(self) -> "PortCertificate":
        check_pair(self.cert, self.key)
        return self


def check_pair(cert: Path, key: Path) -> None:
    """Raises ValueError: the files have no certificate, or another one's key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as exc:
        if b"ENCRYPTED" in key.read_bytes():
            problem = "key: has a passphrase, and nobody is there to say it: write the key without one"
        else:
            problem = _PROBLEMS.get(exc.reason or "", "cert, key: not a certificate in PEM and its own key")
        raise ValueError(problem) from None


_ANOTHERS = "cert, key: the key is not that of the first certificate, which must be the one to show"
_PROBLEMS = {
    "KEY_VALUES_MISMATCH": _ANOTHERS,
    "NO_CERTIFICATE_ASSIGNED": _ANOTHERS,  # a key of another kind
    "EE_KEY_TOO_SMALL": "cert, key: too weak: this machine's OpenSSL wants a longer key",
}
"""What is wrong with a pair, by OpenSSL's reason."""
