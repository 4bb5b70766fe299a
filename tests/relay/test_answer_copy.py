"""A copy of what is relayed: every byte of it, within its bound, and nothing changed on the way."""

import gzip
import zlib
from typing import Any

import pytest

from proxy.downstream.bodies import ByteBudget
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.sinks import PassingSink

TEXT = b"a text" * 100
MAX_BYTES = 1000


class Client(PassingSink):
    """Takes what goes out."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def answer(self, status: int, reason: bytes, headers: Any, body: bytes, *, last: bool) -> None:
        self.sent.append(body)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        self.sent.append(body)

    async def send(self, message: Any) -> None:
        self.sent.append(message.get("body", b""))


async def relay(
    client: Client, body: bytes, coding: bytes | None = None, how: str = "whole", max_bytes: int = MAX_BYTES
) -> AnswerCopy:
    """Pass on an answer as the relay does, whole or in parts, or as an app does."""
    copy = AnswerCopy(client, max_bytes)
    headers = [] if coding is None else [(b"content-encoding", coding)]
    pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
    if how == "whole":
        copy.answer(200, b"OK", headers, body, last=True)
    elif how == "in parts":
        copy.answer(200, b"OK", headers, pieces[0], last=False)
        for piece in pieces[1:]:
            copy.answer_more(piece, last=False)
        copy.answer_more(b"", last=True)
    else:
        send = copy.of_messages(client.send)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
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
@pytest.mark.parametrize("how", ["whole", "in parts", "in messages"])
async def test_what_went_out_can_be_read(how: str, coding: bytes | None, body: bytes) -> None:
    """In one write or in many, and the client gets the same bytes, once."""
    client = Client()

    copy = await relay(client, body, coding, how)

    assert await copy.body() == TEXT
    assert b"".join(client.sent) == body
    assert (len(client.sent) == 1) == (how == "whole")


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
@pytest.mark.parametrize("how", ["whole", "in parts", "in messages"])
async def test_what_cannot_be_read_is_none(how: str, coding: bytes | None, body: bytes) -> None:
    """Nor is more than the bound ever unpacked."""
    copy = await relay(Client(), body, coding, how)

    assert await copy.body() is None


async def test_what_is_unpacked_has_room_or_is_none() -> None:
    """Copies share a budget, and a few bytes may unpack to very many. All of it is given back."""
    refused: list[Any] = []
    budget = ByteBudget(100_000, refused.append)
    small, large = gzip.compress(bytes(90_000)), gzip.compress(bytes(200_000))

    for body, size in ((small, 90_000), (large, None)):
        with budget.reserve() as reservation:
            copy = AnswerCopy(Client(), 1_000_000, reservation)
            copy.answer(200, b"OK", [(b"content-encoding", b"gzip")], body, last=True)
            unpacked = await copy.body()
        assert (None if unpacked is None else len(unpacked)) == size
    assert len(refused) == 1
    assert budget.held == 0


async def test_a_coding_that_is_not_known_is_told_from_a_body_that_is_broken() -> None:
    """An unknown coding can be changed in the upstream; a broken body cannot."""
    assert (await relay(Client(), TEXT, b"br")).is_foreign
    assert not (await relay(Client(), TEXT, b"gzip")).is_foreign
