"""`headgate doctor` on model providers."""

from pathlib import Path
from typing import Any

import pytest

from flags.egress import STRAIGHT
from proxy.doctor import providers
from proxy.doctor.findings.diagnosis import Grade
from proxy.settings.blocks.upstream import ProviderSettings
from tests.doctor.deployments import examined, saying, settings_of
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.tapping import Provider, completion, whole

KEY = "a key of a model provider, not to be seen"


async def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    llm = {"providers": [{"name": "openai", "url": f"http://127.0.0.1:{free_port()}"}]}
    async with ScriptedUpstream(saying({})).running() as app:
        found = await examined(settings_of(tmp_path, app.url, llm=llm))

    assert found["provider openai"].status is Grade.FAIL
    assert "url" in found["provider openai"].advice


def model_provider(url: str) -> ProviderSettings:
    return ProviderSettings.model_validate({"name": "models", "url": url})


TEXTS = {"Say hello.": "Hello"}


@pytest.mark.parametrize(
    ("batch", "grade", "says"),
    [
        ({}, Grade.OK, "makes its batch answer"),
        ({"Say hello.": completion("Hello") | {"billing": {"cost": 1}}}, Grade.WARN, "billing.cost"),
    ],
)
async def test_a_models_stream_beside_its_batch_answer(batch: Any, grade: Grade, says: str) -> None:
    """Two calls of one token, with the key, which no word has."""
    provider = Provider(TEXTS, batch=batch)
    async with provider.upstream.running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", KEY, strict=True)

    assert (found.status, says in found.seen) == (grade, True)
    assert [(body["max_tokens"], body.get("stream", False)) for body in provider.bodies] == [
        (1, False),
        (1, True),
    ]
    assert {asked.header(b"authorization") for asked in provider.upstream.asked} == {f"Bearer {KEY}".encode()}
    assert KEY not in repr(found)


async def refusing(asked: Asked, events: list[bytes]) -> None:
    await asked.answer(b'{"error": {"message": "' + KEY.encode() + b'"}}', b"403 Forbidden")


async def unknown(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, [b'data: {"choices": [{"delta": {"words": "Hel"}}]}\n\n', *events])


async def cut(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, events[:2])


async def failing(asked: Asked, events: list[bytes]) -> None:
    await whole(asked, [b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'])


@pytest.mark.parametrize(
    ("stream", "grade"),
    [(refusing, Grade.FAIL), (unknown, Grade.WARN), (cut, Grade.WARN), (failing, Grade.FAIL)],
)
async def test_a_model_whose_stream_makes_no_batch_answer(stream: Any, grade: Grade) -> None:
    provider = Provider(TEXTS, stream=stream)
    async with provider.upstream.running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", KEY, strict=True)

    assert found.status is grade
    assert KEY not in repr(found)


async def test_a_model_that_refuses_the_key() -> None:
    async with ScriptedUpstream(saying({}, b"401 Unauthorized")).running() as model:
        found = await providers.compare(model_provider(model.url), STRAIGHT, "small", "", strict=True)

    assert found.status is Grade.FAIL
    assert "HEADGATE_PROBE_KEY" in found.advice


async def test_calls_of_bedrock_are_not_made() -> None:
    """They would have to be signed."""
    provider = model_provider("https://bedrock-runtime.eu-central-1.amazonaws.com")
    found = await providers.compare(
        provider.model_copy(update={"api": "bedrock"}), STRAIGHT, "m", KEY, strict=True
    )

    assert found.status is Grade.SKIPPED
