"""Bodies of requests that are read here before anybody else reads them; never longer than their bound."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from proxy.errors import RequestRefused
from proxy.relay import Message, Receive

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Body of a request that becomes a run; it is held until the run ends."""

COLLECT_S = 900.0
"""Seconds that it may take altogether, as long as a call to the upstream by default. Each read has its own
bound, but one byte a minute would go on for years."""

TOO_SLOW = "The request's body did not arrive in time."


class Replayed:
    """A `receive` that says again what was read of a body, and then goes on."""

    def __init__(self, messages: list[Message], receive: Receive) -> None:
        self._messages = messages
        self._receive = receive

    @classmethod
    def of(cls, body: bytes, receive: Receive) -> Self:
        """With a body that is here whole."""
        return cls([{"type": "http.request", "body": body, "more_body": False}], receive)

    async def __call__(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()


async def read_ahead(receive: Receive) -> tuple[bytes | None, Receive]:
    """A request's body, and a `receive` for who wants to read it again; None if it is too long to be held.

    Raises RequestRefused if it does not come in time.
    """
    messages: list[Message] = []
    size = 0
    more = True
    async with _in_time():
        while more and size <= MAX_REQUEST_BYTES:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    left = messages[-1]["type"] == "http.disconnect"
    body = (
        None
        if more or left or size > MAX_REQUEST_BYTES
        else b"".join(message["body"] for message in messages)
    )
    return body, Replayed(messages, receive)


async def collect(receive: Receive) -> bytes:
    """A whole request body. Raises RequestRefused if it is too long, or does not come whole and in time."""
    parts: list[bytes] = []
    size = 0
    more = True
    async with _in_time():
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestRefused(400, "The request's body did not arrive whole.")
            size += len(message["body"])
            if size > MAX_REQUEST_BYTES:
                raise RequestRefused(413, f"A request that is streamed may have {MAX_REQUEST_BYTES} bytes.")
            parts.append(message["body"])
            more = message.get("more_body", False)
    return b"".join(parts)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(COLLECT_S):
            yield
    except TimeoutError:
        raise RequestRefused(408, TOO_SLOW) from None
