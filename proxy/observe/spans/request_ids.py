"""The ids by which a request is found in the logs of all who saw it: in every log line of its work.

They are in a context variable, which tasks inherit: a run's lines have those of the request that began it.
"""

import re
import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from proxy.http.asgi import Message, Send
from proxy.http.headers import Headers
from proxy.http.tracing import trace_id_of

_ID = re.compile(rb"(?=[^0-9]*[0-9])[A-Za-z0-9][A-Za-z0-9._:=/+-]{7,63}")
"""An `x-request-id` that is logged: 8 to 64 characters, one of them a digit. The client says it, or
the proxy in front; it is neither a name nor a sentence."""


class RequestIds(NamedTuple):
    """The ids of one request."""

    request: str | None = None
    """Its `x-request-id`, if that looks like an id."""
    trace_id: str | None = None
    """Of its W3C trace context."""


NOBODYS = RequestIds()

CURRENT: ContextVar[RequestIds] = ContextVar("request_ids", default=NOBODYS)
"""The ids of the request whose work this is."""


@contextmanager
def work_of(ids: RequestIds) -> Iterator[None]:
    """Log lines of the block have these ids: in a connection's callback the variable has those of another
    request, in whose task the connection was made.
    """
    before = CURRENT.set(ids)
    try:
        yield
    finally:
        CURRENT.reset(before)


def ids_of(headers: Headers) -> RequestIds:
    """The ids that a request brings."""
    request = trace_id = None
    for name, value in headers:
        if name == b"x-request-id":
            request = value.decode() if _ID.fullmatch(value) else None
        elif name == b"traceparent":
            trace_id = trace_id_of(value)
    return NOBODYS if request is trace_id is None else RequestIds(request, trace_id)


def with_request(ids: RequestIds) -> RequestIds:
    """The same, with a random id for a request that brings none."""
    return ids if ids.request is not None else ids._replace(request=secrets.token_hex(8))


class SentHead:
    """Passes on what is sent, and notes the status, and the run that the answer names."""

    __slots__ = ("_send", "run", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.run: str | None = None

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.run = next(
                (value.decode() for name, value in message["headers"] if name == b"headgate-run"), None
            )
        return self._send(message)
