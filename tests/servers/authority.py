"""A certificate authority of one's own, complete or with something left out, as many hospitals' are."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

AUTHORITY = "test CA"
SERVER = "upstream"
LACKS = {
    "Authority Key Identifier": SERVER,
    "Subject Key Identifier": AUTHORITY,
    "Key Usage": AUTHORITY,
    "critical Basic Constraints": AUTHORITY,
}
"""The extensions that can be left out, and of whose certificate."""

_DAY = datetime.timedelta(days=1)
_PEM, _PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()


def certificates(
    directory: Path,
    *,
    without: str = "",
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    days: int = 1,
) -> tuple[Path, ssl.SSLContext]:
    """The authority's file, and a server's side with a certificate of it.

    Args:
        without: a key of `LACKS`.
        host: an address that the certificate is for.
        names: what else it is for.
        days: from now until it is no longer good.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER)])
    until = datetime.datetime.now(datetime.UTC) + days * _DAY
    started = x509.CertificateBuilder(issuer).serial_number(x509.random_serial_number())

    extensions = [
        ("Basic Constraints", x509.BasicConstraints(True, None), without != "critical Basic Constraints"),
        ("Key Usage", _usage(), True),
        ("Subject Key Identifier", x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False),
    ]
    authority = started.subject_name(issuer).public_key(ca_key.public_key())
    authority = authority.not_valid_before(until - 1000 * _DAY).not_valid_after(until + 1000 * _DAY)
    for name, extension, critical in extensions:
        if name != without:
            authority = authority.add_extension(extension, critical)

    server = started.subject_name(subject).public_key(key.public_key())
    server = server.not_valid_before(until - 500 * _DAY).not_valid_after(until)
    address = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(host)), *map(x509.DNSName, names)]
    )
    server = server.add_extension(x509.BasicConstraints(False, None), True).add_extension(address, False)
    if without != "Authority Key Identifier":
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        server = server.add_extension(identifier, False)

    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(authority.sign(ca_key, hashes.SHA256()).public_bytes(_PEM))
    server_file.write_bytes(
        key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _PLAIN)
        + server.sign(ca_key, hashes.SHA256()).public_bytes(_PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    return ca_file, context


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
