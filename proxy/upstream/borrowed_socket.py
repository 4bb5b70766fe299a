"""A transport's socket, for an option that is set again and again."""

import socket


class BorrowedSocket(socket.SocketType):
    """uvloop's own view of a transport's socket makes a socket each time; this one is kept. It never closes
    what it has borrowed, nor what it has made and lent: the transport does.

    It is of the type below `socket.socket`, which looks up names of family and kind for each one.
    """

    __slots__ = ()

    close = socket.SocketType.detach  # type: ignore[assignment]
    """uvloop closes what it was lent, once it has closed it by itself; by then it may be another's."""

    __del__ = socket.SocketType.detach
