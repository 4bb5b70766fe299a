"""Kubernetes's API server over HTTP, as a pod may ask it: bounded in time and size, the token in no error.

Not a client of Kubernetes: four methods on one object, JSON, no watch, no retry.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import orjson

from flags.errors import LeaseError
from flags.tls import strictly, why

TIMEOUT_S = 5.0
"""Seconds for one request, well below the time of a lease."""

MAX_BYTES = 1 << 20
"""The longest answer. A Lease has a kilobyte."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_SAYS_NO: Mapping[int, str] = {
    401: "the service account's token is not accepted",
    403: "the service account lacks a right: give it get, create and update of leases in this namespace",
}


class ApiServer:
    """One cluster, asked as one service account. Raises LeaseError. The opener closes it: `async with`.

    Args:
        url: of the API server.
        token_file: read for each request, since Kubernetes replaces it.
        ca_file: authorities to trust; None: those of this machine.
        strict_tls: whether its certificate must keep to the letter.
    """

    def __init__(
        self,
        url: str,
        *,
        token_file: Path | str = SERVICE_ACCOUNT / "token",
        ca_file: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
        strict_tls: bool = True,
    ) -> None:
        self._token_file = Path(token_file)
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=strictly(_trusting(ca_file), strict_tls),
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,  # the API server of one's own cluster is behind no proxy
        )

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str], *, strict_tls: bool = True) -> Self:
        """Read the environment that Kubernetes gives each pod. Raises LeaseError outside of a pod."""
        try:
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
        except KeyError as exc:
            problem = f"{exc.args[0]} is not set: a Kubernetes lease needs a pod; elsewhere use a file"
            raise LeaseError(problem) from None
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", ca_file=SERVICE_ACCOUNT / "ca.crt", strict_tls=strict_tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, body: Any = None, *, expects: frozenset[int]
    ) -> tuple[int, dict[str, Any]]:
        """Status and object; an empty object for a status of `expects`, which are refusals with a meaning.

        Raises LeaseError for every other refusal, and without an answer, when the effect is unknown.
        """
        what = f"Kubernetes: {method} {path}"
        headers = {"authorization": f"Bearer {self._token()}", "content-type": "application/json"}
        content = None if body is None else orjson.dumps(body)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(method, path, headers=headers, content=content) as answer,
            ):
                received = bytearray()
                async for piece in answer.aiter_bytes():
                    received += piece
                    if len(received) > MAX_BYTES:
                        raise LeaseError(f"{what}: answers more than {MAX_BYTES} bytes")
        except TimeoutError:
            raise LeaseError(f"{what}: no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise LeaseError(f"{what}: {why(exc)}") from None  # its text may hold headers
        status = answer.status_code
        return status, {} if status in expects else _read(what, status, bytes(received))

    def _token(self) -> str:
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            problem = f"the token {self._token_file} cannot be read: {type(exc).__name__}"
            raise LeaseError(problem) from None
        if not token or not token.isprintable():
            raise LeaseError(f"the token {self._token_file} is empty or has several lines")
        return token


def _trusting(ca_file: Path | str | None) -> ssl.SSLContext:
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl.SSLError is one
        problem = f"the authorities {ca_file} cannot be read: {type(exc).__name__}"
        raise LeaseError(problem) from None


def _read(what: str, status: int, received: bytes) -> dict[str, Any]:
    if status not in (httpx.codes.OK, httpx.codes.CREATED):
        raise LeaseError(f"{what}: answers {status}: {_SAYS_NO.get(status, 'which was not expected')}")
    try:
        found = orjson.loads(received)
    except orjson.JSONDecodeError as exc:
        raise LeaseError(f"{what}: answers {status}, but not with JSON") from exc
    if not isinstance(found, dict):
        raise LeaseError(f"{what}: answers {status}, but not with an object")
    return found
