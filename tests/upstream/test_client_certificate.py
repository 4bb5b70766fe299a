"""An upstream that asks for a certificate of its clients gets `upstream.tls.cert`."""

import ssl
from pathlib import Path

import pytest

from tests.servers.authority import certificates
from tests.servers.client import browser
from tests.servers.scripted import ScriptedUpstream, ok
from tests.servers.serving import headgate


@pytest.mark.parametrize(("own", "status"), [(True, 200), (False, 502)])
async def test_the_upstream_sees_our_certificate(own: bool, status: int, tmp_path: Path) -> None:
    """Without one nothing is sent: the answer says that the service does not answer, and not why."""
    ca_file, tls = certificates(tmp_path)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(ca_file)
    file = str(tmp_path / "server.pem")
    settings = {"ca_file": str(ca_file)} | ({"cert": file, "key": file} if own else {})
    async with (
        ScriptedUpstream(ok, tls=tls).running() as upstream,
        headgate(upstream.url, tmp_path, upstream={"tls": settings}) as serving,
        browser(serving.url) as client,
    ):
        answer = await client.get("/")

    assert answer.status_code == status
    assert len(upstream.asked) == (1 if own else 0)
