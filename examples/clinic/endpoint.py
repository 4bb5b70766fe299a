"""From a request to a checked call, to a function that does the work, to a response.

The order of the checks is the one clients know: body syntax, authorization, then all the rest in one answer.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.clinic import bodies
from examples.clinic.bodies import Window
from examples.clinic.llm.conversation import Llm
from examples.clinic.llm.providers import open_llm
from examples.clinic.refusals import Invalid, Problem, missing
from examples.clinic.settings import Settings
from examples.clinic.store import cases, users
from examples.clinic.store.database import Row, connected
from examples.clinic.tokens import read_authorization

THREADS = 256
"""Requests that one process works on at a time when it does not block."""

NOBODY: Row = {}


@dataclass(frozen=True)
class Call:
    """One request whose parts have been checked."""

    settings: Settings
    db: sqlite3.Connection
    user: Row
    path: dict[str, str]
    body: Any
    query: dict[str, str]

    def llm(self) -> Llm:
        """A new client: the app this stands for makes one for every workflow."""
        return open_llm(self.settings)

    def own_case(self, purpose: str = "access") -> Row:
        """The case in the path; 404 if there is none, 403 if it is another user's."""
        case_id = self.id("case_id")
        case = cases.get(self.db, case_id)
        if case is None:
            raise HTTPException(404, f"Case with ID {case_id} not found")
        if case["user_id"] != self.user["id"]:
            raise HTTPException(403, f"Not authorized to {purpose} this case")
        return case

    def window(self) -> Window:
        """Return the part of a list that is asked for."""
        return bodies.read_window(self.query)

    def id(self, name: str) -> str:
        return str(UUID(self.path[name]))


Work = Callable[[Call], Any]


def route(
    path: str,
    method: str,
    work: Work,
    *,
    body: type[BaseModel] | None = None,
    status: int = 200,
    is_public: bool = False,
) -> Route:
    """`work` returns a `Response`, or what becomes the JSON of one with `status`."""

    def answer(request: Request, payload: bytes) -> Response:
        settings: Settings = request.app.state.settings
        value = bodies.parse(payload, request.headers.get("content-type")) if body else None
        with connected(settings.data_dir) as db:
            result = work(_check(request, settings, db, value, body, is_public))
        return result if isinstance(result, Response) else JSONResponse(result, status)

    made = Route(path, _endpoint(answer), methods=[method])
    # Starlette answers HEAD wherever it answers GET; the app this stands for says 405.
    made.methods = {method}
    return made


def _endpoint(answer: Callable[[Request, bytes], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        payload = await request.body()
        if request.app.state.settings.is_blocking:
            return answer(request, payload)
        # Not abandoned when the client leaves: the work goes on to its end either way.
        return await to_thread.run_sync(answer, request, payload, limiter=_limiter(request))

    return endpoint


def _limiter(request: Request) -> CapacityLimiter:
    state = request.app.state
    if not hasattr(state, "limiter"):
        state.limiter = CapacityLimiter(THREADS)
    limiter: CapacityLimiter = state.limiter
    return limiter


def _check(
    request: Request,
    settings: Settings,
    db: sqlite3.Connection,
    value: Any,
    body: type[BaseModel] | None,
    is_public: bool,
) -> Call:
    problems: list[Problem] = []

    def kept(found: Any) -> Any:
        problems.extend(found if isinstance(found, list) else [])
        return found

    user = NOBODY if is_public else kept(_user(request, settings, db))
    kept(bodies.check_ids(request.path_params))
    checked = kept(bodies.check_body(body, value)) if body else None
    if problems:
        raise Invalid(problems)
    return Call(settings, db, user, dict(request.path_params), checked, dict(request.query_params))


def _user(request: Request, settings: Settings, db: sqlite3.Connection) -> Row | list[Problem]:
    header = request.headers.get("authorization")
    if header is None:
        return [missing("header", "authorization")]
    caller = read_authorization(header, settings.jwt_secret)
    return users.ensure(db, caller.id, email=caller.email, name=caller.name)
