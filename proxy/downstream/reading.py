"""How the requests of a connection are read: the target as it came, bounds on a head, upgrades.

The parser calls back for each part of a message; what it cannot know is done around it.
"""

import asyncio
import re
from abc import abstractmethod
from collections import deque
from typing import Final

import httptools

from proxy.downstream.answering import new_parser
from proxy.downstream.client_request import ClientRequest
from proxy.downstream.methods import MethodReader
from proxy.downstream.slow_clients import TimedProtocol
from proxy.errors import RequestRefused
from proxy.http.headers import head_bytes
from proxy.http.request_rules import PLAIN, authority_of, put_host, with_path
from proxy.http.upgrade import EARLY_BYTES, Lost, UpgradeOffer, offered, without_upgrade

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers together; nginx's default is 32 KiB."""

_NOT_HTTP: Final = re.compile(rb"[\r\n]*+[^ ]+ +[^ \r\n]+ +(?:RTSP|ICE)/")
"""A request line of the other protocols that the parser reads."""

_USUAL_END: Final = b" HTTP/1.1\r\n"
"""The end of a request line. Where it stands the parser is not asked for the version, of which it makes a
text each time: that takes as long as to read the head."""


class ReadingProtocol(TimedProtocol):
    """One client connection, as it is read."""

    __slots__ = (
        "_again",
        "_begun_in_read",
        "_expects_continue",
        "_field_bytes",
        "_has_new_head",
        "_line",
        "_methods",
        "_next_is_last",
        "_offer",
        "_only_fields",
        "_read",
        "_reading_head",
        "_unbegun",
    )

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._field_bytes = 0
        self._read = b""
        self._line = b""
        """The request line, and what follows, of a head that came in several reads."""
        self._methods = MethodReader()
        self._has_new_head = False
        self._again = b""
        self._expects_continue = False
        self._offer: UpgradeOffer | None = None
        self._begun_in_read = False
        self._only_fields = False
        self._reading_head = False
        self._next_is_last = False
        self._unbegun: ClientRequest | None = None
        """The request whose head came in this read; it begins when all of the read is here."""

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._offer is None and self._methods.is_one_request(data):
            self._parse(data)
        else:
            self._read_pieces(self._methods.joined(data))
        request = self._unbegun
        if request is None or request.more_body or self._reading_head:
            self._bound_waiting()
        if request is not None:
            # Now that all that came with its head has been read: they go on in one write.
            self._unbegun = None
            if not self._lingers:
                self._begin(request)

    def _read_pieces(self, data: bytes, *, is_again: bool = False) -> None:
        at = 0
        while not self._is_over:
            if self._offer is not None and not is_again and self._keeps_early(self._offer, data[at:]):
                return
            piece, at = self._methods.next_piece(data, at)
            self._parse(piece)
            if at >= len(data):
                return

    def _parse(self, data: bytes) -> None:
        self._read = data
        self._begun_in_read = False
        self._only_fields = True
        self._idle_since = 0.0
        try:
            if data:
                self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            ours = exc.__context__  # what a callback raised
            malformed = RequestRefused(400, "Invalid HTTP request received.")
            self._refuse(ours.bare() if isinstance(ours, RequestRefused) else malformed)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(upgrade.args[0])
        self._read = b""
        if not self._only_fields:
            self._field_bytes = 0
        else:
            # A long head, trailers, or the lines between chunks: nothing else bounds them.
            self._field_bytes += len(data)
            if self._field_bytes > MAX_HEAD_BYTES and not self._is_over:
                self._refuse(_too_large(self.url if self._reading_head else b""))
        if self._has_new_head:
            self._has_new_head = False
            self._methods.head_read(self.cycle.headers if self.cycle is not None else [])
        if self._again:
            again, self._again = self._again, b""
            self._read_pieces(again, is_again=True)
        elif self._reading_head and b"\n" not in self._line.lstrip(b"\r\n"):
            self._line += data

    def _bound_waiting(self) -> None:
        """Something is waited for: a head, a body, or what is left of either."""
        if self._is_over or self.transport.is_closing():
            return
        if self._awaits_head():
            self._wait_for_head()
        if self.cycle is not None and self.cycle.more_body:
            self._wait_for_body()

    def _awaits_head(self) -> bool:
        """True if a request's head is due. Empty lines count as its beginning: they have stopped the
        keep-alive timer, and no other timer would end the connection.
        """
        if self._reading_head:
            return True
        return self._pending() is None and not (self.cycle is not None and self.cycle.more_body)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._methods.between = False
        self._methods.in_head = True
        self.url = b""
        self._expects_continue = False
        self.headers = []
        self._reading_head = True
        self._begun_in_read = self._only_fields  # or something stands before it in the read
        self._only_fields = False

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._only_fields = False
        self._methods.body_left -= len(body)
        request = self.cycle
        if request is None or request.response_complete or self._reading_head:
            return
        request.add(body)
        if request is not self._unbegun:
            request.set()

    def on_message_complete(self) -> None:
        self._methods.between = True
        self._has_new_head = self._only_fields = False
        request = self.cycle
        if request is None or self._reading_head:
            return
        if request.response_complete:
            request.more_body = False  # it was answered early; the next request is waited for now
            return
        if self.headers:
            if head_bytes(self.headers) > MAX_HEAD_BYTES:
                raise RequestRefused(400, "The request's trailers are too large.")
            request.trailers, self.headers = self.headers, []
            if any(name == b"connection" for name, _ in request.trailers):
                request.keep_alive = False  # to the parser it may mean the end
        request.more_body = False
        if request is not self._unbegun:
            request.set()

    def on_headers_complete(self) -> None:
        parser, methods, read = self.parser, self._methods, self._read
        methods.in_head = False
        method = methods.method or parser.get_method()
        end = len(method) + 1 + len(self.url)
        is_usual = self._begun_in_read and methods.method is None and read[end : end + 11] == _USUAL_END
        if not is_usual:
            self._look_at_line()
        is_plain = self.url[:1] == b"/" and not self.url.strip(PLAIN)
        if not is_plain:
            self._look_at_target(method)
        may_be_large = not self._begun_in_read or len(self._read) > MAX_HEAD_BYTES
        if may_be_large and len(self.url) + head_bytes(self.headers) > MAX_HEAD_BYTES:
            raise _too_large(self.url)
        if parser.should_upgrade():
            return
        version = "1.1" if is_usual else parser.get_http_version()
        keeps = version != "1.0" and parser.should_keep_alive() and not self._next_is_last
        request = ClientRequest(self, method, version, keeps)
        if self._expects_continue and version != "1.0":  # RFC 9110 10.1.1: such a client cannot mean it
            request.waiting_for_100_continue = True
        before, self.cycle = self.cycle, request
        methods.method = None
        self._has_new_head = True  # to be looked at if a body follows
        self._reading_head = False
        self._only_fields = False
        self._head_due = 0.0
        if self._offer is not None:
            request.offer = self._offer
            request.keep_alive = keeps and not self._offer.early
        # Trailers come by the same callback, and would be headers of a request that has not begun.
        self.headers = []
        if before is None or before.response_complete:
            self._answering = self._unbegun = request
        else:
            self.flow.pause_reading()
            if not self.pipeline:
                self.pipeline = deque()
            self.pipeline.appendleft(request)

    def _look_at_line(self) -> None:
        """A request line that came in pieces, or behind something, or is of another version."""
        line, self._line = self._line + self._read, b""
        if _NOT_HTTP.match(line):
            raise RequestRefused(400, "HTTP is spoken here.")

    def _look_at_target(self, method: bytes) -> None:
        """A target that is not plainly a path."""
        if not self.url.startswith(b"/") and method != b"CONNECT":
            authority = authority_of(method, self.url)
            if authority is not None:
                put_host(self.headers, authority)
                self.url = with_path(method, self.url, authority)
        if b"#" in self.url:
            raise RequestRefused(400, "A fragment is no part of a request's target.")
        if not self.parser.should_upgrade():
            httptools.parse_url(self.url).path.decode("ascii")  # or it is refused

    # Upgrades.

    def _read_without_upgrade(self, end: int) -> None:
        """Read a request with an upgrade once more, as one without. Its head ends at `end` of what was read.

        The parser takes the bytes after such a head for another protocol's; a body would be lost, or be read
        as the next request. An upgrade that can be passed on is offered beside the request, see
        `proxy.http.upgrade`; the bytes after it wait for the answer then. To the parser CONNECT is an
        upgrade, too, whatever it asks for, and cannot be begun again.
        """
        method = self._methods.method or self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(RequestRefused(400, "CONNECT is for forward proxies; this is a reverse proxy."))
            return
        rest = self._read[end:]
        version = self.parser.get_http_version()
        head = without_upgrade(method, self.url, version, self.headers)
        self._methods = MethodReader()
        self.parser = new_parser(self)
        if self._pending() is None and (protocols := offered(version, self.headers)):
            self._offer = UpgradeOffer(protocols, self._switch, self.transport.is_closing, bytearray(rest))
            rest = b""
        self._again = head + rest

    def _keeps_early(self, offer: UpgradeOffer, data: bytes) -> bool:
        """Keep bytes that come before the upgrade is answered: they belong to the other protocol.

        If the offer is refused, they are never read: the connection ends with the answer.
        """
        cycle = self._answering
        if cycle is not None and cycle.response_complete:
            self._offer = None
            return False
        if self.transport.is_closing():
            return True
        offer.early += data
        if self.cycle is not None:
            self.cycle.keep_alive = False
        if len(offer.early) > EARLY_BYTES:
            self.flow.pause_reading()
        return True

    # What follows from what was read.

    @abstractmethod
    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer with a refusal in its turn, and read no further."""

    @abstractmethod
    def _switch(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, Lost]:
        """The client's connection, which is another protocol's from now on."""


def _too_large(target: bytes) -> RequestRefused:
    """A head is too large, by its target alone or as a whole."""
    if len(target) > MAX_HEAD_BYTES:
        return RequestRefused(414, f"The request's target has more than {MAX_HEAD_BYTES} bytes.")
    return RequestRefused(400, "The request's head is too large.")
