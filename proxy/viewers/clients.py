"""The client of a viewer, as that sees it: a request that leaves, and takes bytes."""

from typing import Protocol


class ClientWatcher(Protocol):
    """Is told of a request's changes."""

    def client_changed(self) -> None: ...
    def cut(self) -> None: ...


class ViewerClient(Protocol):
    """The request of a client that views a run: a `ClientRequest`."""

    disconnected: bool
    """True if the client has left."""
    watcher: ClientWatcher | None
    body: bytes | bytearray
    """The part of the request's body that is here."""

    def ask_for_body(self) -> None:
        """Read what the client sends, so that its leaving is noticed."""

    def take_body(self) -> bytes:
        """The same, which is then no longer here; more is read."""
        ...

    def write_chunk(self, chunk: bytes) -> bool:
        """Send a chunk of the answer at once, if that is possible."""
        ...
