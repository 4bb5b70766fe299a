"""An API that accepts work, and is asked until it is done; and the route of it."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.servers.client import eventually
from tests.servers.scripted import Asked
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, route

JOB = "/api/jobs/j-1"
RESULT = f"{JOB}/result"
LOCATION = b"location: /api/jobs/j-1\r\n"

STATES = {"status": "$.status", "running": ["queued", "running"], "done": ["done"], "failed": ["failed"]}

SECTIONS = [
    {
        "stage": "extraction",
        "at": "$.result.extraction",
        "poll_at": "$.parts[?@.name == 'extraction' && @.ready == true].text",
    },
    {"stage": "summary", "panel": "chat", "at": "$.result.summary", "poll_at": "$.summary"},
]


def job_route(job: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A route of the source `job`; `job` is put into its block."""
    block = {**STATES, "every_ms": 50, **(job or {})}
    return route(**{"source": "job", "job": block, "sections": SECTIONS, "commit_after": 0, **more})


def status(state: str = "running", *ready: str, **more: Any) -> dict[str, Any]:
    """A status in which the extraction is ready, or being written."""
    parts = [{"name": "extraction", "ready": "extraction" in ready, "text": EXTRACTION}]
    summary = {"summary": SUMMARY} if "summary" in ready else {}
    return {"id": "j-1", "status": state, "parts": parts, **summary, **more}


DONE = status("done", result=json.loads(answer())["result"])
"""With the result in it."""


@dataclass
class JobApi:
    """One job, which the test moves on. `done` is a status that ends it."""

    status: dict[str, Any] = field(default_factory=status)
    accept: Callable[[Asked], Awaitable[None]] | None = None
    """Answers the request in its own way."""
    look: Callable[[Asked], Awaitable[None]] | None = None
    """Answers looks at the status in its own way."""
    result: bytes = field(default_factory=answer)
    fetch: Callable[[Asked], Awaitable[None]] | None = None
    """Answers requests for the result in its own way."""
    cancel: Callable[[Asked], Awaitable[None]] | None = None
    """Answers DELETE in its own way."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        body = await asked.read_body()
        self.asked.append(asked)
        method, target = asked.head.split(b" ")[0].decode(), asked.target.decode()
        if method == "POST":
            await (self.accept or accepted)(asked)
        elif method == "DELETE":
            self.cancelled.set()
            await (self.cancel or answers(b"{}"))(asked)
        elif target.endswith("/result"):
            await (self.fetch or answers(self.result))(asked)
        else:
            assert not body
            await (self.look or self._look)(asked)

    async def _look(self, asked: Asked) -> None:
        await asked.answer(json.dumps(self.status).encode())

    @property
    def calls(self) -> Counter[str]:
        """Requests by method and path."""
        return Counter(b" ".join(asked.head.split(b" ")[:2]).decode() for asked in self.asked)

    @property
    def looks(self) -> int:
        return self.calls[f"GET {JOB}"]

    async def seen(self) -> None:
        """Wait until the status as it is now has been looked at."""
        looks = self.looks
        await eventually(lambda: self.looks >= looks + 2)


async def accepted(asked: Asked) -> None:
    await asked.answer(b'{"id": "j-1", "status": "queued"}', b"202 Accepted", LOCATION)


def answers(body: bytes, state: bytes = b"200 OK", extra: bytes = b"") -> Callable[[Asked], Awaitable[None]]:
    async def play(asked: Asked) -> None:
        await asked.answer(body, state, extra)

    return play


async def resets(asked: Asked) -> None:
    """Breaks off without a byte of an answer."""
    asked.writer.transport.abort()


def in_turn(*plays: Callable[[Asked], Awaitable[None]]) -> Callable[[Asked], Awaitable[None]]:
    """Each answers once, and the last one all that follow."""
    left = list(plays)

    async def play(asked: Asked) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked)

    return play
