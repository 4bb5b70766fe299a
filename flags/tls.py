"""TLS towards others: one strictness on every Python, and errors that say whose certificate is refused, and
what mends it.

Python 3.13 began to hold certificates to the letter of RFC 5280 (`ssl.VERIFY_X509_STRICT`), which those of an
authority of one's own often miss. Strict or not: chain, dates and name are always verified.
"""

import ssl
import sys
from pathlib import Path

from flags.egress import is_refusal, refusal

SETTING = "tls.strict"

RULES = range(80, 95)
"""OpenSSL's numbers of what it checks in strict mode alone (`openssl/x509_vfy.h`)."""

_UNTRUSTED = (
    "nobody here trusts who signed it: the authority belongs into the ca_file of this server, or of all"
)
_NAME = "the settings must name the server as its certificate does"

MENDS = {
    **dict.fromkeys((2, 18, 19, 20, 21), _UNTRUSTED),
    9: "it is not valid yet, or this machine's clock is behind",
    10: "the server needs a new one, or this machine's clock is ahead",
    **dict.fromkeys((62, 64), _NAME),
    **dict.fromkeys(RULES, f"{SETTING}: false trusts certificates that are valid but for this"),
}
"""What mends a certificate that is refused, by OpenSSL's number of the reason."""


def strictly(context: ssl.SSLContext, strict: bool) -> ssl.SSLContext:
    """The same context, strict or not as given, whatever this Python's default is."""
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # The other default of Python 3.13: whoever stands in `ca_file` is trusted, root or not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.sslobject_class = _Handshake
    return context


def trusting(ca_file: Path | None, *, strict: bool) -> ssl.SSLContext:
    """A client's context.

    Args:
        ca_file: PEM file of the authorities to trust; None: those of the system, or of `SSL_CERT_FILE`.
        strict: see `strictly`.
    """
    return strictly(ssl.create_default_context(cafile=ca_file), strict)


def why(exc: BaseException) -> str:
    """The part of a failed call's error that may be told: a refused certificate or a proxy's refusal in
    words, else a class."""
    cause: BaseException | None = exc
    while cause is not None:
        if is_refusal(cause):
            return refusal(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(exc).__name__


class _Handshake(ssl.SSLObject):
    """Says in its error what is refused: OpenSSL's own names neither server, nor certificate, nor setting."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as exc:
            whose = self._broken(exc.verify_code) if exc.verify_code in RULES else []
            exc.strerror = _explained(self.server_hostname, exc, whose)
            raise

    def _broken(self, rule: int) -> list[str]:
        """Names of the certificates that break it; none if that cannot be said."""
        from flags.certificate_rules import breakers  # which nobody loads unless one is refused

        try:
            return breakers(rule, self._shown(), self.context.get_ca_certs(binary_form=True))
        except Exception:  # noqa: BLE001 - what cannot be read is refused all the same, without a name
            return []

    def _shown(self) -> list[bytes]:
        """The certificates that the other side has shown, in DER."""
        if sys.version_info >= (3, 13):
            return self.get_unverified_chain()
        else:  # written so, it is no unreachable code to a checker of types
            # Before 3.13 it has no public name; 2 is DER.
            chain = self._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            return [found.public_bytes(2) for found in chain]


def _explained(host: str | None, exc: ssl.SSLCertVerificationError, names: list[str]) -> str:
    whose = f" of {' and '.join(names)}" if names else ""
    mend = MENDS.get(exc.verify_code)
    what = f"certificate refused of {host or 'the server'}: {exc.verify_message.rstrip('.')}{whose}"
    return what if mend is None else f"{what}; {mend}"
