"""A model call of no run waits for its body, since it may be sent again; and goes as it comes if that is not
to be."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.downstream import bodies
from tests.servers.scripted import Asked, ScriptedUpstream, Talker, talking, until
from tests.servers.serving import Serving, headgate

HEAD = b"POST /models/v1/x HTTP/1.1\r\nhost: a\r\n%bcontent-length: 9\r\n\r\n"


async def echo(asked: Asked) -> None:
    """Answers with the body, when that is here."""
    await asked.answer(await asked.read_body())


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[ScriptedUpstream, Serving]]:
    async with ScriptedUpstream(echo).running() as upstream:
        provider = {"name": "models", "url": upstream.url}
        llm = {"listen": "127.0.0.1:0", "providers": [provider]}
        async with headgate(upstream.url, tmp_path_factory.mktemp("gate"), llm=llm) as gate:
            yield upstream, gate


@pytest.fixture
async def talk(
    shared: tuple[ScriptedUpstream, Serving],
) -> AsyncIterator[tuple[Talker, ScriptedUpstream, Any]]:
    """A client, the provider, and the port."""
    upstream, gate = shared
    upstream.asked.clear()
    port = gate.app.model_port
    assert port is not None
    port.ended.clear()
    async with talking(gate.model_url) as client:
        yield client, upstream, port
        assert port.bodies.held == 0


@pytest.mark.parametrize("expects", [b"", b"expect: 100-continue\r\n"])
async def test_a_call_goes_out_when_its_body_is_here(talk: Any, expects: bytes) -> None:
    """And not before. Who waits to be asked for it is asked here."""
    client, upstream, port = talk

    await client.send(HEAD % expects)
    for part in (b"one", b"two"):
        await client.send(part)
        await until(lambda: port.bodies.held >= 3, 30)
        assert upstream.asked == []
    await client.send(b"end")
    answered = await client.answer()

    assert answered.body == b"onetwoend"
    assert upstream.asked[0].header(b"expect") is None
    assert client.interim == ([100] if expects else [])
    assert dict(port.ended) == {("models", "answered"): 1}


async def test_a_caller_that_leaves_within_its_body_asks_nothing(talk: Any) -> None:
    """It is counted as one that has left."""
    client, upstream, port = talk

    await client.send(HEAD % b"" + b"one")
    await until(lambda: port.bodies.held == 3, 30)
    client.leave()
    await until(lambda: dict(port.ended) == {("models", "left"): 1}, 30)

    assert upstream.asked == []


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_REQUEST_BYTES", 2), ("GRACE_S", 0.01)], ids=["long", "slow"]
)
async def test_a_body_that_is_not_waited_for_goes_as_it_comes(
    talk: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    """It is too long to be held, or comes too slowly."""
    client, upstream, _ = talk
    monkeypatch.setattr(bodies, name, value)

    await client.send(HEAD % b"" + b"one")
    await until(lambda: len(upstream.asked) == 1, 30)
    await client.send(b"twoend")

    assert (await client.answer()).body == b"onetwoend"


async def test_a_mistake_there_ends_its_call(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does in the relay."""
    client, upstream, port = talk
    monkeypatch.setattr(bodies, "MAX_REQUEST_BYTES", "a mistake")

    await client.send(HEAD % b"" + b"one")

    assert (await client.answer()).status == 500
    assert upstream.asked == []
    assert dict(port.ended) == {("models", "failed"): 1}
