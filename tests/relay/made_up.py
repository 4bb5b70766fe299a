"""Exchanges that are made up: what the client sends, what the upstream answers, and when."""

import random
from dataclasses import dataclass

LONG = 70_000
"""Bytes of a long body, more than either side holds before it stops reading."""

Fields = list[tuple[bytes, bytes]]

Answer = tuple[int, Fields, bytes, Fields]
"""Status, headers, body and trailers."""


@dataclass
class Exchange:
    """One request and what the upstream makes of it."""

    method: bytes
    body: bytes
    request: bytes
    """As it goes on the wire."""
    status: int
    answer_body: bytes
    answer: bytes
    """As it goes on the wire, or as much of it as comes."""
    after: int
    """Bytes of the request's body after which the answer comes: an early one, or the whole."""
    breaks: bool
    """True if the upstream closes the connection after it."""
    is_whole: bool
    """True if the client gets an answer that looks complete."""
    trailers: Fields
    """Of the request."""
    answer_trailers: Fields


def framed(body: bytes, rng: random.Random, trailers: Fields) -> bytes:
    """A body in chunks of any size, and what stands behind it."""
    parts = []
    while body:
        size = rng.randint(1, len(body))
        parts.append(b"%x\r\n%b\r\n" % (size, body[:size]))
        body = body[size:]
    lines = [b"%b: %b\r\n" % trailer for trailer in trailers]
    return b"".join([*parts, b"0\r\n", *lines, b"\r\n"])


def some_trailers(rng: random.Random) -> Fields:
    """Mostly none."""
    return [
        (b"x-t%d" % number, rng.randbytes(3).hex().encode()) for number in range(rng.choice([0, 0, 1, 3]))
    ]


def like_requests(size: int) -> bytes:
    """A body that looks like requests, whichever of its lines is the first to be read."""
    return (b"FOO / HTTP/1.1\r\nhost: b\r\n\r\nBAR" * 30)[:size].ljust(size)


def made_up(number: int, rng: random.Random) -> Exchange:
    """An exchange for the target `/<number>`."""
    method = rng.choice([b"GET", b"HEAD", b"POST", b"POST", b"POST", b"FOO", b"VERSION-CONTROL", b"DESCRIBE"])
    body, lines = b"", b""
    payload = b""
    trailers: Fields = []
    if method == b"POST" or (method not in (b"GET", b"HEAD") and rng.random() < 0.7):
        body = rng.choice([rng.randbytes, like_requests])(rng.choice([0, 1, 7, 300, 300, LONG]))
        is_chunked = rng.random() < 0.5
        trailers = some_trailers(rng) if is_chunked else []
        payload = framed(body, rng, trailers) if is_chunked else body
        lines = b"transfer-encoding: chunked\r\n" if is_chunked else b"content-length: %d\r\n" % len(body)
    request = b"%b /%d HTTP/1.1\r\nhost: a\r\nx-n: %d\r\n%b\r\n%b" % (method, number, number, lines, payload)

    status = rng.choice([200, 200, 200, 404, 204, 304])
    answer_body = b"" if status in {204, 304} else rng.randbytes(rng.choice([0, 1, 9, 400, LONG]))
    framing = rng.choice(["length", "chunked", "close"])
    if status in {204, 304} and framing != "length":
        framing = "none"
    head = {
        "length": b"content-length: %d\r\n" % len(answer_body) if status not in {204, 304} else b"",
        "chunked": b"transfer-encoding: chunked\r\n",
    }.get(framing, b"")
    answer_trailers = some_trailers(rng) if framing == "chunked" and method != b"HEAD" else []
    sent = framed(answer_body, rng, answer_trailers) if framing == "chunked" else answer_body
    interim = rng.choice([b"", b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"])
    answer = interim + b"HTTP/1.1 %d Of its own\r\nx-n: %d\r\ndate: today\r\n%b\r\n" % (status, number, head)
    if method == b"HEAD":
        answer_body = sent = b""
    breaks, is_whole, head_bytes = framing == "close", True, len(answer)
    answer += sent
    if rng.random() < 0.1:
        cut = rng.randrange(len(answer))
        is_whole = framing == "close" and cut >= head_bytes
        breaks, answer, answer_body = True, answer[:cut], answer_body[: max(0, cut - head_bytes)]
    after = len(body) if rng.random() < 0.7 else rng.randint(0, len(body))
    return Exchange(
        method,
        body,
        request,
        status,
        answer_body,
        answer,
        after,
        breaks,
        is_whole,
        trailers,
        answer_trailers,
    )
