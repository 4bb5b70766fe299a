"""The table of the answer's direction, row by row, and heads that are written in one pass."""

from itertools import product

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import RequestRefused
from proxy.http.framing import CHUNKED, check_framing
from proxy.http.headers import HOP_BY_HOP, X_FORWARDED, Forwarding, Headers, request_headers, write_head
from proxy.http.request_head import MAX_FIELDS, HeadWriter
from proxy.http.request_rules import PLAIN as PLAIN_TARGET
from proxy.relay.steps import NextStep, next_step

FACTS = ("is_begun", "has_head", "has_more", "has_failed", "is_quick", "client_is_slow")

ROWS: list[tuple[dict[str, bool], NextStep]] = [
    ({"has_head": False, "has_failed": True}, NextStep.FAIL),
    ({"has_head": False}, NextStep.WAIT),
    ({"client_is_slow": True}, NextStep.WAIT_FOR_CLIENT),
    ({"has_more": True}, NextStep.PASS_ON),
    ({"has_failed": True}, NextStep.FAIL),
    ({"is_begun": True}, NextStep.WAIT),
    ({"is_quick": True}, NextStep.WAIT),
    ({}, NextStep.PASS_ON),
]
"""As in `docs/design.md`: the first row that fits counts."""


@pytest.mark.parametrize("facts", list(product([False, True], repeat=len(FACTS))))
def test_the_next_step_is_the_first_row_that_fits(facts: tuple[bool, ...]) -> None:
    """For all combinations of what is known."""
    known = dict(zip(FACTS, facts, strict=True))
    expected = next(step for row, step in ROWS if row.items() <= known.items())

    assert next_step(**known) is expected


NAMES = [
    *(
        b"host",
        b"content-length",
        b"accept",
        b"cookie",
        b"x-request-id",
        b"x_forwarded_for",
        b"content_length",
    ),
    *(b"tracestate", b"expect", b"my_header", *HOP_BY_HOP),
    *X_FORWARDED,
]
VALUES = [
    *(
        b"a.example",
        b"b.example:80",
        b"a b",
        b"",
        b"0",
        b"12",
        b"close",
        b"keep-alive",
        b"Close",
        b"x-request-id",
    ),
    *(b"chunked", b"100-continue", b"hg=abcdefghijklmnopqrstuvwx", b"10.0.0.1"),
]
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6)
PLAIN = st.lists(st.tuples(st.sampled_from(NAMES[2:6]), st.sampled_from(VALUES)), max_size=4).map(
    lambda fields: [(b"host", b"a.example"), *fields, (b"connection", b"close"), (b"content-length", b"12")]
)
BY_PROXIES = st.lists(
    st.tuples(st.sampled_from(sorted(X_FORWARDED)), st.sampled_from(VALUES)), max_size=5
).map(lambda fields: [*fields[:2], (b"accept", b"*/*"), (b"host", b"a.example"), *fields[2:]])
FORWARDING = st.builds(
    Forwarding,
    x_forwarded=st.sampled_from(["append", "replace", "off"]),
    forwarded=st.booleans(),
    via=st.booleans(),
    upstream_host=st.sampled_from([None, b"upstream"]),
)


@given(
    FIELDS | PLAIN | BY_PROXIES,
    FORWARDING,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([None, "10.0.0.7", "::1"]),
)
def test_a_head_written_in_one_pass_is_the_same_head(
    headers: Headers, forwarding: Forwarding, method: str, address: str | None
) -> None:
    """The quick way gives the very bytes of the long way, or none, for any headers."""
    plain = HeadWriter(forwarding).plain_head(method, b"/x?y", headers, address, "http")
    if plain is None:
        return
    framing = check_framing(headers, "1.1")
    sent = request_headers(headers, forwarding, address, "http", b"fallback")

    assert framing not in CHUNKED
    assert plain == (write_head(method.encode(), b"/x?y", sent), framing)


@given(FIELDS, FORWARDING)
def test_what_is_to_be_refused_is_not_written_in_one_pass(headers: Headers, forwarding: Forwarding) -> None:
    """The long way refuses it, and says why."""
    try:
        check_framing(headers, "1.1")
        request_headers(headers, forwarding, None, "http", b"fallback")
    except RequestRefused:
        assert HeadWriter(forwarding).plain_head("GET", b"/", headers, None, "http") is None


def test_a_head_of_a_browser_is_written_in_one_pass() -> None:
    """Or nothing would be gained; also the second of a client, whose end is kept."""
    headers = [(b"host", b"a.example"), (b"accept", b"*/*"), (b"connection", b"keep-alive")]
    writer = HeadWriter(Forwarding())
    heads = [writer.plain_head("GET", b"/", headers, "10.0.0.7", "http") for _ in range(2)]

    assert heads[0] is not None
    assert heads[0] == heads[1]


def test_a_head_of_very_many_fields_is_not_written_in_one_pass() -> None:
    """Each field copies what is there before it."""
    headers = [(b"host", b"a"), *[(b"x", b"y")] * (MAX_FIELDS - 1)]
    writer = HeadWriter(Forwarding())

    assert writer.plain_head("GET", b"/", headers, None, "http") is not None
    assert writer.plain_head("GET", b"/", [*headers, (b"x", b"y")], None, "http") is None


def test_a_head_that_a_proxy_in_front_adds_to_is_written_in_one_pass() -> None:
    """A clinic has one."""
    said = [(b"x-forwarded-for", b"10.1.2.3"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"b")]
    plain = HeadWriter(Forwarding()).plain_head("GET", b"/", [(b"host", b"a"), *said], "10.0.0.7", "http")

    assert plain is not None
    assert plain[0] == (
        b"GET / HTTP/1.1\r\nhost: a\r\n"
        b"x-forwarded-for: 10.1.2.3, 10.0.0.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: b\r\n\r\n"
    )


@given(st.lists(st.sampled_from(PLAIN_TARGET)).map(bytes))
@example(PLAIN_TARGET)
def test_the_parser_takes_each_target_that_is_plainly_a_path(rest: bytes) -> None:
    """So such a target needs no look by the parser."""
    url = httptools.parse_url(b"/" + rest)

    assert url.schema is url.host is url.fragment is None
    assert url.path + (b"" if url.query is None else b"?" + url.query) in (
        b"/" + rest,
        (b"/" + rest).rstrip(b"?"),
    )
