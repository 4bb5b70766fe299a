"""A transport's socket, for an option that is set again and again."""

import socket


class BorrowedSocket(socket.socket):
    """uvloop's own view of a transport's socket makes a socket each time; this one is kept. It never closes
    what it has borrowed."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__(opened.family, opened.type, opened.proto, opened.fileno())

    def __del__(self) -> None:
        self.detach()
