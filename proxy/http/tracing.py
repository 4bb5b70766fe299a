"""Headgate's member of the W3C `tracestate` header: how a model call says which run it belongs to.

An upstream that propagates trace context carries the member to its language model calls without knowing it.
The client's own trace goes on unbroken beside it.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/ ; sections are its.
"""

import re
import secrets
from typing import Final

Fields = list[tuple[bytes, bytes]]
"""Header fields, names in lower case."""

MAX_MEMBERS: Final = 32
"""3.3.1.1: "There can be a maximum of 32 list-members in a list." The last are the oldest, and go first."""

_MEMBER: Final = b"hg"
_OURS: Final = re.compile(rb"(?:^|,)[ \t]*hg=([A-Za-z0-9_-]{22,64})[ \t]*(?=,|$)")

# 3.2.2.2 and 3.2.2.3: ids of all zeros are invalid, and so is version ff.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_LISTED: Final = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


def token_of(headers: Fields) -> str | None:
    """The token in our member, if there is exactly one."""
    found = [match for name, value in headers if name == b"tracestate" for match in _OURS.findall(value)]
    return found[0].decode() if len(found) == 1 else None


def has_context(headers: Fields) -> bool:
    """Whether a call carries any trace context."""
    return any(name in (b"traceparent", b"tracestate") for name, _ in headers)


def without_token(headers: Fields) -> Fields:
    """Fields without our member; everything else stays as it was."""
    kept: Fields = []
    for name, value in headers:
        if name != b"tracestate" or _MEMBER not in value:
            kept.append((name, value))
            continue
        members = [member for member in value.split(b",") if not _is_ours(member)]
        if members:
            kept.append((name, b",".join(members).strip()))
    return kept


def with_token(headers: Fields, token: str) -> Fields:
    """Fields that carry a token, for a request of a run.

    Without a `traceparent` the `tracestate` does not count (3.3.1): if the client sent none, or an invalid
    one, there is a new one, of a trace that nobody records. A malformed list of members would be dropped
    whole on its way (3.3.1.5), so it is dropped here.
    """
    parents = [value for name, value in headers if name == b"traceparent"]
    rest = [pair for pair in headers if pair[0] not in {b"traceparent", b"tracestate"}]
    if len(parents) != 1 or not _TRACEPARENT.fullmatch(parents[0]):
        made = b"00-%b-%b-00" % (secrets.token_hex(16).encode(), secrets.token_hex(8).encode())
        return [*rest, (b"traceparent", made), (b"tracestate", b"hg=" + token.encode())]
    lists = [value for name, value in headers if name == b"tracestate"]
    members = [member.strip(b" \t") for member in b",".join(lists).split(b",")]
    others = [member for member in members if member and not _is_ours(member)]
    if not all(_LISTED.fullmatch(member) for member in others):
        others = []
    state = b",".join([b"hg=" + token.encode(), *others[: MAX_MEMBERS - 1]])
    return [*rest, (b"traceparent", parents[0]), (b"tracestate", state)]


def _is_ours(member: bytes) -> bool:
    return member.partition(b"=")[0].strip(b" \t") == _MEMBER
