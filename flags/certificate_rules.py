"""Which certificate breaks a rule of RFC 5280 that OpenSSL's strict mode holds it to. No I/O."""

from collections.abc import Callable, Iterable, Sequence

from cryptography import x509

MAX_NAME_CHARS = 200
"""The most characters of a certificate's subject in an error: the other side has written them."""


def _has(certificate: x509.Certificate, extension: type[x509.ExtensionType]) -> bool:
    return any(isinstance(found.value, extension) for found in certificate.extensions)


def _is_self_issued(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _constraints(certificate: x509.Certificate) -> Iterable[x509.Extension[x509.BasicConstraints]]:
    return (found for found in certificate.extensions if isinstance(found.value, x509.BasicConstraints))


def _is_authority(certificate: x509.Certificate) -> bool:
    return any(found.value.ca for found in _constraints(certificate))


def _unknown(certificate: x509.Certificate) -> bool:
    return False


_BREAKS: dict[int, Callable[[x509.Certificate], bool]] = {
    85: lambda found: not _is_self_issued(found) and not _has(found, x509.AuthorityKeyIdentifier),
    86: lambda found: _is_authority(found) and not _has(found, x509.SubjectKeyIdentifier),
    89: lambda found: _is_authority(found) and not any(part.critical for part in _constraints(found)),
    92: lambda found: _is_authority(found) and not _has(found, x509.KeyUsage),
}
"""Tests of a certificate, for the rules that are often broken, by OpenSSL's number of the rule."""


def breakers(rule: int, shown: Sequence[bytes], trusted: Sequence[bytes]) -> list[str]:
    """The names of the certificates that break a rule.

    Args:
        rule: OpenSSL's number of it.
        shown: the certificates that the other side has shown, in DER.
        trusted: those that one of them may have been issued by.
    """
    breaks = _BREAKS.get(rule, _unknown)
    certificates = [x509.load_der_x509_certificate(encoded) for encoded in shown]
    issuers = {certificate.issuer for certificate in certificates}
    above = map(x509.load_der_x509_certificate, trusted)
    seen = [*certificates, *(one for one in above if one.subject in issuers and one not in certificates)]
    return [_name(certificate) for certificate in seen if breaks(certificate)]


def _name(certificate: x509.Certificate) -> str:
    written = certificate.subject.rfc4514_string() or "one without a subject"
    return "".join(sign if sign.isprintable() else "?" for sign in written)[:MAX_NAME_CHARS]
