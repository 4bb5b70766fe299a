"""What is only relayed is no ASGI call: a task for each request would cost as much as all the rest."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import START, route

PAGE = b"<!doctype html><html><head></head></html>"
HTML = b"content-type: text/html; charset=utf-8\r\n"
SETTINGS: dict[str, Any] = {
    "routes": [route(attach={})],
    "attach": {"inject": True, "pages": ["/page"]},
    "cors": {"origins": ["https://app.example"]},
    "identity": {"jwt": None, "header": "x-user"},
    "flags": flag_document(30),
}
POST = b"POST %b HTTP/1.1\r\nhost: a\r\n%bcontent-length: 2\r\n\r\n{}"
OF_USERS = [POST % (START.encode(), b"x-user: %d\r\n" % number) for number in range(20)]
RELAYED = {
    "of no route": [POST % (b"/other", b"")],
    "of a route, in each arm": OF_USERS,
    "of another origin": [POST % (b"/other", b"origin: https://app.example\r\n")],
    "a page": [b"GET /page HTTP/1.1\r\nhost: a\r\n\r\n"],
    "a model call": [POST % (b"/models/v1/chat/completions", b"")],
}


@pytest.mark.parametrize("what", RELAYED)
async def test_what_is_only_relayed_is_no_call(what: str, tmp_path: Path) -> None:
    """Whatever a request is of, the relay has it from its head on."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(PAGE, extra=HTML)

    made: list[str] = []

    def counting(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> Any:
        made.append(getattr(work, "__qualname__", type(work).__name__))  # compiled work has no name
        return asyncio.Task(work, loop=loop, **more)

    loop = asyncio.get_running_loop()
    async with ScriptedUpstream(script).running() as upstream:
        llm = {"listen": "127.0.0.1:0", "providers": [{"name": "models", "url": upstream.url}]}
        async with headgate(upstream.url, tmp_path, **SETTINGS, llm=llm) as gate:
            loop.set_task_factory(counting)
            try:
                async with talking(gate.model_url if what == "a model call" else gate.url) as client:
                    for request in RELAYED[what]:
                        assert (await client.ask(request)).status == 200
            finally:
                loop.set_task_factory(None)

    assert [name for name in made if "run_asgi" in name] == []
