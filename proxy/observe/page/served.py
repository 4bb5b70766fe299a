"""The page at `/` of the admin port, its stream, and what it asks for with the admin token.

Without the token it shows what the port's other answers show: counts, health, shares. Warnings and settings
need the token.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.observe.page.board import Board, routes_of, summed, warnings_of
from proxy.observe.page.guard import Guard, problem
from proxy.observe.page.settings_in_force import in_force
from proxy.observe.page.state import PageState
from proxy.settings.settings import Settings
from proxy.text.sse import HEARTBEAT, one_line
from proxy.version import release

if TYPE_CHECKING:
    from proxy.observe.page.rollout import ControllerPage

EVERY_S = 1.0
"""Seconds between two events to a page, which needs no heartbeats therefore."""

KEEP_S = 2.0
"""Seconds after which a process leaves its figures for the others."""

MOST_WATCHERS = 16
"""Open pages of one process."""

HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(slots=True)
class OperatorsPage:
    """The page of one process. `keep` is its owner's to run, and `close` to call when the process drains."""

    board: Board
    state: PageState
    controller: "ControllerPage | None"
    """Shows the rollout; None: there is no controller."""
    settings: Settings
    watchers: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _made: tuple[float, bytes] = (-EVERY_S, b"")

    def routes(self, guard: Guard) -> list[Route]:
        """Its part of the admin port."""
        return [
            Route("/", self._page),
            Route("/now", self._now),
            Route("/warnings", guard("the list of warnings", self._warnings)),
            Route("/settings", guard("the list of settings", self._settings)),
        ]

    async def keep(self) -> None:
        """Leave figures for the other processes, until it is cancelled."""
        try:
            while True:
                self.board.keep()
                await asyncio.sleep(KEEP_S)
        finally:
            self.board.close()

    def close(self) -> None:
        """End all streams: the process is about to stop."""
        self._ended.set()

    async def _page(self, _: Request) -> Response:
        html, policy = PAGE
        headers = {**HEADERS, "content-security-policy": policy}
        return Response(html, headers=headers, media_type="text/html")

    async def _now(self, request: Request) -> Response:
        """Answer with what the page shows: once, or as a stream to a client that accepts events."""
        if "text/event-stream" not in request.headers.get("accept", ""):
            return Response(await self._figures(), headers=HEADERS, media_type="application/json")
        if self.watchers >= MOST_WATCHERS:
            return problem(503, "Too many pages are open.", {"retry-after": "10"})
        self.watchers += 1  # before the next of many requests that come at once is looked at
        headers = {**HEADERS, "x-accel-buffering": "no"}
        return _Stream(self, self._events(), headers=headers, media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        yield HEARTBEAT
        while not self._ended.is_set():
            yield b"data: %b\n\n" % one_line(await self._figures())
            try:
                await asyncio.wait_for(self._ended.wait(), EVERY_S)
            except TimeoutError:
                continue

    async def _figures(self) -> bytes:
        """Made once a second, however many look."""
        made_at, figures = self._made
        if monotonic() - made_at >= EVERY_S:
            figures = orjson.dumps(await self._shown())
            self._made = monotonic(), figures
        return figures

    async def _shown(self) -> dict[str, Any]:
        processes = self.board.all()
        counts = summed(processes)
        return {
            "at": round(time()),
            "version": release(),
            **await self.state.shown(),
            "processes": [_process(each) for each in processes],
            "routes": [
                {**route, **self.state.flag(route["flag"])}
                for route in routes_of(self.board.routes, processes)
            ],
            "providers": self._providers(counts),
            "rollout": None if self.controller is None else await self.controller.shown(),
            "warnings": sum(each["seen_warnings"] for each in (*processes, *self.board.parent())),
            "kill_needs_token": self.settings.admin_token is not None,
        }

    def _providers(self, counts: Mapping[tuple[str, ...], int]) -> list[dict[str, Any]]:
        providers = [] if self.settings.llm is None else self.settings.llm.providers
        return [
            {
                "name": each.name,
                "calls": {
                    key[2]: count for key, count in counts.items() if key[:2] == ("provider", each.name)
                },
            }
            for each in providers
        ]

    async def _warnings(self, _: Request) -> Response:
        return JSONResponse(
            {"warnings": warnings_of([*self.board.all(), *self.board.parent()])}, headers=HEADERS
        )

    async def _settings(self, _: Request) -> Response:
        body = orjson.dumps({"settings": list(in_force("", self.settings))})
        return Response(body, headers=HEADERS, media_type="application/json")


class _Stream(StreamingResponse):
    """A page's events. The page stops counting when its request ends, also if the stream never began."""

    def __init__(self, page: OperatorsPage, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._page.watchers -= 1


def _process(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("process", "began_at", "draining", "breaker")}


def _assembled() -> tuple[bytes, str]:
    """The page with its style and its script in it, and the policy that lets these run and nothing else."""
    folder = files("proxy.observe.page")
    parts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    html = (folder / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        html = html.replace(f"/* {name} */", text)
    style, script = (_digest(text) for text in parts.values())
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    return html.encode(), policy


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


PAGE = _assembled()
