"""The upstream's response, read from its bytes: interim responses, head and body. No socket, no clock."""

from typing import Final, cast

import httptools

from proxy.errors import Fault, UpstreamError, UpstreamMalformed
from proxy.http.headers import HOP_BY_HOP, Headers, head_bytes
from proxy.http.repeated_length import final_head, with_one_length
from proxy.http.upgrade import SWITCHING_PROTOCOLS, is_accepted

MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line and headers of a response, interim responses included; and its trailers."""

NO_INTERIMS: Final[list[tuple[int, bytes, Headers]]] = []

_LENGTH: Final = b"content-length"
_LOOKED_AT: Final = frozenset(HOP_BY_HOP) | {_LENGTH}

_NO_TRAILERS: Final[Headers] = []

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
"""These say nothing about an interim response, which has no body."""


class UpstreamResponse:
    """The response to the request that a connection carries; `reset` prepares it for the next one.

    Another one follows only if all went well, so that most of the state is as it was. httptools calls the
    methods named `on_…`.
    """

    __slots__ = (
        "_field_bytes",
        "_has_more",
        "_head",
        "_is_interim",
        "_parser",
        "_read_bytes",
        "beyond",
        "body_bytes",
        "chunks",
        "complete",
        "continued",
        "has_begun",
        "has_hop_fields",
        "has_length",
        "has_surplus",
        "headers",
        "interims",
        "keep_alive",
        "offered",
        "reason",
        "status",
        "to_head",
        "trailers",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._read_bytes = 0
        self.trailers: Headers = _NO_TRAILERS
        """What came behind a body in chunks."""
        self.to_head = False
        """True if it answers a HEAD request: no body follows."""
        self.continued = False
        """True if a 100 has come."""
        self.interims = NO_INTERIMS
        """Status, reason and headers of each interim response but 100; whoever feeds bytes takes them."""
        self.keep_alive = False
        """Of a response that is complete. One that its connection's end completes leaves it False."""
        self.has_surplus = False
        """True if bytes came after the end: the connection must carry no other request."""
        self.beyond = b""
        """What follows a 101: bytes of another protocol."""
        self._is_interim = False
        self._field_bytes = 0
        self._head = b""
        self._has_more = False
        """True if it came in more than one read, was read again, or had more than a head and a body."""
        self.chunks: list[bytes] = []
        """The part of the body that has not been taken yet."""
        self.body_bytes = 0
        """Bytes of all `chunks`."""
        self.reset()

    def reset(self) -> None:
        """Forget the response before."""
        self.status = 0
        """0 until the final head is here."""
        self.reason = b""
        self.headers: Headers = []
        self.has_length = self.complete = self.keep_alive = False
        self.has_hop_fields = False
        """True if any of the headers is for this connection only."""
        self.has_begun = False
        """True if any byte has come."""
        self.offered = b""
        """The protocols that the request offers to switch to."""
        if self.chunks:
            self.chunks, self.body_bytes = [], 0
        if self._has_more:
            self._has_more = self.continued = False
            self.trailers, self._field_bytes, self._head = _NO_TRAILERS, 0, b""

    def let_go(self) -> None:
        """No other response follows. The parser holds this one, with the text that is in it."""
        self._parser = cast(httptools.HttpResponseParser, None)

    def feed(self, data: bytes) -> UpstreamError | None:
        """Read more bytes. Returns what makes the response unreadable, if anything.

        The error is returned and not raised: a raised one would hold on to frames, and to their text.
        """
        self.has_begun = True
        self._read_bytes = len(data)
        body_bytes = self.body_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if self.status == SWITCHING_PROTOCOLS and isinstance(exc, httptools.HttpParserUpgrade):
                self.beyond = data[exc.args[0] :]
                return None
            if not self._read_again(data, exc):
                return _failure(exc)
        else:
            if self.complete:
                return None
            if not self.status:
                self._head += data
        if self.body_bytes != body_bytes:
            self._field_bytes = 0
        elif not self.complete:
            # A long head, trailers, or the lines between chunks: nothing else bounds them.
            self._has_more = True
            self._field_bytes += len(data)
            if self._field_bytes > MAX_HEAD_BYTES:
                return UpstreamMalformed("the head is too large", Fault.TOO_LARGE)
        return None

    def _read_again(self, data: bytes, exc: Exception) -> bool:
        """True if a repeated, equal `Content-Length` was all that is wrong, and the rest could be read."""
        if self.status or "Content-Length" not in str(exc):
            return False
        self._has_more = True  # or the next response would be read with this one before it
        self._head += data
        head = final_head(self._head)
        if head is None:
            return True  # the parser fails again when the rest is here
        mended = with_one_length(head)
        if mended is None:
            return False
        self._parser = httptools.HttpResponseParser(self)
        self.reason, self.headers, self.has_length, self.has_hop_fields = b"", [], False, False
        try:
            self._parser.feed_data(mended)
        except httptools.HttpParserError:
            return False
        return True

    @property
    def is_last(self) -> bool:
        """True if the upstream closes its connection behind this response, whose head is here."""
        return not (self.keep_alive if self.complete else self._parser.should_keep_alive())

    @property
    def at_end(self) -> bool:
        """The body is complete and nothing of it is left to read."""
        return self.complete and not self.chunks

    @property
    def whole(self) -> bool:
        """The body is complete, and its length was announced."""
        return self.complete and self.has_length

    @property
    def is_framed(self) -> bool:
        """True if the response itself says where it ends; if not, the connection's end is its end."""
        return self.has_length or any(name == b"transfer-encoding" for name, _ in self.headers)

    def on_message_begin(self) -> None:
        if self.complete:
            self.has_surplus = True

    def on_status(self, reason: bytes) -> None:
        if not self.status:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if not self.status:
            if name in _LOOKED_AT:
                if name == _LENGTH:
                    self.has_length = True
                else:
                    self.has_hop_fields = True
            self.headers.append((name, value))
        elif not self.complete:
            if self.trailers is _NO_TRAILERS:
                self._has_more, self.trailers = True, []
            self.trailers.append((name, value))

    def _look_at_coding(self) -> None:
        """Only `chunked` is undone here, so a body in another coding cannot be passed on."""
        has_coding = False
        for name, value in self.headers:
            if name == b"transfer-encoding":
                if has_coding or (value != b"chunked" and value.strip().lower() != b"chunked"):
                    raise UpstreamMalformed("a transfer coding other than 'chunked'")
                has_coding = True

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        # Counted only if the head can be too large: it came in several reads, or with much of its body.
        if (
            self._field_bytes + self._read_bytes > MAX_HEAD_BYTES
            and head_bytes(self.headers) > MAX_HEAD_BYTES
        ):
            raise UpstreamMalformed("the head is too large", Fault.TOO_LARGE)
        if self.has_hop_fields:
            self._look_at_coding()
        if status < 200:
            if status < 100 or (
                status == SWITCHING_PROTOCOLS and not is_accepted(self.offered, self.headers)
            ):
                raise UpstreamMalformed(f"status {status}, which nobody asked for")
            if status != SWITCHING_PROTOCOLS:
                self._end_interim(status)
                return
        self.status = status
        if self.to_head:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
            # The parser cannot know that no body follows, so it is not asked again.
            self._parser = httptools.HttpResponseParser(self)

    def _end_interim(self, status: int) -> None:
        self._is_interim = self._has_more = True
        self.continued = self.continued or status == 100
        if status != 100:
            headers = [pair for pair in self.headers if pair[0] not in _FRAMING]
            if self.interims is NO_INTERIMS:
                self.interims = []
            self.interims.append((status, self.reason, headers))
        self.reason = b""
        self.headers = []
        self.has_length = self.has_hop_fields = False

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self.has_surplus = True
            return
        self.chunks.append(body)
        self.body_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
        elif not self.complete:
            if self.trailers and head_bytes(self.trailers) > MAX_HEAD_BYTES:
                raise UpstreamMalformed("the trailers are too large", Fault.TOO_LARGE)
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()


def _failure(exc: Exception) -> UpstreamError:
    """What the parser's error says of the response. What a callback raised is the context of it."""
    ours = exc.__context__
    if isinstance(exc, httptools.HttpParserCallbackError) and isinstance(ours, UpstreamError):
        return ours.bare()
    return UpstreamMalformed(f"not HTTP/1.1: {exc}")
