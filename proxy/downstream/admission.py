"""The connections that a port admits, counted in all and from one client. No I/O."""

from collections.abc import Callable

from proxy.observe.labels import Budget


class Connections:
    """The connections of one port.

    Args:
        max_open: connections in all.
        max_per_client: connections of one address.
        on_refused: is called for each connection or request that is not admitted.
    """

    def __init__(self, max_open: int, max_per_client: int, *, on_refused: Callable[[Budget], None]) -> None:
        self._max_open = max_open
        self._max_per_client = max_per_client
        self._on_refused = on_refused
        self._open = 0
        self._of_client: dict[str, int] = {}

    def __len__(self) -> int:
        return self._open

    def enter(self, peer: str) -> bool:
        """Admit a connection of a peer, if open_now may be one more; then `leave` must follow."""
        if self._open >= self._max_open:
            self._on_refused(Budget.CONNECTIONS)
            return False
        if not self._take(peer):
            return False
        self._open += 1
        return True

    def leave(self, holder: str | None) -> None:
        """An admitted connection has ended."""
        self._open -= 1
        self._give_back(holder)

    def begin(self, holder: str | None, client: str) -> str | None:
        """A request of a client comes on a connection of `holder`. Returns the new holder; None: the client
        has too many.

        If a proxy names the client, the connection counts for that one while the request is answered; until
        the next request for none.
        """
        if client == holder:
            return holder
        if not self._take(client):
            return None
        self._give_back(holder)
        return client

    def end(self, holder: str | None) -> None:
        """A request of a client that is not the peer is answered: its connection counts for none."""
        self._give_back(holder)

    def _take(self, client: str) -> bool:
        open_now = self._of_client.get(client, 0)
        if open_now >= self._max_per_client:
            self._on_refused(Budget.CLIENT)
            return False
        self._of_client[client] = open_now + 1
        return True

    def _give_back(self, client: str | None) -> None:
        if client is not None:
            open_now = self._of_client[client]
            if open_now > 1:
                self._of_client[client] = open_now - 1
            else:
                del self._of_client[client]
