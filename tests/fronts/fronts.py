"""Real servers in front of a Headgate, each with its file of `examples/fronts/`."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.ports import free_port
from tests.servers.programs import listening_program

EXAMPLES = Path(__file__).parents[2] / "examples" / "fronts"

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {dir}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    include {conf};
}}
"""
"""What Debian's own nginx.conf does: it includes the file."""

CADDY = (
    "{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {dir}/caddy\n}}\nimport {conf}\n"
)
"""Nothing that a second Caddy on the machine would want too."""


@dataclass(frozen=True)
class Front:
    """A server, and what stands in its file for the places that a test chooses."""

    program: str
    file: str
    site: str
    here: str
    """What stands there for a loopback port."""
    certificate: str
    key: str | None
    """None: it is in the certificate's file."""
    argv: Callable[[Path, Path], list[str]]
    """By the file and a directory of the run."""


def _nginx(conf: Path, directory: Path) -> list[str]:
    whole = directory / "whole.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the directory is its maker's alone
    whole.write_text(NGINX.format(user=user, dir=directory, conf=conf))
    return ["nginx", "-e", "stderr", "-c", str(whole), "-p", str(directory)]


def _caddy(conf: Path, directory: Path) -> list[str]:
    whole = directory / "whole"
    whole.write_text(CADDY.format(dir=directory, conf=conf))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(whole)]


def _haproxy(conf: Path, directory: Path) -> list[str]:
    return ["haproxy", "-W", "-f", str(conf)]


TLS = "/etc/headgate"
FRONTS = {
    "nginx": Front(
        "nginx",
        "nginx.conf",
        "listen 443",
        "listen 127.0.0.1:{port}",
        f"{TLS}/cert.pem",
        f"{TLS}/key.pem",
        _nginx,
    ),
    "Caddy": Front(
        "caddy",
        "Caddyfile",
        "clinic.example:443 {",
        "127.0.0.1:{port} {{\n\tbind 127.0.0.1",
        f"{TLS}/cert.pem",
        f"{TLS}/key.pem",
        _caddy,
    ),
    "HAProxy": Front(
        "haproxy",
        "haproxy.cfg",
        "bind :443",
        "bind 127.0.0.1:{port}",
        f"{TLS}/cert-and-key.pem",
        None,
        _haproxy,
    ),
}


@asynccontextmanager
async def in_front(front: Front, directory: Path, headgate: str, certificate: Path) -> AsyncIterator[str]:
    """The front's address, until the block is left.

    Args:
        headgate: its `http://` address.
        certificate: of 127.0.0.1, with its key in the same file.
    """
    port = free_port()
    places = {
        front.site: front.here.format(port=port),
        front.certificate: str(certificate),
        "127.0.0.1:8080": headgate.removeprefix("http://"),
    }
    if front.key is not None:
        places[front.key] = str(certificate)
    text = (EXAMPLES / front.file).read_text()
    for place, chosen in places.items():
        assert text.count(place) == 1, place
        text = text.replace(place, chosen)
    conf = directory / front.file
    conf.write_text(text)
    async with listening_program(front.argv(conf, directory), port, directory):
        yield f"https://127.0.0.1:{port}"
