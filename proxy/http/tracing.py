"""Trace context, which links a model call to its run: the upstream passes on the token in it.

Usually the token is Headgate's member of the W3C `tracestate` header, and the client's own trace goes on
unbroken beside it. For an upstream that loses `tracestate`, the token is the trace id itself (`TraceId`): the
upstream sees another trace, whose `tracestate` names the client's.

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
_PARENT_MEMBER: Final = b"hg-parent"
"""Beside a trace id that is a token: the client's own `traceparent`, or `NO_PARENT`."""
NO_PARENT: Final = b"none"
_MEMBERS: Final = frozenset({_MEMBER, _PARENT_MEMBER})
_OURS: Final = re.compile(rb"(?:^|,)[ \t]*hg=([A-Za-z0-9_-]{22,64})[ \t]*(?=,|$)")

# 3.2.2.2 and 3.2.2.3: ids of all zeros are invalid, and so is version ff.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_LISTED: Final = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)

_TRACE: Final = slice(3, 35)
"""The place of the trace id in a `traceparent`."""

# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html, "Tracing header".
_XRAY: Final = b"x-amzn-trace-id"
TRACING: Final = frozenset({b"traceparent", b"tracestate", _XRAY})
"""The headers in which a token may come."""
CONTEXT: Final = frozenset({b"traceparent", b"tracestate"})
"""The headers of W3C's trace context."""
_ROOT: Final = re.compile(rb"(?:^|;)[ \t]*Root=1-([0-9a-f]{8})-([0-9a-f]{24})[ \t]*(?=;|$)")
_XRAY_SAMPLED: Final = re.compile(rb"(?:^|;)[ \t]*Sampled=1[ \t]*(?=;|$)")


class TraceId(str):
    """A token that travels as the trace id: 32 hexadecimal digits."""

    __slots__ = ()

    @classmethod
    def random(cls) -> "TraceId":
        """128 random bits, all of them: nobody finds a run by trying."""
        return cls(secrets.token_hex(16))


def token_of(headers: Fields) -> str | None:
    """The token in our member, if there is exactly one."""
    found = [match for name, value in headers if name == b"tracestate" for match in _OURS.findall(value)]
    return found[0].decode() if len(found) == 1 else None


def trace_ids_of(headers: Fields) -> set[str]:
    """The trace ids that a call carries: of W3C's header and of X-Ray's. Any of them may be a `TraceId`."""
    found = {value[_TRACE] for name, value in headers if name == b"traceparent" and _is_parent(value)}
    found |= {b"".join(root) for name, value in headers if name == _XRAY for root in _ROOT.findall(value)}
    return {trace_id.decode() for trace_id in found}


def trace_id_of(parent: bytes) -> str | None:
    """The trace id in a `traceparent`; None: it is not valid."""
    return parent[_TRACE].decode() if _is_parent(parent) else None


def without_token(headers: Fields, token: str | None = None) -> Fields:
    """Fields without anything of ours; everything else stays as it was.

    The client's own trace takes the place of one whose id is a token. If it has none, there is none.

    Args:
        headers: of a request to Headgate or of a call to the model port.
        token: the token that the call was found to carry. Without it, a trace id counts as one if our member
            stands beside it.
    """
    kept: Fields = []
    parent: bytes | None = None
    for name, value in headers:
        if name != b"tracestate" or _MEMBER not in value:
            kept.append((name, value))
            continue
        others = []
        for member in value.split(b","):
            if not _is_ours(member):
                others.append(member)
            elif _name(member) == _PARENT_MEMBER:
                parent = member.partition(b"=")[2].strip(b" \t")
        if others:
            kept.append((name, b",".join(others).strip()))
    if parent is not None or isinstance(token, TraceId):
        ours = trace_ids_of(headers) if token is None else {token}
        return _with_own_trace(kept, ours, parent or NO_PARENT)
    return kept


def _with_own_trace(headers: Fields, ours: set[str], parent: bytes) -> Fields:
    """Fields in which the trace of `parent` stands for the traces `ours`."""
    kept: Fields = []
    is_dropped = False
    for name, value in headers:
        if name == b"traceparent" and trace_ids_of([(name, value)]) & ours:
            if _is_parent(parent):
                kept.append((name, value[: _TRACE.start] + parent[_TRACE] + value[_TRACE.stop :]))
            else:
                is_dropped = True
        elif name != _XRAY or not trace_ids_of([(name, value)]) & ours:
            kept.append((name, value))
    return [pair for pair in kept if pair[0] != b"tracestate"] if is_dropped else kept


def with_token(headers: Fields, token: str) -> Fields:
    """Fields that carry a token, for a request of a run."""
    return _with_trace_id(headers, token) if isinstance(token, TraceId) else _with_member(headers, token)


def _with_trace_id(headers: Fields, token: TraceId) -> Fields:
    """A trace of ours in the place of the client's, in both headers that there are for it.

    It is recorded where the client's is. Other members of `tracestate` belong to the client's trace.
    """
    came = [(name, value) for name, value in headers if name in {b"traceparent", _XRAY}]
    parents = [value for name, value in came if name == b"traceparent"]
    parent = parents[0] if len(parents) == 1 and _is_parent(parents[0]) else NO_PARENT
    if parent is NO_PARENT:
        is_sampled = any(name == _XRAY and _XRAY_SAMPLED.search(value) for name, value in came)
    else:
        is_sampled = bool(int(parent[53:55], 16) & 1)
    trace_id, span = token.encode(), secrets.token_hex(8).encode()
    return [
        *(pair for pair in headers if pair[0] not in {b"traceparent", b"tracestate", _XRAY}),
        (b"traceparent", b"00-%b-%b-0%d" % (trace_id, span, is_sampled)),
        (b"tracestate", _PARENT_MEMBER + b"=" + parent),
        (_XRAY, b"Root=1-%b-%b;Parent=%b;Sampled=%d" % (trace_id[:8], trace_id[8:], span, is_sampled)),
    ]


def _with_member(headers: Fields, token: str) -> Fields:
    """The client's own trace, and our member in its `tracestate`.

    Without a `traceparent` the `tracestate` does not count (3.3.1): if the client sent none, or an invalid
    one, there is a new one, of a trace that nobody records. A malformed list of members would be dropped
    whole on its way (3.3.1.5), so it is dropped here.
    """
    parents = [value for name, value in headers if name == b"traceparent"]
    rest = [pair for pair in headers if pair[0] not in {b"traceparent", b"tracestate"}]
    if len(parents) != 1 or not _is_parent(parents[0]):
        made = b"00-%b-%b-00" % (secrets.token_hex(16).encode(), secrets.token_hex(8).encode())
        return [*rest, (b"traceparent", made), (b"tracestate", b"hg=" + token.encode())]
    lists = [value for name, value in headers if name == b"tracestate"]
    members = [member.strip(b" \t") for member in b",".join(lists).split(b",")]
    others = [member for member in members if member and not _is_ours(member)]
    if not all(_LISTED.fullmatch(member) for member in others):
        others = []
    state = b",".join([b"hg=" + token.encode(), *others[: MAX_MEMBERS - 1]])
    return [*rest, (b"traceparent", parents[0]), (b"tracestate", state)]


def _is_parent(value: bytes) -> bool:
    return _TRACEPARENT.fullmatch(value) is not None


def _is_ours(member: bytes) -> bool:
    return _name(member) in _MEMBERS


def _name(member: bytes) -> bytes:
    return member.partition(b"=")[0].strip(b" \t")
