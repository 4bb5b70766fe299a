"""Tests of slow clients: each time is over when it is and hardly later, whichever else is waited for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.downstream.client_request import ClientRequest
from proxy.downstream.server import ServerPort, ServerProtocol
from proxy.timers.wheel import AGAIN_S, COARSE_S, STEP_S
from tests.timers.hand_loop import HandLoop

LATE_S = COARSE_S + AGAIN_S + STEP_S
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
KEPT_S, HEAD_S, BODY_S, WRITE_S, LINGER_S = 75, 30, 60, 60, 30


class Socket:
    """A transport that says when it was closed, or cut."""

    def __init__(self, loop: HandLoop) -> None:
        self._loop = loop
        self.ends: list[tuple[str, float]] = []
        self.protocol: object = None
        self.left_bytes = 0
        """That the client has not taken yet."""

    def get_write_buffer_size(self) -> int:
        return self.left_bytes

    def get_extra_info(self, _: str) -> None:
        return None

    def get_protocol(self) -> object:
        return self.protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return bool(self.ends)

    def close(self) -> None:
        if not self.ends:
            self.ends.append(("closed", self._loop.now))

    def abort(self) -> None:
        self.ends.append(("cut", self._loop.now))

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_protocol(self, protocol: object) -> None: ...


class Client:
    """One connection, on a loop whose clock is moved by hand."""

    def __init__(self) -> None:
        self.loop = HandLoop()
        self.began_at = self.loop.now
        self.socket = Socket(self.loop)
        self.requests: list[ClientRequest] = []
        config = uvicorn.Config(cast(Any, self), log_config=None, timeout_keep_alive=KEPT_S)
        config.load()
        config.loaded_app = self
        self.protocol = ServerPort(config, ServerState(), {}, cast(Any, self.loop)).connect()
        self.socket.protocol = self.protocol
        self.protocol.connection_made(cast(Any, self.socket))

    def begin(self, request: ClientRequest) -> None:
        self.requests.append(request)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def answer(self) -> None:
        self.requests[-1].answer(204, b"No Content", [], b"", last=True)

    def pass_s(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)

    def assert_ended(self, how: str, after_s: float) -> None:
        """Once, at this time from the connection's beginning, or a little later."""
        ((ended, at),) = self.socket.ends
        assert ended == how
        assert self.began_at + after_s <= at <= self.began_at + after_s + LATE_S


@pytest.mark.parametrize("part", [b"", b"\r\n", GET[:10]])
def test_a_head_that_does_not_come_ends_the_connection(part: bytes) -> None:
    """Counted from its beginning, whatever came of it."""
    client = Client()
    if part:
        client.send(part)
    client.pass_s(100)

    client.assert_ended("closed", HEAD_S)


def test_a_kept_connection_ends_when_no_request_comes() -> None:
    """Counted from the last answer, however long a request has taken."""
    client = Client()
    for took_s, idle_s in ((0, 10), (300, 60), (1, 70)):
        client.send(GET)
        client.pass_s(took_s)
        client.answer()
        client.pass_s(idle_s)
        assert not client.socket.ends
    client.pass_s(100)

    client.assert_ended("closed", 300 + 1 + 10 + 60 + KEPT_S)


def test_the_rest_of_a_next_head_is_waited_for_as_long_as_the_first_one() -> None:
    """The connection was kept until its first byte came."""
    client = Client()
    client.send(GET)
    client.answer()
    client.pass_s(70)
    client.send(GET[:10])
    client.pass_s(100)

    client.assert_ended("closed", 70 + HEAD_S)


def test_a_body_that_stops_cuts_the_connection() -> None:
    """Counted from its last byte; while this side does not read, it is not the client that is slow."""
    client = Client()
    client.send(POST + b"a")
    client.pass_s(50)
    client.send(b"b")
    client.pass_s(50)
    client.protocol.flow.pause_reading()
    client.pass_s(500)
    assert not client.socket.ends
    client.protocol.flow.resume_reading()
    client.send(b"c")
    client.pass_s(200)

    client.assert_ended("cut", 50 + 50 + 500 + BODY_S)


def test_a_client_that_takes_nothing_is_cut_though_its_connection_is_closing() -> None:
    """A connection that closes waits for what was written, for so long at most."""
    client = Client()
    client.send(GET)
    client.protocol.pause_writing()
    client.pass_s(20)
    client.socket.close()
    client.pass_s(20)
    client.protocol.pause_writing()
    client.pass_s(100)

    (closed, _), (how, at) = client.socket.ends
    assert (closed, how) == ("closed", "cut")
    assert WRITE_S <= at - client.began_at <= WRITE_S + LATE_S


CLOSING = POST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


def whole(client: Client) -> None:
    client.send(CLOSING + b"abcde")
    client.answer()


def early(client: Client) -> None:
    client.send(CLOSING)
    client.answer()


def kept(client: Client) -> None:
    client.send(GET)
    client.answer()


def cut(client: Client) -> None:
    client.send(GET)
    client.requests[0].cut()


def left_at_the_end_of_a_wait(client: Client) -> None:
    client.send(GET)
    client.protocol.pause_writing()
    client.requests[0].cut()
    client.protocol.resume_writing()


@pytest.mark.parametrize(
    ("answered", "closed_s"),
    [(whole, 0), (early, LINGER_S), (kept, KEPT_S), (cut, 0), (left_at_the_end_of_a_wait, 0)],
)
def test_a_client_that_never_takes_the_last_bytes_is_cut(
    answered: Callable[[Client], None], closed_s: int
) -> None:
    """They may be too few to pause what writes them."""
    client = Client()
    client.socket.left_bytes = 100
    answered(client)
    client.pass_s(1000)

    (closed, closed_at), (how, at) = client.socket.ends
    assert (closed, how) == ("closed", "cut")
    assert closed_s <= closed_at - client.began_at <= closed_s + LATE_S
    assert WRITE_S <= at - closed_at <= WRITE_S + LATE_S


def test_a_client_that_stops_again_at_once_is_cut() -> None:
    """When it takes bytes again it is sent more, and that may be too much before the call returns."""
    client = Client()
    client.send(GET)
    protocol = client.protocol
    client.requests[0].watcher = SimpleNamespace(client_changed=protocol.pause_writing)  # type: ignore[assignment]
    protocol.pause_writing()
    client.pass_s(20)
    protocol.resume_writing()
    client.pass_s(1000)

    client.assert_ended("cut", 20 + WRITE_S)


def test_a_client_that_takes_bytes_again_is_not_cut() -> None:
    """Each time that it stops counts anew."""
    client = Client()
    client.send(GET)
    for _ in range(5):
        client.protocol.pause_writing()
        client.pass_s(WRITE_S - 1)
        client.protocol.resume_writing()
    client.pass_s(500)

    assert not client.socket.ends


def test_a_process_that_hands_over_waits_five_seconds_for_one_more_request() -> None:
    """Though the connection was to be kept for longer."""
    client = Client()
    client.send(GET)
    client.answer()
    client.pass_s(10)
    client.protocol.close_after_next()
    client.pass_s(100)

    client.assert_ended("closed", 10 + 5)


def test_a_client_that_sends_on_behind_the_last_answer_is_read_for_half_a_minute() -> None:
    """Whatever it sends, and however often; none of it is a request."""
    client = Client()
    client.send(POST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"a")
    client.answer()
    for _ in range(20):
        client.send(b"abcd" + GET)
        client.pass_s(1)
    assert not client.socket.ends
    client.pass_s(100)

    client.assert_ended("closed", LINGER_S)
    assert len(client.requests) == 1


def test_a_process_that_hands_over_waits_no_longer_for_such_a_client() -> None:
    """Nor one that ends: five seconds as for any other."""
    for end in (ServerProtocol.close_after_next, ServerProtocol.shutdown):
        client = Client()
        client.send(POST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        client.answer()
        client.pass_s(10)
        end(client.protocol)
        assert not client.socket.ends
        client.pass_s(100)

        client.assert_ended("closed", 10 + 5)


def test_a_process_that_ends_reads_on_what_was_answered_early() -> None:
    """Closed with bytes unread, the connection would be reset, and its client lose the answer."""
    client = Client()
    client.send(POST + b"a")
    client.answer()
    client.protocol.shutdown()
    client.send(b"b")
    client.pass_s(100)

    client.assert_ended("closed", 5)


def test_after_a_body_that_was_answered_early_a_request_is_waited_for() -> None:
    """As for any head; and not as for more of the body."""
    client = Client()
    client.send(POST + b"a")
    client.answer()
    client.send(b"bcde")
    client.pass_s(200)

    client.assert_ended("closed", HEAD_S)


@pytest.mark.parametrize("data", [b"", GET[:10], POST, GET])
def test_a_connection_that_is_lost_waits_for_nothing(data: bytes) -> None:
    """Nothing holds it, and none of its times comes."""
    client = Client()
    if data:
        client.send(data)
    client.protocol.pause_writing()
    client.protocol.connection_lost(ConnectionResetError())
    assert client.protocol.slot is None
    client.pass_s(1000)

    assert not client.socket.ends
    assert client.loop.next_at is None
