"""A listening socket first, then the server: the address that is printed is one that answers."""

import socket

import click
import uvicorn
from uvicorn.supervisors import Multiprocess

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Port 0 takes a free one. The caller closes the socket."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    # Before any worker is up: what connects from now on waits in the backlog instead of being refused.
    listener.listen(BACKLOG)
    return listener


def serve(config: uvicorn.Config, *, name: str) -> None:
    """Serve until SIGTERM or SIGINT; open requests are finished first."""
    server = uvicorn.Server(config)
    with listen(config.host, config.port) as listener:
        host, port = listener.getsockname()
        click.echo(f"{name} listens on http://{host}:{port}")
        if config.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            server.run(sockets=[listener])
