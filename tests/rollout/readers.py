"""Readers of a whole rollout: users of an unchanged frontend, at proxies that come and go."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.rollout.upstream import text_for
from proxy.text.sse import Decoder
from tests.servers.client import texts

USERS = 300
PER_S = 50.0
IN_FLIGHT = 200
AGAIN = 8
"""The most times that a reader asks for one answer: the API fails at times with or without us."""

ELSEWHERE = 0.5
"""Part of the streamed answers that are read at the other proxy, too."""

BACK_S = 120.0
"""The longest that a reader tries to come to a run at another proxy, or back to it."""

ASKED_S = 60.0
"""The longest wait for any part of an answer."""


@dataclass
class Readers:
    """Users of an unchanged frontend: who sees no whole answer asks again, for batch, as they did before."""

    urls: list[str]
    leaving: set[str] = field(default_factory=set)
    """Those that no request is sent to any more, as by a load balancer."""
    unheard: Counter[str] = field(default_factory=Counter)
    """Requests that a proxy has said nothing to yet."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers by `stream`, `batch`, or `asked again`."""
    noticed: set[int] = field(default_factory=set)
    """Users who saw a streamed answer break off."""
    wrong: list[str] = field(default_factory=list)
    unanswered: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Streams that were read at the proxy which did not make them: `too`, or `back` after a cut."""

    async def ask_until(self, stop: asyncio.Event) -> None:
        """Ask until `stop`; the last answers are waited for."""
        slots = asyncio.Semaphore(IN_FLIGHT)
        client = httpx.AsyncClient(
            timeout=ASKED_S, trust_env=False, verify=False, limits=httpx.Limits(max_connections=None)
        )
        async with client, asyncio.TaskGroup() as tasks:
            number = 0
            while not stop.is_set():
                number += 1
                await slots.acquire()
                asking = tasks.create_task(self._ask(client, random.randrange(USERS), number))
                asking.add_done_callback(lambda _: slots.release())
                await asyncio.sleep(random.expovariate(PER_S))

    async def _ask(self, client: httpx.AsyncClient, user: int, number: int) -> None:
        question = f"User {user} asks, number {number}:"
        accept = "text/event-stream, application/json"
        for attempt in range(AGAIN):
            kind, text = await self._answer(client, user, question, accept)
            if text is not None:
                self.answered["asked again" if attempt else kind] += 1
                if text != text_for(question):
                    self.wrong.append(f"{question} {text}")
                return
            if kind == "stream":
                self.noticed.add(user)
            accept = "application/json"
        self.unanswered += 1

    async def _answer(
        self, client: httpx.AsyncClient, user: int, question: str, accept: str
    ) -> tuple[str, str | None]:
        """Return how an answer came, and its text; None where it is not whole."""
        at = random.choice([url for url in self.urls if url not in self.leaving])
        self.unheard[at] += 1
        sent = {"json": {"question": question}, "headers": {"accept": accept, "x-user": f"reader-{user}"}}
        async with client.stream("POST", f"{at}/answers", **sent) as response:
            self.unheard[at] -= 1
            content = await _until_cut(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return "batch", json.loads(content)["answer"] if response.is_success else None
        events, run = _events(content), response.headers["headgate-run"]
        others = [url for url in self.urls if url != at]
        if not _has_ended(events):
            events = await self._read(client, [*others, at], run, user)
            self.elsewhere["back"] += 1
        elif not self.leaving and random.random() < ELSEWHERE:
            found = await self._read(client, others, run, user)
            self.elsewhere["too"] += 1
            if texts(found) != texts(events):
                self.wrong.append(f"{question} {texts(found)}")
        return "stream", texts(events).get("answer") if events[-1]["type"] == "stream_done" else None

    async def _read(
        self, client: httpx.AsyncClient, urls: list[str], run: str, user: int
    ) -> list[dict[str, Any]]:
        """The events of a run, from the first of these proxies that has them whole."""
        async with asyncio.timeout(BACK_S):
            while True:
                for url in urls:
                    place, headers = f"{url}/_headgate/runs/{run}/events", {"x-user": f"reader-{user}"}
                    try:
                        async with client.stream("GET", place, headers=headers) as response:
                            events = _events(await _until_cut(response)) if response.is_success else []
                    except httpx.TransportError:  # it is away just now
                        continue
                    if _has_ended(events):
                        return events
                await asyncio.sleep(0.5)  # not sooner: others ask, too


async def _until_cut(response: httpx.Response) -> bytes:
    """What comes of an answer; all of it, unless it is a stream of a proxy that ends."""
    content = bytearray()
    is_stream = "headgate-run" in response.headers
    with suppress(*((httpx.RemoteProtocolError, httpx.ReadError) if is_stream else ())):
        async for part in response.aiter_bytes():
            content += part
    return bytes(content)


def _events(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in Decoder(max_event_bytes=1 << 20).feed(stream)]


def _has_ended(events: list[dict[str, Any]]) -> bool:
    return bool(events) and events[-1]["type"] in {"stream_done", "error"}
