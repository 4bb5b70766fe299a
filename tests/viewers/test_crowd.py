"""Ten thousand requests for what is Headgate's own, all of them sent before the first is answered."""

import asyncio
import re
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from tests.servers.client import read, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, answer, house, route

CONNECTIONS = 500
EACH = 20
"""Requests that a connection sends at once, one behind the other."""
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
PATIENCE_S = 300.0


async def upstream(asked: Asked) -> None:
    await asked.read_body()
    await asked.answer(b'{"hello": "there"}' if asked.target == b"/api/hello" else answer())


def request(target: str, headers: dict[str, str]) -> bytes:
    lines = [
        f"GET {target} HTTP/1.1",
        "host: headgate",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def ask(url: str, requests: list[bytes]) -> Counter[int]:
    """Return the number of answers by status."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"".join(requests))
        told = await reader.read(-1)
    finally:
        writer.close()
    return Counter(int(status) for status in STATUS.findall(told))


async def test_ten_thousand_requests_at_once_are_each_answered_and_hold_up_nobody(tmp_path: Path) -> None:
    """For the document of `attach.js`, the runs in flight, and a run's text in another dialect, of the run's
    owner, of others, and of nobody; a user who is relayed meanwhile is answered again and again.
    """
    routes: list[dict[str, Any]] = [route(attach={})]
    async with house(upstream, tmp_path, routes=routes, attach_wait_s=0.1) as (_, serving, client):
        run = (await read(client, START, signed())).headers["headgate-run"]
        events = f"/_headgate/runs/{run}/events?dialect="
        nobody: dict[str, str] = {}
        own, others = signed(accept=None), signed("bob", accept=None)
        asked = [
            *((200, request("/_headgate/attach.json", who)) for who in (own, others, nobody)),
            *((200, request("/_headgate/runs", who)) for who in (own, others, nobody)),
            *((200, request(events + dialect, own)) for dialect in ("openai", "ai-sdk", "ag-ui")),
            (404, request(events + "openai", others)),
            (404, request(events + "ag-ui", nobody)),
            (404, request(f"/_headgate/runs/{uuid.uuid4()}/events?dialect=openai", own)),
        ]
        told: Counter[int] = Counter()
        expected: Counter[int] = Counter()
        relayed: list[float] = []
        is_over = asyncio.Event()

        async def relay() -> None:
            while not is_over.is_set():
                began = time.monotonic()
                hello = await client.get("/api/hello", headers=own)
                assert (hello.status_code, hello.content) == (200, b'{"hello": "there"}')
                relayed.append(time.monotonic() - began)

        async def visit(number: int) -> None:
            chosen = [asked[(number + at) % len(asked)] for at in range(EACH)]
            expected.update(status for status, _ in chosen)
            last = chosen[-1][1][:-2] + b"connection: close\r\n\r\n"
            told.update(await ask(serving.url, [*(one for _, one in chosen[:-1]), last]))

        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            relaying = group.create_task(relay())
            async with asyncio.TaskGroup() as crowd:
                for number in range(CONNECTIONS):
                    crowd.create_task(visit(number))
            is_over.set()
            await relaying
        took_s = time.monotonic() - began

    assert told == expected
    assert told.total() == CONNECTIONS * EACH
    assert len(relayed) > 10
    assert max(relayed) < took_s / 2
