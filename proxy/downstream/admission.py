"""Who is let in: how many connections there may be, in all and of one client. No I/O."""

from collections.abc import Callable

from proxy.http.headers import Headers
from proxy.observe.labels import Budget


class Connections:
    """The connections of one port.

    Args:
        most: in all.
        most_of_client: of one address.
        names_clients: whether a proxy in front is believed whom it comes for. While such a request is
            answered, its connection is that client's; afterwards nobody's, until the next one.
        over: is told of each that is not let in.
    """

    def __init__(
        self, most: int, most_of_client: int, *, names_clients: bool, over: Callable[[Budget], None]
    ) -> None:
        self._most = most
        self._most_of_client = most_of_client
        self._names_clients = names_clients
        self._over = over
        self._open = 0
        self._of_client: dict[str, int] = {}

    def __len__(self) -> int:
        return self._open

    def enter(self, peer: str) -> bool:
        """Another connection, which is its peer's, if there may be one; then `leave` follows."""
        if self._open >= self._most:
            self._over(Budget.CONNECTIONS)
            return False
        if not self._take(peer):
            return False
        self._open += 1
        return True

    def leave(self, holder: str | None) -> None:
        """A connection that was let in has ended."""
        self._open -= 1
        self._give_back(holder)

    def begin(self, holder: str | None, peer: str, headers: Headers) -> str | None:
        """A request comes by a connection of `holder`: whose it is now. None: that client has its share."""
        client = (self._named(headers) if self._names_clients else None) or peer
        if client == holder:
            return holder
        if not self._take(client):
            return None
        self._give_back(holder)
        return client

    def end(self, holder: str | None, peer: str) -> str | None:
        """It is answered: whose the connection is now."""
        if holder == peer:
            return holder
        self._give_back(holder)
        return None

    def _take(self, client: str) -> bool:
        there = self._of_client.get(client, 0)
        if there >= self._most_of_client:
            self._over(Budget.CLIENT)
            return False
        self._of_client[client] = there + 1
        return True

    def _give_back(self, client: str | None) -> None:
        if client is not None:
            there = self._of_client.pop(client)
            if there > 1:
                self._of_client[client] = there - 1

    def _named(self, headers: Headers) -> str | None:
        """The address that the proxy in front has added itself, which is the last one."""
        named = None
        for name, value in headers:
            if name == b"x-forwarded-for":
                named = value
        return None if named is None else named.rpartition(b",")[2].strip().decode("latin-1")
