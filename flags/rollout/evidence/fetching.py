"""One GET for evidence: bounded in time and size, and what goes wrong is said without secrets."""

import asyncio
from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from flags.errors import EvidenceError, ReadingProblem
from flags.tls import why

MAX_SAID_CHARS = 200
"""The most characters that are shown of a server's refusal."""


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    *,
    timeout_s: float,
    max_bytes: int,
    params: Mapping[str, str] | None = None,
    token: SecretStr | None = None,
) -> bytes:
    """The whole body of a 200. Raises EvidenceError (ERROR) for everything else."""
    headers = {"accept-encoding": "identity"}  # or a small answer could grow beyond the bound at once
    if token is not None:
        headers["authorization"] = f"Bearer {token.get_secret_value()}"
    try:
        async with (
            asyncio.timeout(timeout_s),
            http.stream("GET", url, params=params, headers=headers) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > max_bytes:
                    raise _error(url, f"answers more than {max_bytes} bytes")
    except TimeoutError:
        raise _error(url, f"did not answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise _error(url, f"cannot be asked: {why(exc)}") from exc
    if answer.status_code != httpx.codes.OK:
        said = " ".join(body.decode(errors="replace").split())[:MAX_SAID_CHARS]
        raise _error(url, f"answers {answer.status_code}: {said}")
    return bytes(body)


def _error(url: str, said: str) -> EvidenceError:
    return EvidenceError(ReadingProblem.ERROR, f"{url} {said}")
