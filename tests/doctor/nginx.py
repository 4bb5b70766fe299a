"""A real nginx in front of a Headgate, with a port for each way to hold a stream back."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.ports import free_port
from tests.servers.programs import listening_program

CONF = """\
daemon off;
{user}
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    {servers}
}}
"""

WAYS = {
    "as it comes": "",
    "buffering": "proxy_ignore_headers X-Accel-Buffering;",
    "compressing": "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 1;",
    "cutting": "proxy_read_timeout 1s;",
    "closed": "deny all;",
}
"""The directives of the location, by a name."""


@asynccontextmanager
async def nginx(directory: Path, headgate: str) -> AsyncIterator[Mapping[str, str]]:
    """Addresses by the names of `WAYS`, until the block is left."""
    ports = {name: free_port() for name in WAYS}
    servers = [
        f"server {{ listen 127.0.0.1:{ports[name]}; location / {{ proxy_pass {headgate}; {way} }} }}"
        for name, way in WAYS.items()
    ]
    user = "user root;" if os.geteuid() == 0 else ""  # the directory is its maker's alone
    conf = directory / "nginx.conf"
    conf.write_text(CONF.format(user=user, dir=directory, servers="\n    ".join(servers)))
    command = ("nginx", "-e", str(directory / "error.log"), "-c", str(conf), "-p", str(directory))
    async with listening_program(command, ports["closed"], directory):
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
