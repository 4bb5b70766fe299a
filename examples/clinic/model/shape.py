"""The port of a provider's shape: how a request is read, and how an answer or a failure is written."""

from typing import Protocol

from starlette.requests import Request

from examples.clinic.model.completion import Asked, Completion, Json


class Shape(Protocol):
    """The events of a stream, put together, say exactly what `whole` says."""

    def read(self, request: Request, body: Json) -> Asked:
        """Raises `LookupError`, `TypeError` or `AttributeError` for a body of another shape."""

    def whole(self, completion: Completion) -> Json: ...

    def opening(self, completion: Completion) -> list[bytes]:
        """Events before the first token."""

    def token(self, completion: Completion, number: int) -> bytes:
        """The event of one token, counted from 1."""

    def closing(self, completion: Completion) -> list[bytes]:
        """Events after the last token."""

    def error(self, status: int) -> Json:
        """The body of a failure, and what a stream says that fails."""

    def event(self, data: bytes) -> bytes:
        """One server-sent event."""

    def headers(self, completion: Completion | None) -> dict[str, str]:
        """Return the headers of the provider's answers beside their type and length; None: of a failure."""
