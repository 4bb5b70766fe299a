"""Users who send requests through the proxy at a steady rate, and how these are answered."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field

import httpx

USERS = 600
PER_S = 60.0
IN_FLIGHT = 200
"""Requests at once, at most. When the proxy cannot keep up, visitors wait."""

TIMEOUT_S = 15.0
EVENTS = "text/event-stream"


@dataclass
class Visitors:
    """All visitors. `answers` counts whole answers as `streamed` or `batch`, and all others as `none`."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)

    async def ask_until(self, stop: asyncio.Event) -> None:
        """Send requests until `stop`, and wait for the last answers."""
        slots = asyncio.Semaphore(IN_FLIGHT)
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            while not stop.is_set():
                await slots.acquire()
                asking = tasks.create_task(self._ask(client))
                asking.add_done_callback(lambda _: slots.release())
                await asyncio.sleep(random.expovariate(PER_S))

    async def _ask(self, client: httpx.AsyncClient) -> None:
        user = random.randrange(USERS)
        headers = {"accept": f"{EVENTS}, application/json", "x-user": f"visitor-{user}"}
        try:
            response = await client.post("/answers", json={"question": "How is it going?"}, headers=headers)
        except httpx.HTTPError:
            self.answers["none"] += 1
            return
        streamed = response.headers.get("content-type", "").startswith(EVENTS)
        whole = _is_whole(response.text) if streamed else response.is_success
        self.answers[("streamed" if streamed else "batch") if whole else "none"] += 1


def _is_whole(events: str) -> bool:
    """True if a stream ended with the whole answer."""
    names = [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event: ")]
    if names:
        return "stream_done" in names
    found = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return any(event.get("type") == "stream_done" for event in found)
