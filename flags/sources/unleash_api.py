"""Three requests to an Unleash server, each bounded in time and size. No state, no clock, no second try.

Source: https://docs.getunleash.io/api/client (the paths below `/api/client`)
"""

import os
import re
import socket
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import orjson

from flags.egress import STRAIGHT, Egress, refusal
from flags.engine import SPEC_VERSION
from flags.errors import FlagServerError
from flags.tls import trusting

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Some 30,000 flags of a usual size."""

SDK = f"headgate:{version('headgate')}"

_REFUSED = "refuses the token ({status}); set a backend (client) token of this environment"
_PROBLEMS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: _REFUSED,
    HTTPStatus.FORBIDDEN: _REFUSED,
    HTTPStatus.NOT_FOUND: "has no /api/client there ({status}); set the address that Unleash's own page has",
    HTTPStatus.TOO_MANY_REQUESTS: "asks for fewer requests ({status})",
}
_REDIRECTS = "redirects ({status}); set the address where that leads"
_ANYTHING_ELSE = "answers with {status}"
_AWAY = frozenset({301, 302, 303, 307, 308})
_OK = frozenset({200})
_TAKEN = frozenset({200, 202, 204})


@dataclass(frozen=True, slots=True)
class UnleashServer:
    """A server, and how it is asked."""

    url: str
    """The server's address, without `/api`."""
    token: str = field(repr=False)
    app_name: str = "headgate"
    refresh_s: float = 15.0
    timeout_s: float = 5.0
    ca_file: Path | None = None
    strict_tls: bool = True
    max_body_bytes: int = MAX_BODY_BYTES
    ways: Egress = STRAIGHT


@dataclass(frozen=True, slots=True)
class Served:
    """A document, and the server's name for this state of it; "" if it has none."""

    content: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes


class UnleashApi:
    """The client API of one server, as one instance of an application. `async with` owns its connections."""

    def __init__(self, server: UnleashServer) -> None:
        self._server = server
        self.instance = {
            "appName": server.app_name,
            "instanceId": f"{socket.gethostname()}-{os.getpid()}",
            "connectionId": str(uuid.uuid4()),
        }
        """The fields with which each payload begins: who asks."""

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            base_url=self._server.url,
            headers={
                "authorization": self._server.token,
                "unleash-appname": self.instance["appName"],
                "unleash-instanceid": self.instance["instanceId"],
                "unleash-connection-id": self.instance["connectionId"],
                "unleash-interval": str(round(self._server.refresh_s * 1000)),
                "unleash-sdk": SDK,
                "unleash-client-spec": SPEC_VERSION,
            },
            verify=self._tls(),
            timeout=None,  # of each step; the whole has one
            trust_env=False,
            proxy=self._server.ways.for_httpx(self._server.url),
            follow_redirects=False,  # a token goes to no address but the one in the settings
            # Unleash closes idle connections after 15 s, just when the next request would come.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._server.url.startswith("https:"):
            return False  # reading the authorities takes longer than all the rest
        return trusting(self._server.ca_file, strict=self._server.strict_tls)

    async def features(self, etag: str = "") -> Served | None:
        """The flags; None if they are still those of `etag`. Raises FlagServerError."""
        answer = await self._ask("GET", "features", headers={"if-none-match": etag} if etag else {})
        if answer.status == HTTPStatus.NOT_MODIFIED and etag:
            return None
        self._refuse_unless(answer, _OK)
        if "json" not in answer.headers.get("content-type", ""):
            raise self._error("answers with something that is not JSON; is this an Unleash server?")
        return Served(answer.content, answer.headers.get("etag", ""))

    async def register(self, payload: Mapping[str, Any]) -> None:
        """Say that this instance is there. Raises FlagServerError."""
        self._refuse_unless(await self._ask("POST", "register", json={**self.instance, **payload}), _TAKEN)

    async def count(self, bucket: Mapping[str, Any]) -> None:
        """Say how often flags were asked. Raises FlagServerError."""
        payload = {**self.instance, "bucket": bucket}
        self._refuse_unless(await self._ask("POST", "metrics", json=payload), _TAKEN)

    async def _ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, json: Any = None
    ) -> _Answer:
        """An answer with its body, whatever it says."""
        request = self._client.build_request(
            method,
            f"/api/client/{path}",
            headers={**(headers or {}), **({} if json is None else {"content-type": "application/json"})},
            content=None if json is None else orjson.dumps(json),
        )
        through = self._server.ways.through(self._server.url)
        try:
            with anyio.fail_after(self._server.timeout_s):
                return await self._whole(await self._client.send(request, stream=True))
        except TimeoutError as exc:
            raise self._error(f"did not answer within {self._server.timeout_s:g} s{through}") from exc
        except httpx.ConnectError as exc:
            raise self._error(f"cannot be reached{through}: {exc}") from exc
        except httpx.ProxyError as exc:
            raise self._error(f"cannot be reached{through}: {refusal(exc)}") from exc
        except httpx.HTTPError as exc:
            raise self._error(f"broke off ({type(exc).__name__})") from exc

    async def _whole(self, response: httpx.Response) -> _Answer:
        content = bytearray()
        try:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > self._server.max_body_bytes:
                    raise self._error(f"answers with more than {self._server.max_body_bytes // 2**20} MiB")
        finally:
            with anyio.CancelScope(shield=True):  # closes a socket; waits for nobody
                await response.aclose()
        return _Answer(response.status_code, response.headers, bytes(content))

    def _refuse_unless(self, answer: _Answer, wanted: frozenset[int]) -> None:
        if answer.status in wanted:
            return
        problem = _PROBLEMS.get(answer.status, _REDIRECTS if answer.status in _AWAY else _ANYTHING_ELSE)
        retry_after = answer.headers.get("retry-after", "")
        raise FlagServerError(
            self._server.url,
            problem.format(status=answer.status),
            is_overload=answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= 500,
            # In seconds; as a date it is rare, and the pause that is kept anyway will do.
            retry_after_s=float(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else 0.0,
        )

    def _error(self, problem: str) -> FlagServerError:
        return FlagServerError(self._server.url, problem)
