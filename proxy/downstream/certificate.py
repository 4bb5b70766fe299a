"""The certificate of a port of ours. A renewed one is used for new connections, without a restart."""

import logging
import ssl
from pathlib import Path
from time import monotonic

logger = logging.getLogger("headgate.tls")

LOOK_EACH_S = 1.0
"""The least seconds between two looks at the files; a new connection causes a look."""


CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy, and authenticated encryption. Those of 1.3 all have both."""


def server_tls(cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or later, with the certificate that the files have at the time of each handshake.

    Args:
        cert: PEM file of the certificate and those between it and its authority.
        key: PEM file of its private key.
        client_ca: PEM file of the authorities of clients, each of which must then show a certificate.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: they have no certificate, or another one's key.
    """
    return _Certificate(cert, key, client_ca).context


class _Certificate:
    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._files = (cert, key)
        self._client_ca = client_ca
        self._seen = self._stamps()
        self._looked_at = monotonic()
        self.context = self._loaded()
        self.context.sni_callback = self._renew

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(*self._files)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
        return context

    def _stamps(self) -> list[tuple[int, int]]:
        found = [file.stat() for file in (*self._files, self._client_ca) if file is not None]
        return [(stat.st_mtime_ns, stat.st_ino) for stat in found]

    def _renew(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called within each handshake: take the new certificate, if there is one."""
        if monotonic() - self._looked_at >= LOOK_EACH_S:
            self._looked_at = monotonic()
            try:
                stamps = self._stamps()
                if stamps != self._seen:
                    self.context = self._loaded()
                    self._seen = stamps
            except (OSError, ssl.SSLError) as why:  # half written: the next connection looks again
                logger.warning("the certificate is not renewed", extra={"why": type(why).__name__})
        connection.context = self.context
