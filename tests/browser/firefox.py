"""Firefox by WebDriver BiDi, over its own port: no driver beside it. What the tests need of it, and no more.

Source: W3C, https://www.w3.org/TR/webdriver-bidi/
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

FIREFOX = shutil.which("firefox-esr")
IN_FIREFOX = pytest.mark.skipif(FIREFOX is None, reason="firefox-esr is not installed")
PATIENCE_S = 120.0
"""For one command; it only guards against a browser that hangs."""

LISTENS = b"WebDriver BiDi listening on "


class FirefoxError(Exception):
    """A command failed, or the page threw."""


class Tab:
    """The one tab of a Firefox. `problems` are the console's errors, and exceptions that nobody caught."""

    def __init__(self, socket: ClientConnection) -> None:
        self.problems: list[str] = []
        self._socket = socket
        self._context = ""
        self._count = 0

    async def open(self) -> None:
        await self._command("session.new", capabilities={})
        await self._command("session.subscribe", events=["log.entryAdded"])
        tree = await self._command("browsingContext.getTree", maxDepth=0)
        self._context = tree["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        await self._command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def reload(self) -> None:
        await self._command("browsingContext.reload", context=self._context, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression or of its promise: anything that JSON has."""
        told = await self._command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        if told["type"] != "success":
            raise FirefoxError(told["exceptionDetails"]["text"])
        return json.loads(told["result"]["value"])

    async def until(self, condition: str) -> None:
        """Until an expression is true, looked at in every frame."""
        await self.evaluate(
            f"""new Promise((resolve) => {{
              const look = () => (({condition}) ? resolve() : requestAnimationFrame(look));
              look();
            }})"""
        )

    async def _command(self, method: str, **params: Any) -> Any:
        self._count += 1
        await self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                told = json.loads(await self._socket.recv())
                if told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
                    self.problems.append(told["params"]["text"])
                if told.get("id") == self._count:
                    break
        if told["type"] == "error":
            raise FirefoxError(f"{told['error']}: {told['message']}")
        return told["result"]


@asynccontextmanager
async def firefox() -> AsyncIterator[Tab]:
    """A Firefox that has seen nothing before; it is gone with its profile at the end."""
    assert FIREFOX is not None, "the mark skips these tests"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        drain = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while LISTENS not in (line := await process.stderr.readline()):
                    assert line, "Firefox ended before it listened"
            drain = asyncio.create_task(process.stderr.read())
            url = line.partition(LISTENS)[2].decode().strip()
            async with connect(f"{url}/session", max_size=None, ping_interval=None) as socket:
                tab = Tab(socket)
                await tab.open()
                yield tab
        finally:
            process.terminate()
            await process.wait()
            if drain is not None:
                await drain
