"""Whom proxies in front may name: one table for `X-Forwarded-…` and `Forwarded`, and strangers' tricks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.forwarded import MAX_HOPS, MAX_KNOWN, ByTrust, TrustedProxies, last_named, peer_alone
from proxy.http.headers import Headers

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7", "unix"])
STRANGER = "203.0.113.9"
PROXY = "10.0.0.1"
UNTOUCHED: Headers = [(b"host", b"a"), (b"accept", b"*/*"), (b"via", b"1.1 x"), (b"x-forwarder", b"1")]


def fields(*lines: str) -> Headers:
    """Headers as they are written, one a line."""
    pairs = (line.partition(": ") for line in lines)
    return [(name.encode(), value.encode("latin-1")) for name, _, value in pairs]


def told(
    said: list[str], peer: str = PROXY, *, appends: bool = True, announces: bool = False
) -> tuple[list[str], str]:
    """What is left of what was said, and the client."""
    by_trust = ByTrust(TRUSTED, appends=appends, announces=announces)
    headers, client = by_trust([*UNTOUCHED, *fields(*said)], peer)
    assert headers[: len(UNTOUCHED)] == UNTOUCHED
    return [
        f"{name.decode()}: {value.decode('latin-1')}" for name, value in headers[len(UNTOUCHED) :]
    ], client


FOR = "x-forwarded-for: "
EVERYTHING = [
    FOR + "1.1.1.1",
    "x-forwarded-proto: https",
    "x-forwarded-host: evil",
    "x-forwarded-port: 1",
    "x-forwarded-prefix: /evil",
    "forwarded: for=1.1.1.1;host=evil",
    "x-real-ip: 1.1.1.1",
]


@pytest.mark.parametrize("peer", [STRANGER, "11.0.0.1", "fe80::1", "", "nonsense", "::ffff:203.0.113.9"])
def test_what_a_stranger_says_of_itself_is_dropped(peer: str) -> None:
    """Every name of it, and nothing else; the request counts for the stranger's own address."""
    assert told(EVERYTHING, peer) == ([], peer)


@pytest.mark.parametrize("peer", [PROXY, "192.0.2.7", "fd12::1", "unix", "::ffff:10.2.3.4"])
def test_a_trusted_proxy_is_believed(peer: str) -> None:
    """By IPv4, IPv6, IPv4 as a socket of both families shows it, or a Unix socket."""
    said = [FOR + STRANGER, "x-forwarded-proto: https", "x-forwarded-host: a.example:8443"]
    assert told(said, peer) == (said, STRANGER)


def test_a_network_of_ipv4_may_be_written_as_ipv6() -> None:
    """As an operator writes it who has seen such peers in a log."""
    trusted = TrustedProxies(["::ffff:10.0.0.0/104", "::ffff:192.0.2.7", "::/64"])

    assert [trusted.has(peer) for peer in ("10.9.9.9", "::ffff:10.9.9.9", "192.0.2.7", "::5")] == [True] * 4
    assert [trusted.has(peer) for peer in ("11.0.0.1", "192.0.2.8", "::1:0:0:0:0")] == [False] * 3


def test_a_zone_adds_no_parameter() -> None:
    """Whoever is within a trusted network could write others' names behind it."""
    evil = 'fe80::1%";host=evil.example;x="]'
    for said in (FOR + f"{evil}, 10.0.0.2", r'forwarded: for="[fe80::1%\";host=evil;x=\"]", for=10.0.0.2'):
        left, client = told([said], announces=True)
        assert client == "10.0.0.2"
        assert left == [FOR + "10.0.0.2", "forwarded: for=10.0.0.2"]


CHAINS: list[tuple[list[str], list[str], str]] = [
    # The walk from the right ends with the first that is no trusted proxy.
    (["6.6.6.6, 203.0.113.9"], ["203.0.113.9"], STRANGER),
    (["6.6.6.6, 203.0.113.9, 10.0.0.2, fd00::3"], ["203.0.113.9, 10.0.0.2, fd00::3"], STRANGER),
    # A stranger that claims to be a proxy of ours has said so before an honest one names it.
    (["10.0.0.9, 203.0.113.9, 10.0.0.2"], ["203.0.113.9, 10.0.0.2"], STRANGER),
    # Several lines are one list (RFC 9110 5.3).
    (["6.6.6.6", "203.0.113.9, 10.0.0.2", "10.0.0.3"], ["203.0.113.9, 10.0.0.2, 10.0.0.3"], STRANGER),
    # A client within the trusted networks is one, too.
    (["10.0.0.8, 10.0.0.2"], ["10.0.0.8, 10.0.0.2"], "10.0.0.8"),
    # With ports, as Azure writes them, and IPv6 in brackets or without.
    (["203.0.113.9:41000"], ["203.0.113.9"], STRANGER),
    (["[2001:db8::1]:41000"], ["2001:db8::1"], "2001:db8::1"),
    (["2001:DB8:0::1"], ["2001:db8::1"], "2001:db8::1"),
    (["::ffff:203.0.113.9"], ["203.0.113.9"], STRANGER),
    (["203.0.113.9:_hidden"], ["203.0.113.9"], STRANGER),
    # A zone is of one machine alone, and may have any characters.
    (["fe80::1%eth0"], ["fe80::1"], "fe80::1"),
    (["[fe80::1%25eth0]:41000"], ["fe80::1"], "fe80::1"),
    (["fe80::1%eth0]/a b, 10.0.0.2"], ["10.0.0.2"], "10.0.0.2"),
    # What cannot be read ends the walk before it.
    (["203.0.113.9, unknown"], [], PROXY),
    (["203.0.113.9, nonsense, 10.0.0.2"], ["10.0.0.2"], "10.0.0.2"),
    (["203.0.113.9,, 10.0.0.2"], ["10.0.0.2"], "10.0.0.2"),
    (["203.0.113.9, unix, 10.0.0.2"], ["10.0.0.2"], "10.0.0.2"),
    (["[203.0.113.9"], [], PROXY),
    (["203.0.113.9:http"], [], PROXY),
    (["203.0.113.9:\xb2"], [], PROXY),
    (["203.0.113.09"], [], PROXY),
    (["1.2.3"], [], PROXY),
    (["\xb2\xb3.1.1.1"], [], PROXY),
    ([""], [], PROXY),
]


@pytest.mark.parametrize(("lines", "kept", "client"), CHAINS)
def test_the_chain_is_believed_as_far_as_it_is_of_trusted_proxies(
    lines: list[str], kept: list[str], client: str
) -> None:
    """An upstream may read it from either end: its first address is the client's, whatever came before."""
    assert told([FOR + line for line in lines]) == ([FOR + line for line in kept], client)


@pytest.mark.parametrize(("lines", "kept", "client"), [case for case in CHAINS if case[1]])
def test_forwarded_is_read_by_the_same_rule(lines: list[str], kept: list[str], client: str) -> None:
    """The same chains in the form of RFC 7239 have the same client, and the upstream the same addresses."""
    said = []
    for line in lines:
        nodes = (f'"{node.strip()}"' for node in line.split(","))
        said.append("forwarded: " + ", ".join(f"for={node}" for node in nodes))
    left, found = told(said)

    assert (left[0], found) == (FOR + kept[0], client)


WRITTEN: list[tuple[list[str], list[str], str]] = [
    # How the client came is said by the element that names it.
    (
        ["For=203.0.113.9;Proto=HTTPS;HOST=a.example, for=10.0.0.2;proto=http;by=10.0.0.3;secret=x"],
        [
            FOR + "203.0.113.9, 10.0.0.2",
            "x-forwarded-proto: https",
            "x-forwarded-host: a.example",
            'forwarded: for=203.0.113.9;host="a.example";proto=https, for=10.0.0.2',
        ],
        STRANGER,
    ),
    (
        ['for="[2001:db8::1]:4711";host="a.example:8443"'],
        [
            FOR + "2001:db8::1",
            "x-forwarded-host: a.example:8443",
            'forwarded: for="[2001:db8::1]";host="a.example:8443"',
        ],
        "2001:db8::1",
    ),
    # An open quote of a stranger's does not swallow what the proxy has appended behind it.
    (['for="x, for=203.0.113.9'], [FOR + STRANGER, "forwarded: for=203.0.113.9"], STRANGER),
    (
        ['for="x, for="[2001:db8::1]"'],
        [FOR + "2001:db8::1", 'forwarded: for="[2001:db8::1]"'],
        "2001:db8::1",
    ),
    (['for="a\\", for=203.0.113.9;x="b,c"'], [FOR + STRANGER, "forwarded: for=203.0.113.9"], STRANGER),
    # Hidden, unknown, broken: what is said of the connection holds, and nobody is named.
    (["for=_hidden;proto=https"], ["x-forwarded-proto: https"], PROXY),
    (["for=unknown"], [], PROXY),
    (["for"], [], PROXY),
    (["for=203.0.113.9;for"], [], PROXY),
    ([", ,"], [], PROXY),
    # No host, no scheme: refused as such, without a guess.
    (
        ['for=203.0.113.9;proto=gopher;host="a, b"'],
        [FOR + STRANGER, "forwarded: for=203.0.113.9"],
        STRANGER,
    ),
]


@pytest.mark.parametrize(("lines", "left", "client"), WRITTEN)
def test_forwarded_alone_is_told_in_both_ways(lines: list[str], left: list[str], client: str) -> None:
    """An upstream that knows only the other header must not take the proxy for the client."""
    assert told([f"forwarded: {line}" for line in lines]) == (left, client)


def test_both_headers_are_told_alike_where_both_came() -> None:
    """A proxy that writes one of them passes on what its client has put into the other."""
    said = [FOR + STRANGER, "forwarded: for=10.0.0.8;host=evil", "x-real-ip: 10.0.0.8"]
    expected = [FOR + STRANGER, "forwarded: for=203.0.113.9", "x-real-ip: 203.0.113.9"]

    assert told(said) == (expected, STRANGER)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (["x-forwarded-proto: http, HTTPS"], ["x-forwarded-proto: https"]),
        (["x-forwarded-proto: https", "x-forwarded-proto: http"], ["x-forwarded-proto: http"]),
        (["x-forwarded-proto: wss"], []),
        (["x-forwarded-host: evil, a.example"], ["x-forwarded-host: a.example"]),
        (["x-forwarded-host: a b"], []),
        (["x-forwarded-port: 8443"], ["x-forwarded-port: 8443"]),
        (["x-forwarded-port: 65536"], []),
        (["x-forwarded-port: \xb2"], []),
        (["x-forwarded-prefix: /app"], ["x-forwarded-prefix: /app"]),
    ],
)
def test_a_list_counts_as_its_last_value(said: list[str], left: list[str]) -> None:
    """The nearest proxy has written that one, or let it pass; what is none of its kind is dropped."""
    assert told(said) == (left, PROXY)


def test_the_upstream_is_told_in_the_headers_that_the_settings_say() -> None:
    """`off` adds no `X-Forwarded-…` to `Forwarded`; `forwarded` adds that to `X-Forwarded-For`."""
    assert told(["forwarded: for=1.1.1.1"], appends=False) == (["forwarded: for=1.1.1.1"], "1.1.1.1")
    said = [FOR + "1.1.1.1"]
    assert told(said, appends=False) == (said, "1.1.1.1")
    assert told(said, announces=True) == ([*said, "forwarded: for=1.1.1.1"], "1.1.1.1")


def test_the_walk_is_bounded() -> None:
    """A long chain, and one of commas alone, are looked at no further than the bound."""
    hops = ", ".join(["10.0.0.2"] * 10_000)
    left, client = told([FOR + hops])

    assert left == [FOR + ", ".join(["10.0.0.2"] * MAX_HOPS)]
    assert client == "10.0.0.2"
    assert told(['forwarded: x="' + "," * 60_000]) == ([], PROXY)


def test_what_is_kept_of_what_was_said_is_bounded() -> None:
    """And the same is found the second time, also where nobody is named and the peer is another one."""
    by_trust = ByTrust(TRUSTED, appends=True, announces=False)
    for number in range(MAX_KNOWN + 10):
        said = fields(f"{FOR}203.0.{number // 256}.{number % 256}")
        assert by_trust(said, f"10.1.{number // 256}.{number % 256}") == (said, said[0][1].decode())
    assert len(by_trust._known) <= MAX_KNOWN
    assert len(by_trust._peers) <= MAX_KNOWN
    for _ in range(2):
        for peer in (PROXY, "10.0.0.2"):
            said = fields("x-real-ip: 1.1.1.1")
            assert by_trust(said, peer) == (fields(f"x-real-ip: {peer}"), peer)
        assert by_trust(said, STRANGER) == ([], STRANGER)
        assert by_trust(said, "unix") == ([], "unix")
    by_trust(fields(FOR + "10.0.0.2, " * 100 + STRANGER), PROXY)
    assert all(len(key[0][1]) < 600 for key in by_trust._known)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)) | st.just('for=","'))
def test_nothing_that_a_stranger_writes_reaches_past_its_address(spoof: str) -> None:
    """A proxy appends to whatever came, on the same line or the next: the client is whom it has appended."""
    for said in (
        [f"{FOR}{spoof}, {STRANGER}"],
        [f"{FOR}{spoof}", f"{FOR}{STRANGER}"],
        [f"forwarded: {spoof}, for={STRANGER}"],
        [f'forwarded: {spoof}, for="{STRANGER}:80";proto=https'],
        [f"forwarded: {spoof}", f"forwarded: for={STRANGER}"],
    ):
        left, client = told(said)

        assert client == STRANGER
        assert left[0] == FOR + STRANGER


def test_without_trusted_proxies_all_is_as_it_was() -> None:
    """The last address counts with `append`, the peer with the others; no header is touched."""
    headers = fields(*EVERYTHING, FOR + "2.2.2.2, 3.3.3.3")

    assert last_named(headers, STRANGER) == (headers, "3.3.3.3")
    assert last_named(fields("host: a", FOR), STRANGER)[1] == STRANGER
    assert peer_alone(headers, STRANGER) == (headers, STRANGER)
