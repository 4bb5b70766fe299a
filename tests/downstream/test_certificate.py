"""The certificate of a port: a renewed one is there for the next connection."""

import ssl
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


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    ca_file, _ = certificates(tmp_path)
    tls = server_tls(tmp_path / "server.pem", tmp_path / "server.pem")

    assert shown(tls, ca_file, ssl.TLSVersion.TLSv1_2)
    assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
