"""The admin port: health, metrics, counts, and the kill switch. Never public."""

import asyncio
import gzip
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flags.errors import KillSwitchError
from proxy.http.accept import takes_gzip
from proxy.observe.page.guard import Guard, problem
from proxy.observe.page.served import OperatorsPage
from proxy.observe.page.state import PageState
from proxy.observe.stalls import LATE_S, StallWatch

PAGE_TRIES, PAGE_PAUSE_S = 100, 0.02
"""The most tries to read the metrics of all processes while those of a dead one are being archived, and the
seconds between two."""

METHODS = ("GET", "HEAD", "POST", "DELETE")
"""The methods, in the order of `Allow`."""

MAX_REASON_BYTES = 1024

GZIP_LEVEL = 1
"""A page of samples is a twelfth at level 1, and a thirteenth at level 6."""


class RunCounts(Protocol):
    """Counts of this process's runs."""

    draining: bool

    @property
    def kept(self) -> int: ...

    def live_routes(self) -> Iterable[str]: ...


Render = Callable[[CollectorRegistry], bytes]
"""Writes the page."""


class MetricsPages(Protocol):
    """The metrics of all processes."""

    def page(self, registry: CollectorRegistry, render: Render) -> bytes | None:
        """The text of the page; None: it cannot be read just now."""


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin port, and what it shows."""

    registry: CollectorRegistry
    runs: RunCounts
    page: OperatorsPage
    stalls: StallWatch
    token: SecretStr | None
    process_metrics: MetricsPages | None = None
    """The metrics of all processes; None: this process is the only one."""

    @property
    def state(self) -> PageState:
        return self.page.state

    def app(self) -> Starlette:
        guard = Guard(self.token)
        return Starlette(
            routes=[
                *self.page.routes(guard),
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/runs", self._runs),
                Route("/learned", self._learned),
                Route("/llm", self._llm),
                Route("/debug/stalls", guard("the list of stalls", self._stalls)),
                Route("/kill", guard("the kill switch", self._switch), methods=["POST", "DELETE"]),
            ],
            exception_handlers={405: _not_allowed},
        )

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _readyz(self, _: Request) -> Response:
        """Say if the process takes requests. The upstream is not asked: it may be silent because it is
        working."""
        ready = not self.runs.draining
        state = {
            "ready": ready,
            "draining": self.runs.draining,
            **self.state.killing(),
            **self.state.stores(),
        }
        return JSONResponse(state, status_code=200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        render, content_type = _form(request.headers.get("accept", ""))
        if self.process_metrics is None:
            page: bytes | None = render(self.registry)
        else:
            page = await self._page(self.process_metrics, render)
        if page is None:
            return problem(503, "The figures cannot be read just now.")
        headers = {"content-type": content_type, "vary": "accept, accept-encoding"}
        if takes_gzip(request.headers.raw):
            headers["content-encoding"] = "gzip"
            page = gzip.compress(page, GZIP_LEVEL, mtime=0)
        return Response(page, headers=headers)

    async def _page(self, pages: MetricsPages, render: Render) -> bytes | None:
        for _ in range(PAGE_TRIES):
            if (page := pages.page(self.registry, render)) is not None:
                return page
            await asyncio.sleep(PAGE_PAUSE_S)
        return None

    async def _runs(self, _: Request) -> Response:
        """Counts of this process, without content or users."""
        return JSONResponse(
            {
                "live": dict(Counter(self.runs.live_routes())),
                "kept": self.runs.kept,
                "process": os.getpid(),
                "tasks": len(asyncio.all_tasks()),
            }
        )

    async def _learned(self, _: Request) -> Response:
        """The denylist of all processes."""
        return JSONResponse({"learned": await self.state.learned()})

    async def _llm(self, _: Request) -> Response:
        """Counts of the model port of this process."""
        return JSONResponse({"kept_fields": self.state.kept(), "process": os.getpid()})

    async def _stalls(self, _: Request) -> Response:
        """The longest turns of this process's loop."""
        found = [stall.shown() for stall in self.stalls.longest()]
        return JSONResponse({"process": os.getpid(), "longer_than_s": LATE_S, "stalls": found})

    async def _switch(self, request: Request) -> Response:
        by = request.query_params.get("by") or f"somebody at {request.client.host if request.client else '?'}"
        return await (self._kill(request, by) if request.method == "POST" else self._unkill(by))

    async def _kill(self, request: Request, by: str) -> Response:
        reason = (await request.body())[:MAX_REASON_BYTES].decode(errors="replace")
        try:
            self.state.switch.engage(reason, by)
        except KillSwitchError:
            return problem(500, "This process has stopped streaming, but the others could not be told.")
        return JSONResponse({"killed": True})

    async def _unkill(self, by: str) -> Response:
        try:
            self.state.switch.release(by)
        except KillSwitchError:
            return problem(500, "The kill switch could not be released; streaming stays off.")
        return JSONResponse({"killed": self.state.flag_source.killed})


async def _not_allowed(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow", "").split(", ")
    allow = ", ".join(sorted(allowed, key=METHODS.index))
    return problem(405, f"Here is only {allow}.", {"allow": allow})


def _form(accept: str) -> tuple[Render, str]:
    """The page's form, and its type: OpenMetrics, which has exemplars, for who asks for it by name."""
    if "application/openmetrics-text" in accept:
        return openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest, CONTENT_TYPE_LATEST
