"""Unleash's Admin API over HTTP: bounded in time and size, reads repeated, writes not, no token in errors.

Source: https://docs.getunleash.io/api/overview
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Self

import httpx
import orjson

from flags.errors import FlagAdminError
from flags.tls import trusting, why

TIMEOUT_S = 10.0
"""Seconds for one operation, with all its requests."""

READ_ATTEMPTS = 3
READ_PAUSE_S = 0.2
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses after which a read is worth another attempt."""

MAX_BYTES = 8 << 20
"""The longest answer. A page of a hundred events of a large strategy has some 200 kB."""

MAX_SAID_CHARS = 200
"""The most characters that are shown of a refusal by Unleash."""


class Refused(FlagAdminError):
    """Unleash answered with a status that is no success."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


class AdminApi:
    """One server, asked with one token. Raises FlagAdminError. The opener closes it: `async with`.

    Args:
        url: without `/api`.
        token: of an administrator, a service account or a user; a client's is refused by the server.
        tls: whose certificates are good; None: the system's authorities, strictly.
        proxy: on the way there; None: straight.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        address = httpx.URL(url)
        if not address.host or address.scheme not in ("http", "https"):
            raise FlagAdminError("the url of Unleash must begin with http:// or https://, and name a host")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            # Such a header would be refused further down, with its value in the message.
            raise FlagAdminError("the token of Unleash is empty or holds blanks or letters that none has")
        self.name = f"Unleash at {address.host}:{address.port or {'http': 80, 'https': 443}[address.scheme]}"
        self.timeout_s = timeout_s
        self._token = token
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/admin",
            headers={"authorization": token, "accept-encoding": "identity", "user-agent": "headgate"},
            verify=tls or trusting(None, strict=True),
            timeout=timeout_s,
            trust_env=False,
            proxy=proxy,
            follow_redirects=False,  # nor the token sent elsewhere
        )

    def __repr__(self) -> str:
        return f"<AdminApi {self.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """GET, with retries. Raises Refused, or FlagAdminError without an answer."""
        for left in reversed(range(READ_ATTEMPTS)):
            try:
                return await self._ask("GET", path, params=params)
            except Refused as exc:
                if exc.status not in _PASSING or not left:
                    raise
            except FlagAdminError:
                if not left:
                    raise
            await asyncio.sleep(READ_PAUSE_S)
        raise AssertionError("unreachable")

    async def get_if_any(self, path: str) -> Any:
        """Like `get`, but None where the server answers 404."""
        try:
            return await self.get(path)
        except Refused as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        """Change something, without retries. Raises Refused; FlagAdminError where the effect is unknown."""
        try:
            return await self._ask(method, path, content=None if body is None else orjson.dumps(body))
        except Refused:
            raise
        except FlagAdminError as exc:
            raise FlagAdminError(f"{exc}; whether it was done, only a new read can say") from None

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        what = f"{self.name}: {method} {path}"
        headers = {"content-type": "application/json"} if more.get("content") else {}
        try:
            async with self._client.stream(method, path, headers=headers, **more) as answer:
                body = bytearray()
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise FlagAdminError(f"{what}: answers more than {MAX_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise FlagAdminError(f"{what}: {why(exc)}") from None  # its text may hold headers
        if not answer.is_success:
            raise Refused(
                f"{what}: answers {answer.status_code}{self._message(bytes(body))}", answer.status_code
            )
        try:
            return orjson.loads(body) if body else None
        except orjson.JSONDecodeError:
            raise FlagAdminError(f"{what}: answers {answer.status_code}, but not with JSON") from None

    def _message(self, body: bytes) -> str:
        try:
            message = orjson.loads(body)["message"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ""
        text = " ".join(str(message).replace(self._token, "…").split())
        return f": {text[:MAX_SAID_CHARS]}"
