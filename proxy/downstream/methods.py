"""Methods that the parser does not know: WebDAV's rarer ones, and those that somebody has made up.

The parser refuses a request by its method's name. So such a name is taken out before the parser reads it, and
another one put in its place, and nowhere but where the parser itself says that no message is under way: its
next byte is then a request's first. So that this is known of each request, what comes is given to the parser
in pieces which end where a message may end. Cut anywhere else they would be read alike.
"""

import re
from typing import Final

from proxy.http.headers import Headers

STAND_IN: Final = b"PUT"
"""What the parser reads instead; to it no method but CONNECT makes a difference."""

MAX_METHOD_BYTES: Final = 32
"""The longest name that is passed on; the longest that is registered has 17."""

KNOWN: Final = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL "
    b"MOVE NOTIFY OPTIONS PATCH POST PRI PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE "
    b"SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)
"""Those that the parser takes; and PRI, which begins HTTP/2 and is refused."""

NAMES: Final = {name: name.decode() for name in KNOWN}
"""The same as text."""

_USUAL: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ")
_MOST_USUAL: Final = frozenset({b"GET /", b"POST ", b"PUT /", b"HEAD "})
"""How the most begin, found in a third of the time."""

_BEGINNING: Final = re.compile(rb"[\r\n]*+(?:([A-Z_-]{1,%d})( |\Z))?" % MAX_METHOD_BYTES)
"""Empty lines, which the parser skips, and a name of the letters that nginx allows, or its beginning. Read
again from each empty line on, many of them would hold the process for seconds."""
_BODY_END: Final = re.compile(rb"\r\n\r\n(?=[A-Z_-]{1,%d}(?: |\Z))" % MAX_METHOD_BYTES)
"""Where a body in chunks may end, with a request behind it."""
_HEAD_END: Final = re.compile(rb"\r\n\r\n")

MAX_CUTS: Final = 1000
"""Pieces that one read of a body in chunks is cut into. A name behind more of them is left to the parser."""


class MethodReader:
    """Cuts what comes of one connection into pieces for the parser, whose callbacks its owner passes on."""

    __slots__ = ("_cuts_left", "_held", "_seam", "between", "body_left", "in_head", "method")

    def __init__(self) -> None:
        self.method: bytes | None = None
        """The name that was taken out of the head that the parser reads."""
        self.between = True
        """True if no message is under way. The owner sets it at a message's beginning, and its end."""
        self.in_head = False
        """True if a head is under way. The owner sets it at a head's beginning, and its end."""
        self.body_left = 0
        """Bytes of the body that are still to come, if it has a length. The owner takes off what it gets."""
        self._held = b""
        """The beginning of a name that may be any."""
        self._seam = b""
        """The end of the piece before, as long as no end was found there."""
        self._cuts_left = MAX_CUTS

    def head_read(self, headers: Headers) -> None:
        """A head was read that a body follows."""
        length = next((value for name, value in headers if name == b"content-length"), b"")
        self.body_left += int(length) if length.isdigit() else 0

    def is_one_request(self, data: bytes) -> bool:
        """True if what came is one whole request, with a usual method. Nothing need be cut then."""
        if not self.between or self._held or not (data[:5] in _MOST_USUAL or data.startswith(_USUAL)):
            return False
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or (end < len(data) and not _is_whole(data, 0, end)):
            return False
        self.body_left = 0
        self._seam = b""
        return True

    def joined(self, data: bytes) -> bytes:
        """What came, with what was held back before it."""
        self._cuts_left = MAX_CUTS
        held, self._held = self._held, b""
        return held + data if held else data

    def next_piece(self, data: bytes, at: int) -> tuple[bytes, int]:
        """The piece that begins at `at`, as the parser is to read it, and where the next one begins.

        The piece is empty if a name's end is still to come.
        """
        if self.between:
            return self._beginning(data, at)
        if self.in_head:
            end = self._end(_HEAD_END, data, at)
        elif self.body_left > 0:
            end = min(at + self.body_left, len(data))
        elif self._cuts_left:
            self._cuts_left -= 1
            end = self._end(_BODY_END, data, at)
        else:
            end = len(data)
        return (data if at == 0 and end == len(data) else data[at:end]), end

    def _beginning(self, data: bytes, at: int) -> tuple[bytes, int]:
        """A request begins here."""
        self.body_left = 0
        self._seam = b""
        found = None if data.startswith(_USUAL, at) else _BEGINNING.match(data, at)
        if found is None or not found[1] or (found[1] in KNOWN and found[2]):
            end = self._end(_HEAD_END, data, at if found is None else found.end())
            if end < len(data) and _is_whole(data, at, end):
                end = len(data)
            return (data if at == 0 and end == len(data) else data[at:end]), end
        if not found[2]:
            self._held = found[1]
            return data[at : found.start(1)], len(data)
        self.method = found[1]
        end = self._end(_HEAD_END, data, found.end(1))
        return data[at : found.start(1)] + STAND_IN + data[found.end(1) : end], end

    def _end(self, end: re.Pattern[bytes], data: bytes, at: int) -> int:
        """Where the parser is to stop, at the latest. The empty line may have been cut."""
        seam = self._seam
        if seam:
            found = _HEAD_END.search(seam + data[at : at + 3])
            if found is not None:
                self._seam = b""
                return at + found.end() - len(seam)
        found = end.search(data, at)
        if found is not None:
            self._seam = b""
            return found.end()
        self._seam = (seam + data[max(at, len(data) - 3) :])[-3:]
        return len(data)


def _is_whole(data: bytes, at: int, end: int) -> bool:
    """True if all that follows a head is its body, as a length in the usual spelling says."""
    line = b"\r\nContent-Length: %d\r\n" % (len(data) - end)
    head = data[at:end]  # `find` between two places takes twice as long, and `in` three times
    return head.find(line) >= 0 or head.find(line.lower()) >= 0
