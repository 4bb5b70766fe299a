"""The errors of the API as JSON. Every body is `{"detail": ...}`.

* HTTPException (Starlette's)
  * Unauthorized    401 and `WWW-Authenticate: Bearer`
  * Invalid         422; `detail` is a list with one entry for each thing that is wrong
"""

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Problem = dict[str, Any]


class Unauthorized(HTTPException):
    def __init__(self, detail: str) -> None:
        super().__init__(401, detail, {"WWW-Authenticate": "Bearer"})


class Invalid(HTTPException):
    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(422)
        self.problems = list(problems)


def missing(*loc: str) -> Problem:
    return {"type": "missing", "loc": list(loc), "msg": "Field required", "input": None}


async def as_json(request: Request, error: Exception) -> Response:
    """An `HTTPException` as the response it stands for."""
    assert isinstance(error, HTTPException)
    detail = error.problems if isinstance(error, Invalid) else error.detail
    return JSONResponse({"detail": detail}, error.status_code, error.headers)
