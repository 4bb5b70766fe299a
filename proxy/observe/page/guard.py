"""The guard of those parts of the admin port that need the admin token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from proxy.errors import PROBLEM_TYPE

Endpoint = Callable[[Request], Awaitable[Response]]


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says why there is no other one (RFC 9457)."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type=PROBLEM_TYPE.decode())


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets callers pass who have the admin token. None, or an empty one, lets nobody pass."""

    token: SecretStr | None

    def __call__(self, what: str, endpoint: Endpoint) -> Endpoint:
        """The endpoint for those callers; 403 or 401 for all others. `what`: its name in a sentence."""

        async def guarded(request: Request) -> Response:
            if self.token is None or not self.token.get_secret_value():  # an empty token is no secret
                return problem(403, f"Set admin_token to use {what}.")
            given = request.headers.get("authorization", "").encode("latin-1")
            expected = f"Bearer {self.token.get_secret_value()}".encode()
            if not hmac.compare_digest(given, expected):
                said = f"{what[:1].upper()}{what[1:]} needs the admin token as a bearer token."
                return problem(401, said, {"www-authenticate": "Bearer"})
            return await endpoint(request)

        return guarded
