"""One more script element in a page on its way through the relay. Whatever is not certain passes untouched.

The page is held until it is here whole, which its length says; a page without one may be a stream of its own.
"""

import re
from typing import Final

from proxy.downstream.client_request import ClientRequest
from proxy.http.content_policy import Forbidden, nonce_for
from proxy.http.headers import Headers
from proxy.observe.labels import PageResult
from proxy.relay.answer_copy import CODINGS, coding_of, decoded
from proxy.relay.sinks import PassingSink

MAX_PAGE_BYTES: Final = 256 * 1024
"""The longest page, as it comes and decoded."""

CHARSET_BYTES: Final = 1024
"""Within so many bytes a page names its character set, or a browser guesses (WHATWG HTML 4.2.5.4)."""

CHARSET_ROOM: Final = 64
"""Bytes from the word to the end of its element, at most."""

SOURCE = b"/_headgate/attach.js"

SUFFIX = b"-headgate"
"""At the end of the tag of a page with the script: it is another representation (RFC 9110 8.8.3)."""

_CONDITIONS_BY_DATE = frozenset({b"if-modified-since", b"if-unmodified-since"})
_OF_THE_BYTES = frozenset({b"content-digest", b"repr-digest", b"digest", b"content-md5", b"signature"})
_OF_THE_OTHER_PAGE = frozenset(
    {b"content-length", b"content-encoding", b"etag", b"last-modified", b"accept-ranges"}
)
_POLICIES = frozenset({b"content-security-policy", b"content-security-policy-report-only"})

_NOTHING = rb"(?:\s|<!--(?!-?>)(?:(?!--!?>).)*+-->)*+"
_ATTRIBUTES = rb"(?:\s+[^\s\"'<>/=]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'=<>`]+))?+)*+"
_START = re.compile(
    rb"(?:\xef\xbb\xbf)?%b(?:<!doctype\s[^>]*>)?+%b(?:<html%b\s*>)?+%b<head%b\s*>"
    % (_NOTHING, _NOTHING, _ATTRIBUTES, _NOTHING, _ATTRIBUTES),
    re.IGNORECASE | re.DOTALL,
)
"""Up to the head. Written strictly: what a browser would read otherwise does not fit."""

_META = re.compile(rb"%b(<meta%b\s*/?>)" % (_NOTHING, _ATTRIBUTES), re.IGNORECASE | re.DOTALL)
_POLICY_IN_PAGE = re.compile(rb"content-security-policy", re.IGNORECASE)
_ASCII_LIKE = re.compile(rb"(?i)utf-?8|us-ascii|iso-8859-\d+|windows-125\d|latin1")


class AttachedPage(PassingSink):
    """Takes the answer of one GET of a page. `result` is None for all that is no page."""

    def __init__(self, client: ClientRequest) -> None:
        super().__init__(client)
        self._client = client
        self._head: tuple[int, bytes, Headers] | None = None
        self._kept = bytearray()
        self.result: PageResult | None = None

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        if status == 304:
            self.result = PageResult.UNCHANGED
            headers = [(name, _with_suffix(value) if name == b"etag" else value) for name, value in headers]
        if self._may_be_held(status, headers):
            self._head = status, reason, headers
            self.answer_more(body, last=last)
        else:
            super().answer(status, reason, headers, body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        if self._head is None:
            super().answer_more(body, last=last)
            return
        self._kept += body
        if last:
            status, reason, headers = self._head
            self._head = None
            headers, page = self._finished(headers, bytes(self._kept))
            super().answer(status, reason, headers, page, last=True)

    def cut(self) -> None:
        """What is held of an answer that will not be whole goes out first, as it came."""
        head, self._head = self._head, None
        if head is not None and not self._client.disconnected:
            super().answer(*head, bytes(self._kept), last=False)
        super().cut()

    def _may_be_held(self, status: int, headers: Headers) -> bool:
        if status != 200 or _media_type(headers) != b"text/html":
            return False
        self.result = self._refusal(headers)
        return self.result is None

    def _refusal(self, headers: Headers) -> PageResult | None:
        length = next((value for name, value in headers if name == b"content-length"), b"")
        if not length.isdigit() or int(length) > MAX_PAGE_BYTES:
            return PageResult.SIZE
        if coding_of(headers) not in {b"", *CODINGS} or not _is_like_ascii(headers):
            return PageResult.CODING
        is_fixed = any(
            name in _OF_THE_BYTES
            or (name == b"cache-control" and b"no-transform" in value.lower())
            or (name == b"content-disposition" and not value.lower().startswith(b"inline"))
            for name, value in headers
        )
        return PageResult.FIXED if is_fixed else None

    def _finished(self, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        """The page that is here whole, with the script if that is right."""
        page = decoded(body, coding_of(headers), MAX_PAGE_BYTES)
        if page is None:
            self.result = PageResult.CODING
            return headers, body
        policies = [value.decode("latin-1") for name, value in headers if name in _POLICIES]
        attached, self.result = with_script(page, policies, names_charset=_charset(headers) is not None)
        if attached is None:
            return headers, body
        kept = [pair for pair in headers if pair[0] not in _OF_THE_OTHER_PAGE]
        tags = [(name, _with_suffix(value)) for name, value in headers if name == b"etag"]
        return [*kept, (b"content-length", b"%d" % len(attached)), *tags], attached


def asked_for_page(headers: Headers) -> Headers:
    """The headers of a request for a page: it comes not encoded, and by its own tags."""
    asked: Headers = []
    for name, value in headers:
        if name == b"if-none-match":
            tags = [tag.strip() for tag in value.split(b",")]
            own = [_without_suffix(tag) for tag in tags if _has_suffix(tag)]
            asked += [(name, b", ".join(own))] if own else []
        elif name == b"accept-encoding":
            asked.append((name, b"identity"))
        elif name not in _CONDITIONS_BY_DATE:
            asked.append((name, value))
    return asked


def with_script(page: bytes, policies: list[str], *, names_charset: bool) -> tuple[bytes | None, PageResult]:
    """A page with the script as the first of its head, or None and why not.

    Args:
        page: whole, in a character set in which ASCII is ASCII.
        policies: of its headers. A page that has one in itself is not read further.
        names_charset: whether its headers name the character set; if not, the page has to within its first
            `CHARSET_BYTES`.
    """
    if SOURCE in page:
        return None, PageResult.FIXED
    head = _START.match(page)
    if head is None or page.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, PageResult.MARKUP
    at = head.end()
    while (meta := _META.match(page, at)) is not None:
        if _POLICY_IN_PAGE.search(meta[1]):
            # Its quotes and character references would have to be read as a browser reads them.
            return None, PageResult.POLICY
        at = meta.end()
    if _POLICY_IN_PAGE.search(page, at):
        return None, PageResult.POLICY
    try:
        nonce = nonce_for(policies)
    except Forbidden:
        return None, PageResult.POLICY
    named = b' nonce="%b"' % nonce.encode() if nonce else b""
    element = b'<script type="module" src="%b"%b></script>' % (SOURCE, named)
    if not names_charset and b"charset" in page[at:CHARSET_BYTES].lower():
        named_by = page.lower().index(b"charset", at) + CHARSET_ROOM
        if named_by + len(element) > CHARSET_BYTES:
            return None, PageResult.MARKUP
    return page[:at] + element + page[at:], PageResult.ATTACHED


def _media_type(headers: Headers) -> bytes:
    value = next((value for name, value in headers if name == b"content-type"), b"")
    return value.partition(b";")[0].strip().lower()


def _charset(headers: Headers) -> bytes | None:
    value = next((value for name, value in headers if name == b"content-type"), b"")
    named = re.search(rb"charset\s*=\s*\"?([^\s;\"]+)", value, re.IGNORECASE)
    return None if named is None else named[1]


def _is_like_ascii(headers: Headers) -> bool:
    """True if the character set that the headers name, if any, has ASCII's bytes for ASCII's characters."""
    charset = _charset(headers)
    return charset is None or _ASCII_LIKE.fullmatch(charset) is not None


def _has_suffix(tag: bytes) -> bool:
    return tag.endswith(SUFFIX + b'"')


def _with_suffix(tag: bytes) -> bytes:
    return tag[:-1] + SUFFIX + b'"' if tag.endswith(b'"') else tag


def _without_suffix(tag: bytes) -> bytes:
    return tag.removesuffix(SUFFIX + b'"') + b'"'
