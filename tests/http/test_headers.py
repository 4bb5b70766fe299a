"""The header tables: what crosses in each direction, without a wire."""

import pytest

from proxy.errors import RequestRefused
from proxy.http.headers import (
    HOP_BY_HOP,
    KEPT_THOUGH_LISTED,
    Forwarding,
    Headers,
    end_to_end,
    request_headers,
    response_headers,
    write_head,
)

PLAIN = Forwarding(x_forwarded="off")


def requested(headers: Headers, forwarding: Forwarding = PLAIN, client: str | None = "10.0.0.1") -> Headers:
    return request_headers(headers, forwarding, client, "https", b"upstream:8000")


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_field_does_not_cross(name: bytes):
    """In neither direction, and what stands beside it keeps its order."""
    headers = [(b"host", b"a"), (name, b"x"), (b"b", b"2"), (b"b", b"1"), (name, b"y")]

    assert requested(headers) == [(b"host", b"a"), (b"b", b"2"), (b"b", b"1")]
    assert response_headers(headers, 200) == [(b"host", b"a"), (b"b", b"2"), (b"b", b"1")]


@pytest.mark.parametrize(
    "value", [b"x-one, X-Two", b" x-one ,,x-two", b"close, x-one,x-two\t", b"X-TWO,x-one"]
)
def test_what_connection_lists_does_not_cross(value: bytes):
    """The list may be written in any way (RFC 9110 7.6.1)."""
    headers = [
        (b"host", b"a"),
        (b"x-one", b"1"),
        (b"connection", value),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
    ]

    assert requested(headers) == end_to_end(headers) == [(b"host", b"a"), (b"x-three", b"3")]


def test_two_connection_fields_count_as_one_list():
    """The second does not hide the first."""
    headers = [(b"connection", b"x-one"), (b"connection", b"keep-alive"), (b"x-one", b"1"), (b"host", b"a")]

    assert requested(headers) == [(b"host", b"a")]


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"x-forwarded-prefix", b"forwarded", b"x-real-ip"])
def test_what_a_proxy_in_front_says_cannot_be_dropped_by_listing_it(name: bytes):
    """The upstream would believe that the client came another way."""
    headers = [(b"host", b"a"), (name, b"said before"), (b"connection", b"close, " + name.title())]

    assert (name, b"said before") in requested(headers)


def test_who_somebody_is_cannot_be_dropped_by_listing_it():
    """Else the API would see no user, where Headgate decided for one."""
    forwarding = Forwarding(x_forwarded="off", kept=frozenset({b"x-user", b"x-tenant"}))
    headers = [(b"host", b"a"), (b"x-user", b"u"), (b"x-tenant", b"t"), (b"x-other", b"o")]

    listed = requested([*headers, (b"connection", b"x-user, X-Tenant, x-other")], forwarding)
    assert listed == headers[:3]


@pytest.mark.parametrize("name", sorted(KEPT_THOUGH_LISTED))
def test_an_end_to_end_field_cannot_be_dropped_by_listing_it(name: bytes):
    """A client could otherwise take away what the upstream, or a proxy in front, relies on."""
    headers = [(name, b"x"), (b"connection", name)]

    assert (name, b"x") in requested(headers)


@pytest.mark.parametrize(
    ("client", "element"),
    [
        ("10.0.0.1", b"for=10.0.0.1"),
        ("2001:db8::1", b'for="[2001:db8::1]"'),
        (None, b"for=unknown"),
    ],
)
def test_forwarded_names_the_client_as_rfc_7239_writes_it(client: str | None, element: bytes):
    """An IPv6 address is quoted and bracketed; who is not known is called so."""
    headers = requested([(b"host", b'a"b\\')], Forwarding(x_forwarded="off", forwarded=True), client)

    assert headers[-1] == (b"forwarded", element + b';host="ab";proto=https')


def test_x_forwarded_for_grows_by_one_hop_as_one_line():
    """Several lines that came become one list, in order, with the client last."""
    headers = requested(
        [(b"x-forwarded-for", b"1.1.1.1"), (b"host", b"a"), (b"x-forwarded-for", b"2.2.2.2, 3.3.3.3")],
        Forwarding(),
    )

    assert headers == [
        (b"host", b"a"),
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"a"),
    ]


def test_replace_believes_nothing_that_came():
    """For a Headgate that clients reach directly: each of the three is its own word."""
    came = [
        (b"x-forwarded-for", b"9.9.9.9"),
        (b"x-forwarded-proto", b"gopher"),
        (b"x-forwarded-host", b"evil"),
    ]
    headers = requested([(b"host", b"a"), *came], Forwarding(x_forwarded="replace"))

    assert b"9.9.9.9" not in b"".join(value for _, value in headers)
    assert headers[1:] == [
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"a"),
    ]


def test_a_client_without_a_host_gets_the_upstreams():
    """HTTP/1.0 needs none; HTTP/1.1 upstreams do."""
    assert requested([]) == [(b"host", b"upstream:8000")]
    assert requested([], Forwarding(x_forwarded="off", upstream_host=b"b")) == [(b"host", b"b")]


def test_two_hosts_are_refused():
    """A server that routes by the one and answers by the other would serve the wrong tenant (RFC 9112
    3.2)."""
    for second in (b"a", b"b"):
        with pytest.raises(RequestRefused) as refused:
            requested([(b"host", b"a"), (b"connection", b"x"), (b"host", second)])
        assert refused.value.status == 400


@pytest.mark.parametrize(("status", "kept"), [(200, True), (204, False), (304, False), (206, True)])
def test_an_answer_without_a_body_announces_no_length(status: int, kept: bool):
    """The server below would wait for the bytes (RFC 9110 8.6)."""
    headers = [(b"content-length", b"5"), (b"etag", b"e")]

    assert (headers[0] in response_headers(headers, status)) is kept


def test_a_head_is_written_as_it_was_read():
    """With one space after the colon, and bytes beyond ASCII unchanged."""
    head = write_head(b"GET", b"/a?", [(b"host", b"a"), (b"x", b"\xe4 b")])

    assert head == b"GET /a? HTTP/1.1\r\nhost: a\r\nx: \xe4 b\r\n\r\n"
