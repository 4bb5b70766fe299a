"""The sockets that Headgate listens on."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from proxy.settings.settings import Settings
from proxy.workers.sockets import bound
from tests.servers.ports import free_port

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def settings() -> Settings:
    """With all three ports."""
    listen, admin, model = (f"127.0.0.1:{free_port()}" for _ in range(3))
    provider = {"name": "models", "url": "http://127.0.0.1:1"}
    return Settings.model_validate(
        {
            "listen": listen,
            "admin": admin,
            "upstream": {"url": "http://127.0.0.1:1"},
            "flags": {"file": "flags.json"},
            "llm": {"listen": model, "providers": [provider]},
        }
    )


@pytest.mark.parametrize("new_loop", LOOPS)
def test_what_is_written_to_a_client_does_not_wait_for_more(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """TCP_NODELAY on every accepted connection of every port, whichever loop accepts it."""

    async def options() -> list[int]:
        found = []
        with bound(settings()) as sockets:
            for listening in (sockets.public, sockets.admin, sockets.model):
                assert listening is not None
                accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

                async def look(
                    _: asyncio.StreamReader,
                    writer: asyncio.StreamWriter,
                    accepted: asyncio.Future[int] = accepted,
                ) -> None:
                    connection = writer.get_extra_info("socket")
                    accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                    writer.close()

                async with await asyncio.start_server(look, sock=listening.dup()):
                    _, writer = await asyncio.open_connection(*listening.getsockname())
                    found.append(await asyncio.wait_for(accepted, 5))
                    writer.close()
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert [bool(on) for on in runner.run(options())] == [True, True, True]
