"""Headgate's member of `tracestate`: put in for a run, read at the model port, let through from nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.headers import Forwarding, request_headers
from proxy.http.tracing import MAX_MEMBERS, token_of, with_token, without_token

TOKEN = "k" * 32
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PLAIN = [(b"host", b"a"), (b"x", b"1")]


def state(headers: list[tuple[bytes, bytes]]) -> bytes:
    [value] = [value for name, value in headers if name == b"tracestate"]
    return value


def parent(headers: list[tuple[bytes, bytes]]) -> bytes:
    [value] = [value for name, value in headers if name == b"traceparent"]
    return value


def test_a_clients_own_trace_goes_on_unbroken():
    """Its parent as it came, its members behind ours: ours is the latest (W3C 3.5)."""
    sent = with_token([*PLAIN, (b"traceparent", PARENT), (b"tracestate", b"congo=t61, rojo=00f")], TOKEN)

    assert parent(sent) == PARENT
    assert state(sent) == b"hg=" + TOKEN.encode() + b",congo=t61,rojo=00f"
    assert sent[:2] == PLAIN


def test_several_lines_are_one_list():
    """RFC 9110 5.3, and W3C 3.3.1: "Multiple tracestate header fields MUST be handled"."""
    lines = [(b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]

    assert state(with_token(lines, TOKEN)).endswith(b",a=1,b=2")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01")],
        [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01")],
        [(b"traceparent", b"ff" + PARENT[2:])],
        [(b"traceparent", PARENT.upper())],
        [(b"traceparent", PARENT), (b"traceparent", PARENT)],
        [(b"traceparent", b"")],
    ],
    ids=["none", "no trace", "no parent", "version ff", "upper case", "two", "empty"],
)
def test_without_a_usable_parent_a_trace_is_made_that_nobody_records(headers: list[tuple[bytes, bytes]]):
    """A library that passes trace context on drops the state without a parent; the members belong to that
    parent."""
    first, second = (with_token([*headers, (b"tracestate", b"a=1")], TOKEN) for _ in range(2))

    assert parent(first).startswith(b"00-") and parent(first).endswith(b"-00")
    assert parent(first) != parent(second)
    assert state(first) == b"hg=" + TOKEN.encode()


def test_a_full_list_loses_its_oldest_member():
    """There may be 32; W3C 3.3.1.5: the right-most are the oldest."""
    full = b",".join(b"k%d=v" % n for n in range(MAX_MEMBERS))
    members = state(with_token([(b"traceparent", PARENT), (b"tracestate", full)], TOKEN)).split(b",")

    assert len(members) == MAX_MEMBERS
    assert members[1] == b"k0=v" and members[-1] == b"k30=v"


@pytest.mark.parametrize("broken", [b"a=1,=2", b"A=1", b"a", b"a=\xc3\xa4", b"a=" + b"x" * 257, b"a=b=c,d=1"])
def test_a_malformed_list_does_not_take_ours_with_it(broken: bytes):
    """A reader on the way would drop the whole list."""
    sent = with_token([(b"traceparent", PARENT), (b"tracestate", broken)], TOKEN)

    assert state(sent) == b"hg=" + TOKEN.encode()


@pytest.mark.parametrize(
    ("came", "crosses"),
    [
        (b"hg=forged", None),
        (b"a=1,hg=forged,b=2", b"a=1,b=2"),
        (b"hg=one,a=1,hg=two", b"a=1"),
        (b" hg = x , a=1", b"a=1"),
        (b"a=1 , b=hg", b"a=1 , b=hg"),
        (b"hgx=1", b"hgx=1"),
        (b"x@hg=1", b"x@hg=1"),
    ],
)
def test_a_clients_own_member_is_dropped_at_the_door(came: bytes, crosses: bytes | None):
    """It would name a run. All else of the header is as it came."""
    headers = [(b"host", b"a"), (b"tracestate", came)]
    crossed = request_headers(headers, Forwarding(x_forwarded="off"), None, "http", b"u")

    assert crossed == [(b"host", b"a"), *([(b"tracestate", crosses)] if crosses is not None else [])]
    assert without_token(headers) == crossed


@pytest.mark.parametrize(
    "value", [b"hg=" + b"k" * 32, b"a=1,hg=" + b"k" * 32, b"a=1, hg=" + b"k" * 32 + b" ,b=2"]
)
def test_a_token_is_found_wherever_it_stands(value: bytes):
    """Other participants may put their own members before ours."""
    assert token_of([(b"tracestate", value)]) == TOKEN


@pytest.mark.parametrize(
    "value", [b"hg=short", b"hg=", b"xhg=" + b"k" * 32, b"hg=" + b"!" * 32, b"hg=" + b"k" * 65]
)
def test_what_was_never_a_token_is_none(value: bytes):
    """Nothing is looked up for it."""
    assert token_of([(b"tracestate", value)]) is None


def test_two_tokens_are_none():
    """To choose one of them would be a guess."""
    both = b"hg=" + b"k" * 32 + b",hg=" + b"l" * 32
    assert token_of([(b"tracestate", both)]) is None
    assert token_of([(b"tracestate", b"hg=" + b"k" * 32), (b"tracestate", b"hg=" + b"k" * 32)]) is None


@given(st.lists(st.from_regex(rb"\A[a-z][a-z0-9]{0,5}=[!-+\--<>-~]{1,9}\Z"), max_size=40))
def test_what_was_put_in_is_found_and_taken_out(members: list[bytes]):
    """For every list that a client may send."""
    headers = [(b"traceparent", PARENT), *([(b"tracestate", b",".join(members))] if members else [])]
    sent = with_token(without_token(headers), TOKEN)

    assert token_of(sent) == TOKEN
    assert token_of(without_token(sent)) is None
