"""`python python_clients.py requests|httpx|aiohttp|curl CASES ORIGIN…`: each case at each origin.

A line for each: the origin, the case, the status, the body's length and SHA-256, and the headers.
"""

import asyncio
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import aiohttp
import httpx
import requests

BODIES = {"json": b'{"a": [1, "\xc3\xbc"]}', "large": bytes(range(256)) * 1024, "-": None}
PIECES = [b"one ", b"two " * 5000, b"three"]
TIMEOUT_S = 60


def told(origin: str, case: str, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    fields = "\x1f".join(sorted(f"{name.lower()}: {value}" for name, value in headers))
    sha = hashlib.sha256(body).hexdigest()
    shown = (
        body.decode("latin-1").replace(origin.removeprefix("http://"), "ORIGIN") if len(body) < 4096 else sha
    )
    sys.stdout.write("\t".join([origin, case, str(status), str(len(body)), repr(shown), fields]) + "\n")


def by_requests(origin: str, cases: list[list[str]]) -> None:
    with requests.Session() as session:
        for case, method, path, kind in cases:
            data = iter(PIECES) if kind == "streamed" else BODIES[kind]
            reply = session.request(
                method,
                origin + path,
                data=data,
                headers=_typed(kind),
                allow_redirects=False,
                timeout=TIMEOUT_S,
            )
            told(origin, case, reply.status_code, reply.raw.headers.items(), reply.content)
            session.cookies.clear()


def by_httpx(origin: str, cases: list[list[str]]) -> None:
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        for case, method, path, kind in cases:
            content = iter(PIECES) if kind == "streamed" else BODIES[kind]
            reply = client.request(method, origin + path, content=content, headers=_typed(kind))
            told(origin, case, reply.status_code, reply.headers.multi_items(), reply.content)
            client.cookies.clear()


async def _by_aiohttp(origin: str, cases: list[list[str]]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in PIECES:
            yield piece

    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        for case, method, path, kind in cases:
            data = pieces() if kind == "streamed" else BODIES[kind]
            async with session.request(
                method, origin + path, data=data, headers=_typed(kind), allow_redirects=False
            ) as reply:
                told(origin, case, reply.status, reply.headers.items(), await reply.read())


def by_aiohttp(origin: str, cases: list[list[str]]) -> None:
    asyncio.run(_by_aiohttp(origin, cases))


def by_curl(origin: str, cases: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        head, body = Path(directory, "head"), Path(directory, "body")
        for case, method, path, kind in cases:
            body.write_bytes(b"")
            arguments = ["--head"] if method == "HEAD" else ["--request", method]
            for name, value in _typed(kind).items():
                arguments += ["--header", f"{name}: {value}"]
            if kind == "streamed":
                arguments += ["--header", "transfer-encoding: chunked"]
            if kind != "-":
                arguments += ["--data-binary", "@-"]
            sent = b"".join(PIECES) if kind == "streamed" else BODIES[kind]
            subprocess.run(
                [
                    "curl",
                    "-sS",
                    "--max-time",
                    str(TIMEOUT_S),
                    "-D",
                    head,
                    "-o",
                    body,
                    *arguments,
                    origin + path,
                ],
                input=sent,
                check=True,
            )
            *_, status, fields = _last_head(head.read_bytes().decode("latin-1"))
            told(origin, case, status, fields, b"" if method == "HEAD" else body.read_bytes())


def _last_head(text: str) -> Iterator[int | list[tuple[str, str]]]:
    """Of the final answer: its status, then its headers."""
    line, *fields = text.strip().split("\r\n\r\n")[-1].split("\r\n")
    yield int(line.split(" ")[1])
    yield [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]


def _typed(kind: str) -> dict[str, str]:
    return (
        {} if kind == "-" else {"content-type": "application/json" if kind == "json" else "application/x-own"}
    )


if __name__ == "__main__":
    name, file, *origins = sys.argv[1:]
    rows = [line.split("\t") for line in Path(file).read_text().splitlines()]
    for each in origins:
        globals()[f"by_{name}"](each, rows)
