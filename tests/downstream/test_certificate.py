"""The certificate of a port: a renewed one is there for the next connection."""

import os
import ssl
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from proxy.downstream import certificate
from proxy.downstream.certificate import PortTls
from tests.servers.authority import certificates


def shown(server: PortTls, ca_file: Path, version: ssl.TLSVersion | None = None) -> bytes | None:
    """The certificate that a client sees, in DER; it trusts the authority of the file alone."""
    client = ssl.create_default_context(cafile=ca_file)
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if version is not None:
        client.maximum_version = version
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    of_client = client.wrap_bio(back, there, server_hostname="127.0.0.1")
    of_server = server.context().wrap_bio(there, back, server_side=True)
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
    tls = PortTls(file, file)
    first = shown(tls, ca_file)

    whole = file.read_bytes()
    file.write_bytes(b"half")
    while_half = shown(tls, ca_file)
    ca_file, _ = certificates(tmp_path)
    renewed = shown(tls, ca_file)

    assert whole != file.read_bytes()
    assert first is not None and first == while_half
    assert renewed not in (None, first)


def test_a_key_with_a_passphrase_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenSSL would ask at the terminal, and everybody would wait. The former certificate stays."""
    monkeypatch.setattr(certificate, "LOOK_EACH_S", 0.0)
    ca_file, _ = certificates(tmp_path)
    cert, key = tmp_path / "server.pem", tmp_path / "key.pem"
    key.write_bytes(cert.read_bytes())
    tls = PortTls(cert, key)
    first = shown(tls, ca_file)

    read = serialization.load_pem_private_key(key.read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(read.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))

    assert shown(tls, ca_file) == first
    assert "pass phrase" not in "".join(capfd.readouterr())


def test_a_file_that_grows_within_one_tick_of_the_clock_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate may be read before those behind it are written; the file's time may then be the same."""
    monkeypatch.setattr(certificate, "LOOK_EACH_S", 0.0)
    certificates(tmp_path)
    file = tmp_path / "server.pem"
    tls = PortTls(file, file)
    first = tls.context()
    assert tls.context() is first

    was = file.stat()
    with file.open("ab") as written:
        written.write((tmp_path / "ca.pem").read_bytes())
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))

    assert tls.context() is not first


def entered(server: PortTls, client: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject | None:
    """The client's side of a connection that has been let in, and has read a byte; None: it was not."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    of_client = client.wrap_bio(back, there, session=session)
    of_server = server.context().wrap_bio(there, back, server_side=True)
    try:
        for _ in range(4):
            for each in (of_client, of_server):
                with suppress(ssl.SSLWantReadError):
                    each.do_handshake()
        of_server.write(b"x")
        of_client.read(1)
    except ssl.SSLError:
        return None
    return of_client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_the_authority_of_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """A client that was let in comes back with its session, by which it need not show its certificate. When
    `client_ca` is another's, it is not let in any more, with or without a session."""
    monkeypatch.setattr(certificate, "LOOK_EACH_S", 0.0)
    files = [tmp_path / name for name in ("own", "staff", "others")]
    for each in files:
        each.mkdir()
        certificates(each)
    own, staff, others = files
    client_ca = tmp_path / "client_ca.pem"
    client_ca.write_bytes((staff / "ca.pem").read_bytes())
    tls = PortTls(own / "server.pem", own / "server.pem", client_ca)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = client.maximum_version = version
    client.load_cert_chain(staff / "server.pem")

    first = entered(tls, client, None)
    assert first is not None
    again = entered(tls, client, first.session)
    client_ca.write_bytes((others / "ca.pem").read_bytes())
    assert again is not None
    assert entered(tls, client, again.session) is None
    assert entered(tls, client, first.session) is None
    assert entered(tls, client, None) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_whoever_client_ca_names_is_an_authority_root_or_not(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """One that another one has signed, without that one; a certificate of nobody that is named is refused."""
    files = [tmp_path / name for name in ("own", "staff", "others")]
    for each in files:
        each.mkdir()
        certificates(each)
    own, staff, others = (each / "server.pem" for each in files)
    tls = PortTls(own, own, staff)

    for file, is_in in ((staff, True), (others, False)):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.minimum_version = client.maximum_version = version
        client.load_cert_chain(file)
        assert (entered(tls, client, None) is not None) is is_in


def agreed(server: PortTls, ciphers: str, version: ssl.TLSVersion) -> ssl.SSLObject | None:
    """The client's side of a handshake with these ciphers and this version; None: there is none."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is tried
        client.minimum_version = client.maximum_version = version
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    of_client = client.wrap_bio(back, there)
    of_server = server.context().wrap_bio(there, back, server_side=True)
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
    tls = PortTls(tmp_path / "server.pem", tmp_path / "server.pem")

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        assert agreed(tls, "ALL", version) is None
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        connection = agreed(tls, "ALL", version)
        assert connection is not None
        assert connection.compression() is None
    assert tls.context().options & ssl.OP_NO_RENEGOTIATION
    assert tls.context().options & ssl.OP_NO_COMPRESSION


def test_each_cipher_is_forward_secret_and_authenticated(tmp_path: Path) -> None:
    """Of all that TLS 1.2 has, each offered alone."""
    certificates(tmp_path)
    tls = PortTls(tmp_path / "server.pem", tmp_path / "server.pem")
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
