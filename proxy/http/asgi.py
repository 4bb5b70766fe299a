"""ASGI as Headgate uses it: its types, what a scope offers beyond the standard, and problem answers."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from proxy.errors import problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN_PATH = b"/_headgate/"
"""The beginning of the paths that are Headgate's own."""

TARGET = "headgate.target"
"""Scope key: the request target, byte for byte (ASGI's `raw_path` loses an empty query)."""

TITLES = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


async def send_problem(send: Send, status: int, detail: str, *, close: bool = False) -> None:
    """Answer with an RFC 9457 problem; `close` also ends the connection."""
    headers, body = problem(status, TITLES[status], detail)
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
