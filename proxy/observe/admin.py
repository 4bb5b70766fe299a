"""The admin port: health, metrics, counts, and the kill switch. Never public."""

import asyncio
import gzip
import hmac
import math
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import time
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flags.errors import KillSwitchError
from flags.sources.kill_switch import KillSwitch
from flags.sources.source import FlagSource
from proxy.errors import PROBLEM_TYPE
from proxy.http.accept import takes_gzip

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


class ShownEntry(Protocol):
    """A model that is asked for no streams."""

    def shown(self, now: float) -> dict[str, Any]: ...


class ModelDenylist(Protocol):
    """The models that are asked for no streams."""

    async def active(self) -> Iterable[ShownEntry]: ...


class ModelFields(Protocol):
    """Fields of providers' answers that no table has."""

    def shown(self) -> list[dict[str, Any]]: ...


class MetricsPages(Protocol):
    """The metrics of all processes."""

    def page(self, registry: CollectorRegistry) -> bytes | None:
        """The text of the page; None: it cannot be read just now."""


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin port, and what it shows."""

    registry: CollectorRegistry
    runs: RunCounts
    flag_source: FlagSource
    switch: KillSwitch
    token: SecretStr | None
    denylist: ModelDenylist | None = None
    """The denylist of the model port; None: there is no model port."""
    kept_fields: ModelFields | None = None
    """The unknown fields that the model port kept."""
    process_metrics: MetricsPages | None = None
    """The metrics of all processes; None: this process is the only one."""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/runs", self._runs),
                Route("/learned", self._learned),
                Route("/llm", self._llm),
                Route("/kill", self._guarded(self._switch), methods=["POST", "DELETE"]),
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
            "killed": self.flag_source.killed or self.switch.engaged,
            "kill_flag": self.flag_source.killed,
            "kill_switch": None if self.switch.order is None else self.switch.order.shown(),
            "flag_age_s": _finite(self.flag_source.age_s),
            "flags_stale": self.flag_source.stale,
            "flags_problem": self.flag_source.problem,
        }
        return JSONResponse(state, status_code=200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        if self.process_metrics is None:
            page: bytes | None = generate_latest(self.registry)
        else:
            page = await self._page(self.process_metrics)
        if page is None:
            return _problem(503, "The figures cannot be read just now.")
        headers = {"content-type": CONTENT_TYPE_LATEST, "vary": "accept-encoding"}
        if takes_gzip(request.headers.raw):
            headers["content-encoding"] = "gzip"
            page = gzip.compress(page, GZIP_LEVEL, mtime=0)
        return Response(page, headers=headers)

    async def _page(self, pages: MetricsPages) -> bytes | None:
        for _ in range(PAGE_TRIES):
            if (page := pages.page(self.registry)) is not None:
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
        entries = [] if self.denylist is None else await self.denylist.active()
        return JSONResponse({"learned": [entry.shown(time()) for entry in entries]})

    async def _llm(self, _: Request) -> Response:
        """Counts of the model port of this process."""
        fields = [] if self.kept_fields is None else self.kept_fields.shown()
        return JSONResponse({"kept_fields": fields, "process": os.getpid()})

    async def _switch(self, request: Request) -> Response:
        by = request.query_params.get("by") or f"somebody at {request.client.host if request.client else '?'}"
        return await (self._kill(request, by) if request.method == "POST" else self._unkill(by))

    async def _kill(self, request: Request, by: str) -> Response:
        reason = (await request.body())[:MAX_REASON_BYTES].decode(errors="replace")
        try:
            self.switch.engage(reason, by)
        except KillSwitchError:
            return _problem(500, "This process has stopped streaming, but the others could not be told.")
        return JSONResponse({"killed": True})

    async def _unkill(self, by: str) -> Response:
        try:
            self.switch.release(by)
        except KillSwitchError:
            return _problem(500, "The kill switch could not be released; streaming stays off.")
        return JSONResponse({"killed": self.flag_source.killed})

    def _guarded(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint, for callers with the admin token."""

        async def guarded(request: Request) -> Response:
            if self.token is None or not self.token.get_secret_value():  # an empty token is no secret
                return _problem(403, "Set admin_token to use the kill switch.")
            given = request.headers.get("authorization", "").encode("latin-1")
            expected = f"Bearer {self.token.get_secret_value()}".encode()
            if not hmac.compare_digest(given, expected):
                return _problem(
                    401, "The kill switch needs its bearer token.", {"www-authenticate": "Bearer"}
                )
            return await endpoint(request)

        return guarded


async def _not_allowed(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow", "").split(", ")
    allow = ", ".join(sorted(allowed, key=METHODS.index))
    return _problem(405, f"Here is only {allow}.", {"allow": allow})


def _finite(age_s: float) -> float | None:
    """Seconds, or None for infinity, which JSON does not have: flags that never came have no age."""
    return round(age_s, 1) if math.isfinite(age_s) else None


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type=PROBLEM_TYPE.decode())
