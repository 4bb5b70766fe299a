"""A client of Headgate: what it says of itself, a stream that it reads piece by piece, how long it waits."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from proxy.text.sse import Decoder
from tests.servers.serving import token

PATIENCE_S = 60.0
"""Seconds that a test waits for what should come at once: a guard against hanging alone."""

SSE = "text/event-stream"
EITHER = "text/event-stream, application/json"


def signed(user: str = "ann", accept: str | None = SSE, **more: str) -> dict[str, str]:
    """Headers of a signed-in client."""
    headers = {"authorization": f"Bearer {token(user)}", **more}
    return headers if accept is None else {"accept": accept, **headers}


@asynccontextmanager
async def browser(url: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client with no manners of its own."""
    async with httpx.AsyncClient(
        base_url=url,
        timeout=PATIENCE_S,
        trust_env=False,
        verify=False,  # nothing here speaks TLS, and reading the authorities takes longer than most tests
        limits=httpx.Limits(max_connections=None),
    ) as client:
        yield client


class Stream:
    """A stream while it is read. `events` are the payloads, each with its `id`."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.raw = b""
        self.events: list[dict[str, Any]] = []
        self.retries: list[int] = []
        self._decoder = Decoder(max_event_bytes=1 << 25)
        self._pieces = response.aiter_raw()

    async def piece(self) -> bytes | None:
        """The next bytes; None at the end."""
        async with asyncio.timeout(PATIENCE_S):
            data = await anext(self._pieces, None)
        if data is not None:
            self.raw += data
            for event in self._decoder.feed(data):
                self.events.append({"id": event.id, **json.loads(event.data)})
                self.retries += [] if event.retry is None else [event.retry]
        return data

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event like this; reads on if it has not come yet."""
        async with asyncio.timeout(PATIENCE_S):  # of the whole: heartbeats come for ever
            while not (found := [event for event in self.events if wanted(event)]):
                assert await self.piece() is not None, f"the stream ended: {self.raw!r}"
        return found[0]

    async def rest(self) -> "Stream":
        while await self.piece() is not None:
            pass
        return self

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def run(self) -> str:
        return str(self.headers["headgate-run"])

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def texts(self) -> dict[str, str]:
        """Return what a reader ends up with, stage by stage."""
        return texts(self.events)


def texts(events: list[dict[str, Any]]) -> dict[str, str]:
    """Return what these events leave on the screen, stage by stage."""
    shown: dict[str, str] = {}
    for event in events:
        if event["type"] == "stage_start":
            assert event["stage"] not in shown
            shown[event["stage"]] = ""
        elif event["type"] == "content_chunk":
            shown[event["stage"]] += event["content"]
        elif event["type"] == "content_replace":
            shown[event["stage"]] = event["content"]
    return shown


@asynccontextmanager
async def opened(
    client: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    **more: Any,
) -> AsyncIterator[Stream]:
    async with client.stream(method, url, headers=headers, **more) as response:
        yield Stream(response)


async def read(
    client: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    **more: Any,
) -> Stream:
    """A whole stream, or whatever was answered instead."""
    async with opened(client, url, headers, method=method, **more) as stream:
        return await stream.rest()


async def eventually(
    true: Callable[[], bool] | Callable[[], Awaitable[bool]],
    within_s: float = PATIENCE_S,
    every_s: float = 0.01,
) -> None:
    """Wait until something is true. Looks every so many seconds, and less often after a while.

    A look takes time from what is waited for. It is late by a twentieth of the wait, a tenth of a second at
    most.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(within_s):
        while True:
            result = true()
            if (await result) if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(max(every_s, min(0.1, (loop.time() - began) / 20)))


async def scrape(client: httpx.AsyncClient, admin_url: str) -> dict[str, float]:
    """Every sample of `/metrics` by its name and labels, as they are written."""
    page = (await client.get(f"{admin_url}/metrics")).raise_for_status().text
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
