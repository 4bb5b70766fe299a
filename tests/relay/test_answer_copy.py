"""A copy of what is relayed: every byte of it, within its bound, and nothing changed on the way."""

import gzip
import zlib
from typing import Any

import pytest

from proxy.downstream.bodies import ByteBudget
from proxy.http.asgi import ANSWER
from proxy.relay.answer_copy import AnswerCopy

pytestmark = pytest.mark.anyio

TEXT = b"a text" * 100
MAX_BYTES = 1000


class Client:
    """Takes messages, and whole answers unless it is to be waited for."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.messages: list[Any] = []
        self.whole: list[Any] = []

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    def answer(self, *answer: Any) -> bool:
        self.whole += [answer] * self.ready
        return self.ready


async def relay(
    client: Client,
    body: bytes,
    coding: bytes | None = None,
    *,
    in_messages: bool = False,
    max_bytes: int = 1000,
) -> AnswerCopy:
    """Pass on an answer as the relay does: whole if it can be, else in messages."""
    copy = AnswerCopy(client.send, MAX_BYTES)
    scope = copy.scope({} if in_messages else {ANSWER: client.answer})
    headers = [] if coding is None else [(b"content-encoding", coding)]
    if ANSWER not in scope or not scope[ANSWER](200, b"OK", headers, body):
        await copy({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 100):
            piece = body[start : start + 100]
            await copy({"type": "http.response.body", "body": piece, "more_body": True})
    return copy


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (None, TEXT),
        (b"identity", TEXT),
        (b"gzip", gzip.compress(TEXT, mtime=0)),
        (b"GZIP", gzip.compress(TEXT, mtime=0)),
        (b"deflate", zlib.compress(TEXT)),
    ],
)
@pytest.mark.parametrize("how", ["whole", "in messages", "to a client that must be waited for"])
async def test_what_went_out_can_be_read(how: str, coding: bytes | None, body: bytes) -> None:
    """In one write or in many, and the client gets the same bytes, once."""
    client = Client(ready=how == "whole")

    copy = await relay(client, body, coding, in_messages=how == "in messages")

    assert await copy.body() == TEXT
    sent = [answer[3] for answer in client.whole]
    sent += [message["body"] for message in client.messages if message["type"] == "http.response.body"]
    assert b"".join(sent) == body
    assert bool(client.whole) == (how == "whole")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"br", TEXT),
        (b"gzip, gzip", TEXT),
        (b"gzip", TEXT),
        (b"gzip", gzip.compress(TEXT, mtime=0)[:-3]),
        (b"gzip", gzip.compress(bytes(1_000_000))),
        (None, TEXT * 2),
    ],
    ids=["br", "twice", "none", "cut", "bomb", "too long"],
)
@pytest.mark.parametrize("in_messages", [False, True])
async def test_what_cannot_be_read_is_none(in_messages: bool, coding: bytes | None, body: bytes) -> None:
    """Nor is more than the bound ever unpacked."""
    copy = await relay(Client(), body, coding, in_messages=in_messages)

    assert await copy.body() is None


async def test_what_is_unpacked_has_room_or_is_none() -> None:
    """Copies share a budget, and a few bytes may unpack to very many. All of it is given back."""
    refused: list[Any] = []
    budget = ByteBudget(100_000, refused.append)
    small, large = gzip.compress(bytes(90_000)), gzip.compress(bytes(200_000))

    for body, size in ((small, 90_000), (large, None)):
        with budget.reserve() as reservation:
            copy = AnswerCopy(Client().send, 1_000_000, reservation)
            headers = [(b"content-encoding", b"gzip")]
            await copy({"type": "http.response.start", "status": 200, "headers": headers})
            await copy({"type": "http.response.body", "body": body, "more_body": False})
            unpacked = await copy.body()
        assert (None if unpacked is None else len(unpacked)) == size
    assert len(refused) == 1
    assert budget.held == 0


async def test_a_coding_that_is_not_known_is_told_from_a_body_that_is_broken() -> None:
    """An unknown coding can be changed in the upstream; a broken body cannot."""
    assert (await relay(Client(), TEXT, b"br")).is_foreign
    assert not (await relay(Client(), TEXT, b"gzip")).is_foreign
