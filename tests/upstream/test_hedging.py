"""The requests that are hedged while they meet silence."""

import pytest

from proxy.upstream.hedging import MAX_SLOW_PATHS, SLOW_PATH_S, Hedging


def request(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: a", *headers, "", ""]).encode()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_safe_request_is_sent_again(method: str):
    """Unless its head shows that its answer waits by nature."""
    assert Hedging().should_hedge(request(method, "/a?await=1", "accept: */*", "prefer: waiting"), 0)


@pytest.mark.parametrize(
    "asked",
    [
        request("POST", "/a"),
        request("TRACE", "/a"),
        request("GET", "/a", "content-length: 2") + b"{}",
        request("GET", "/a", "content-length: 4") + b"\r\n\r\n",
        request("GET", "/a", "accept: text/html;q=0.1, Text/Event-Stream"),
        request("GET", "/a", "Prefer: respond-async, wait=10"),
        request("GET", "/a?EIO=4&transport=polling"),
        request("GET", "/a?x=1&transport=longPolling"),
        request("GET", "/a?wait=5m"),
        request("GET", "/a?watch=true"),
        request("GET", "/a?timeout=30"),
        request("GET", "/a?id=1", "x-signalr-user-agent: y"),
    ],
)
def test_what_is_not_safe_or_waits_by_nature_is_not(asked: bytes):
    """A second call may have effects, and a second long poll ends the session of the first."""
    assert not Hedging().should_hedge(asked, 0)


def test_what_was_slow_is_waited_for_whatever_its_case_is():
    """For ten minutes; other paths are not."""
    hedging = Hedging()
    hedging.note_slow(request("GET", "/cases/7f/report?x=1"), 100)

    assert not hedging.should_hedge(request("GET", "/cases/12/report"), 101)
    assert hedging.should_hedge(request("GET", "/cases/12"), 101)
    assert hedging.should_hedge(request("GET", "/cases/12/report"), 100 + SLOW_PATH_S)


def test_what_is_remembered_is_bounded():
    """The oldest goes first."""
    hedging = Hedging()
    paths = [f"/{'a' * number}" for number in range(1, MAX_SLOW_PATHS + 2)]
    for path in paths:
        hedging.note_slow(request("GET", path), 0)

    assert hedging.should_hedge(request("GET", paths[0]), 1)
    assert not hedging.should_hedge(request("GET", paths[1]), 1)
