"""The certificate of a port: a renewed one is there for the next connection."""

import ssl
import warnings
from pathlib import Path

import pytest

from proxy.downstream import certificate
from proxy.downstream.certificate import server_tls
from tests.servers.authority import certificates


def shown(server: ssl.SSLContext, ca_file: Path, version: ssl.TLSVersion | None = None) -> bytes | None:
    """The certificate that a client sees, in DER; it trusts the authority of the file alone."""
    client = ssl.create_default_context(cafile=ca_file)
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if version is not None:
        client.maximum_version = version
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    of_client = client.wrap_bio(back, there, server_hostname="127.0.0.1")
    of_server = server.wrap_bio(there, back, server_side=True)
    waiting = [of_client, of_server]
    for _ in range(4):
        for each in list(waiting):
            try:
                each.do_handshake()
                waiting.remove(each)
            except ssl.SSLWantReadError:
                pass
    assert waiting == []
    return of_client.getpeercert(binary_form=True)


def test_a_renewed_certificate_is_for_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is whole, the former one stays."""
    monkeypatch.setattr(certificate, "LOOK_EACH_S", 0.0)
    ca_file, _ = certificates(tmp_path)
    file = tmp_path / "server.pem"
    tls = server_tls(file, file)
    first = shown(tls, ca_file)

    whole = file.read_bytes()
    file.write_bytes(b"half")
    while_half = shown(tls, ca_file)
    ca_file, _ = certificates(tmp_path)
    renewed = shown(tls, ca_file)

    assert whole != file.read_bytes()
    assert first is not None and first == while_half
    assert renewed not in (None, first)


def agreed(server: ssl.SSLContext, ciphers: str, version: ssl.TLSVersion) -> ssl.SSLObject | None:
    """The client's side of a handshake with these ciphers and this version; None: there is none."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is tried
        client.minimum_version = client.maximum_version = version
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    of_client = client.wrap_bio(back, there)
    of_server = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for each in (of_client, of_server):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return None
    return of_client


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    """Also to a client that takes any cipher."""
    certificates(tmp_path)
    tls = server_tls(tmp_path / "server.pem", tmp_path / "server.pem")

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        assert agreed(tls, "ALL", version) is None
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        connection = agreed(tls, "ALL", version)
        assert connection is not None
        assert connection.compression() is None
    assert tls.options & ssl.OP_NO_RENEGOTIATION
    assert tls.options & ssl.OP_NO_COMPRESSION


def test_each_cipher_is_forward_secret_and_authenticated(tmp_path: Path) -> None:
    """Of all that TLS 1.2 has, each offered alone."""
    certificates(tmp_path)
    tls = server_tls(tmp_path / "server.pem", tmp_path / "server.pem")
    every = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    every.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = [each["name"] for each in every.get_ciphers() if each["protocol"] != "TLSv1.3"]
    accepted = {name for name in names if agreed(tls, name, ssl.TLSVersion.TLSv1_2)}

    assert len(names) > 50
    assert accepted == {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    }
