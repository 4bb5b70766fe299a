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


class PortTls:
    """TLS 1.2 or later, with the certificate that the files have when a connection is made.

    Each change of a file makes another context, so no session goes on that was begun under the files before:
    a session lets its client in without a look at its certificate.

    Args:
        cert: PEM file of the certificate and those between it and its authority.
        key: PEM file of its private key.
        client_ca: PEM file of the authorities of clients, each of which must then show a certificate.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: they have no certificate, or another one's key.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._files = (cert, key)
        self._client_ca = client_ca
        self._seen = self._stamps()
        self._looked_at = monotonic()
        self._context = self._loaded()

    def context(self) -> ssl.SSLContext:
        """For a new connection."""
        if monotonic() - self._looked_at >= LOOK_EACH_S:
            self._looked_at = monotonic()
            try:
                stamps = self._stamps()
                if stamps != self._seen:
                    self._context = self._loaded()
                    self._seen = stamps
            except (OSError, ssl.SSLError) as why:  # half written: the next connection looks again
                reason = why.reason if isinstance(why, ssl.SSLError) else None
                logger.warning("the certificate is not renewed", extra={"why": reason or type(why).__name__})
        return self._context

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(*self._files, password="")  # or OpenSSL asks a terminal, and all wait
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
            # As towards servers (`flags/tls.py`): whoever is named is trusted, root or not.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            # Of TLS 1.3: each session brings the next one, so a client would show its certificate only once.
            context.num_tickets = 0
        return context

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = [file.stat() for file in (*self._files, self._client_ca) if file is not None]
        # The size too: a file that was read half-written may be whole within the same tick of the clock.
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found]
