"""The HTTP surface of runs, under `/_headgate/` on the public port: read one, look at it, end it.

A client that may not see a run gets the same answer as for a run that never was: 404.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs

import orjson

from proxy.errors import RequestRefused, StoreDown, problem
from proxy.http.asgi import Receive, Send
from proxy.http.framing import check_framing
from proxy.http.headers import Headers
from proxy.identity import Identifier, Identity
from proxy.observe.metrics import Metrics
from proxy.observe.spans.ports import REQUEST
from proxy.runs.runs import Runs
from proxy.runs.shared import ViewableRun
from proxy.text.event_log import LogReader
from proxy.viewers.batch_viewer import named
from proxy.viewers.clients import ViewerClient
from proxy.viewers.scripts import Scripts
from proxy.viewers.tickets import TICKET_S, Tickets
from proxy.viewers.translation import in_format
from proxy.viewers.viewer import STREAM_HEADERS, AsItIs, Viewer

MAX_TICKET_REQUEST_BYTES = 4096

CATCH_UP_S = 1.0
"""Seconds that a viewer waits whose cursor is ahead of a replica's copy of the log."""

RETRY_AFTER_S = b"5"

NO_SUCH_RUN = "There is no such run, or it is no longer kept. Please ask again."
STORE_SILENT = "The run may be at another replica, which cannot be told just now. Please try again."

RUNS = "/_headgate/runs"
RUN = f"{RUNS}/{{id}}"
EVENTS = f"{RUN}/events"
TICKETS = "/_headgate/tickets"
SCRIPT_METHODS = ("GET", "HEAD")

_WITHOUT_ID = {name.encode(): name for name in (RUNS, TICKETS)}
_RUN = re.compile(rb"/_headgate/runs/([0-9a-f-]{36})(/events)?")
_CURSOR = re.compile(r"([!-~]{1,64}?)(?:\.[0-9])?:([0-9]{1,9})")
"""An event's id, as `event_log.event_id` makes them. `int` refuses what has some thousand digits."""


class ApiClient(ViewerClient, Protocol):
    """The request of a client of the API: a `ClientRequest`."""

    @property
    def method(self) -> str: ...
    @property
    def version(self) -> str: ...
    def receive(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request to an endpoint. `run_id` is empty where the path has none."""

    run_id: str
    headers: Headers
    query: dict[str, list[str]]
    query_string: bytes
    client: ApiClient
    send: Send

    def one(self, name: str) -> str | None:
        """A query parameter that stands there once."""
        values = self.query.get(name, [])
        return values[0] if len(values) == 1 else None


class RunApi:
    """The endpoints, as one raw ASGI app."""

    def __init__(
        self,
        runs: Runs,
        identifier: Identifier,
        tickets: Tickets,
        metrics: Metrics,
        attach_wait_s: float,
        scripts: Scripts,
    ) -> None:
        self._scripts = scripts
        self._runs = runs
        self._identifier = identifier
        self._tickets = tickets
        self._metrics = metrics
        self._attach_wait_s = attach_wait_s

    async def __call__(self, client: ApiClient, headers: Headers, target: bytes, send: Send) -> None:
        """Answer a request. By its `headers` its sender is identified: the client may have sent others."""
        path, _, query = target.partition(b"?")
        if path in self._scripts.by_path:
            await self._script(path, client.method, headers, send)
            return
        found = _RUN.fullmatch(path)
        if found is None and path not in _WITHOUT_ID:
            await refuse(send, RequestRefused(404, "There is nothing of Headgate's at this path."))
            return
        endpoints = self.ENDPOINTS[_WITHOUT_ID[path] if found is None else EVENTS if found[2] else RUN]
        endpoint = endpoints.get(client.method)
        if endpoint is None:
            allowed = ", ".join(endpoints)
            await _refuse_method(send, allowed)
            return
        run_id = found[1].decode() if found is not None else ""
        parameters = parse_qs(query.decode("latin-1"), max_num_fields=20) if query.count(b"&") < 20 else {}
        try:
            check_framing(headers, client.version)
            await endpoint(self, ApiRequest(run_id, headers, parameters, query, client, send))
        except RequestRefused as refusal:
            await refuse(send, refusal)
        except StoreDown:
            await refuse(send, RequestRefused(503, STORE_SILENT))

    async def show(
        self,
        run: ViewableRun,
        identity: Identity | None,
        client: ViewerClient,
        send: Send,
        *,
        after: int | None = 0,
        as_it_is: AsItIs = AsItIs.FAILURE,
        is_translated: bool = False,
    ) -> str:
        """A run as events, from `after` on; None: from a snapshot on. Returns how it ended."""
        if has_all(run, after):
            # 204 tells EventSource not to come back (WHATWG HTML 9.2.3).
            await send({"type": "http.response.start", "status": 204, "headers": [named(run)]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return "nothing_more"
        expires_at: float | None = None
        if identity is not None and identity.expires_at is not None:
            expires_at = asyncio.get_running_loop().time() + identity.expires_at - time.time()
        link(run)
        metrics = self._metrics.by_route[run.route.name]
        viewer = Viewer(run, metrics, client, send, expires_at=expires_at, is_translated=is_translated)
        with self._runs.watching(viewer):
            return await viewer.serve(after=after, as_it_is=as_it_is)

    async def _script(self, path: bytes, method: str, headers: Headers, send: Send) -> None:
        if method in SCRIPT_METHODS:
            await self._scripts.answer(path, method, headers, send)
        else:
            await _refuse_method(send, ", ".join(SCRIPT_METHODS))

    async def _events(self, asked: ApiRequest) -> None:
        """The log: replay from the cursor, then live."""
        identity = await self._who(asked)
        run = await self._runs.attach(asked.run_id, identity, self._attach_wait_s)
        if run is None:
            raise RequestRefused(404, NO_SUCH_RUN)
        given = last_event(asked.headers) or asked.one("after")
        after = 0 if given is None else await position(run, given)
        translated = in_format(run, asked.headers, asked.query_string, asked.send)
        if translated is not None:
            after = after if has_all(run, after) else None
            await self.show(run, identity, asked.client, translated, after=after, is_translated=True)
            return
        as_it_is = AsItIs.NOTHING if asked.one("failure") == "event" else AsItIs.FAILURE
        await self.show(run, identity, asked.client, asked.send, after=after, as_it_is=as_it_is)

    async def _state(self, asked: ApiRequest) -> None:
        run = await self._of_owner(asked)
        body = orjson.dumps(
            {
                "run": run.id,
                "route": run.route.name,
                "decision": run.decision_header,
                "state": "running" if not run.log.ended else "failed" if run.failure else "complete",
                "error_code": run.failure.code if run.failure else None,
                "events": len(run.log),
                "has_content": run.log.has_content,
                "age_s": round(asyncio.get_running_loop().time() - run.started_at, 1),
            }
        )
        await _json(asked.send, 200, body, named(run))

    async def _list(self, asked: ApiRequest) -> None:
        """List the client's own runs in flight; an anonymous client has none."""
        runs = [
            {"run": run.id, "route": run.route, "age_s": round(run.age_s, 1)}
            for run in await self._runs.live_of(self._identifier.identify(asked.headers))
        ]
        await _json(asked.send, 200, orjson.dumps({"runs": runs}))

    async def _cancel(self, asked: ApiRequest) -> None:
        """End the run. One that has ended stays as it is, so that a late cancel does no harm."""
        run = await self._of_owner(asked)
        await self._runs.cancel(run)
        await _json(asked.send, 202, orjson.dumps({"run": run.id}), named(run))

    async def _issue_ticket(self, asked: ApiRequest) -> None:
        """A ticket for a run of one's own."""
        identity = self._identifier.identify(asked.headers)
        if identity is None:
            raise RequestRefused(401, "A ticket is for somebody: please sign in.")
        try:
            wanted = orjson.loads(await _small_body(asked.client.receive))
            run_id = wanted["run"]
        except (ValueError, KeyError, TypeError):
            run_id = None
        if not isinstance(run_id, str) or not re.fullmatch(r"[0-9a-f-]{36}", run_id):
            raise RequestRefused(400, 'The body must be {"run": "<id>"}.')
        run = await self._runs.look_up(run_id, identity)
        if run is None:
            raise RequestRefused(404, NO_SUCH_RUN)
        ticket = await self._tickets.issue(run_id, identity.principal, identity.expires_at)
        await _json(asked.send, 201, orjson.dumps({"ticket": ticket, "expires_in_s": TICKET_S}))

    async def _of_owner(self, asked: ApiRequest) -> ViewableRun:
        run = await self._runs.look_up(asked.run_id, self._identifier.identify(asked.headers))
        if run is None:
            raise RequestRefused(404, NO_SUCH_RUN)
        return run

    async def _who(self, asked: ApiRequest) -> Identity | None:
        """Identify the client by its ticket, if it has one: EventSource cannot send a header."""
        ticket = asked.one("ticket")
        if ticket is None:
            return self._identifier.identify(asked.headers)
        redeemed = await self._tickets.redeem(ticket, asked.run_id)
        if redeemed is None:
            raise RequestRefused(404, NO_SUCH_RUN)
        return Identity(redeemed.principal, user="", expires_at=redeemed.expires_at)

    ENDPOINTS: ClassVar[Mapping[str, Mapping[str, Callable[["RunApi", ApiRequest], Awaitable[None]]]]] = {
        EVENTS: {"GET": _events},
        RUNS: {"GET": _list},
        RUN: {"GET": _state, "DELETE": _cancel},
        TICKETS: {"POST": _issue_ticket},
    }


def has_all(run: ViewableRun, after: int | None) -> bool:
    """True if a viewer of the events up to `after` misses nothing, and nothing will come."""
    return bool(after) and run.log.ended and after is not None and after >= len(run.log)


async def send_nothing_more(run: ViewableRun, send: Send) -> str:
    """A stream that ends at once. A client that posts is no EventSource: fetch-event-source refuses a 204,
    and would post again for ever. Returns how it ended.
    """
    headers = [*STREAM_HEADERS, named(run)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return "nothing_more"


def last_event(headers: Headers) -> str | None:
    """The cursor of a reconnecting client."""
    return next((value.decode("latin-1") for name, value in headers if name == b"last-event-id"), None)


def run_of(cursor: str) -> str | None:
    """The id of the run that an event's id names."""
    found = _CURSOR.fullmatch(cursor)
    return found[1] if found else None


async def position(run: ViewableRun, cursor: str) -> int | None:
    """The position in the log of a cursor, which is an event's id or its number.

    None if it is not one of this log, or one from which a snapshot was begun: a viewer that was cut within it
    shows some texts whole already, and would append to them what it had missed.
    """
    cursor = cursor if ":" in cursor else f"{run.id}:{cursor}"
    found = _CURSOR.fullmatch(cursor)
    if found is None or found[1] != run.id:
        return None
    after = int(found[2])
    reader = LogReader(run.log)
    try:
        due = asyncio.get_running_loop().time() + CATCH_UP_S
        while after > len(run.log) and not run.log.ended and asyncio.get_running_loop().time() < due:
            await reader.wait(due)
    finally:
        reader.close()
    if after > len(run.log) or after in run.log.snapshots_from:
        return None
    # Else the client has events of a replica that is gone, which no other replica has.
    return after if not after or run.log.after(after - 1)[0].id == cursor else None


async def refuse(send: Send, refusal: RequestRefused, *more: tuple[bytes, bytes]) -> None:
    """Answer with the refusal as an RFC 9457 problem."""
    headers, body = problem(refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail)
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", RETRY_AFTER_S))
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _refuse_method(send: Send, allowed: str) -> None:
    await refuse(send, RequestRefused(405, f"Here is only {allowed}."), (b"allow", allowed.encode()))


async def _json(send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _small_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] == "http.disconnect" or len(body) > MAX_TICKET_REQUEST_BYTES:
            raise RequestRefused(400, "The request's body is too long, or did not arrive whole.")
        if not message.get("more_body", False):
            return body


def link(run: ViewableRun) -> None:
    """Link the span of the request at work with that of the run that it shows."""
    span = REQUEST.get()
    if span is not None:
        run.viewed_by(span)
