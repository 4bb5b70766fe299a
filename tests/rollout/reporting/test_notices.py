"""Notices: a webhook gets each one once, in order, and its address is in no log."""

import json
import logging
from typing import Any

import httpx
import pytest

from flags.rollout.policy.policy import Notify
from flags.rollout.reporting.notices import Notice, Webhook
from tests.servers.scripted import ScriptedUpstream
from tests.servers.streaming import answering

NEWS = Notice("r1", 7, 1_800_000_000.0, "holding", "approval", "headgate rollout approve", 0, 5)


def settings(url: str, **more: Any) -> Notify:
    return Notify.model_validate(
        {"webhook": f"{url}/services/s3cr3t", "headers": {"x-token": "t0k3n"}, **more}
    )


async def test_a_webhook_gets_json_that_can_be_told_from_a_repetition() -> None:
    """The same `id` however often it is sent."""
    async with ScriptedUpstream(answering(b"ok")).running() as hook, httpx.AsyncClient() as client:
        webhook = Webhook(settings(hook.url), client)
        assert await webhook.send(NEWS)
        assert await webhook.send(NEWS)

    said = [json.loads(asked.body) for asked in hook.asked]
    assert said[0] == said[1]
    assert said[0] == {
        "id": "r1-7",
        "run": "r1",
        "at": 1_800_000_000.0,
        "what": "holding",
        "reason": "approval",
        "detail": "headgate rollout approve",
        "step": 1,
        "share": 5,
    }
    assert hook.asked[0].header(b"x-token") == b"t0k3n"


async def test_a_webhook_that_refuses_is_asked_again_and_then_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """So that one notice does not keep all others back; neither address nor token is logged."""
    caplog.set_level(logging.DEBUG, logger="headgate")
    async with ScriptedUpstream(answering(b"no", b"500 No")).running() as hook, httpx.AsyncClient() as client:
        webhook = Webhook(settings(hook.url, attempts=3), client)
        taken = [await webhook.send(NEWS) for _ in range(4)]

    assert taken == [False, False, True, False]
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("headgate"))
    assert "given up: status 500" in said
    assert "s3cr3t" not in said
    assert "t0k3n" not in said


async def test_a_webhook_that_is_not_there_raises_nothing() -> None:
    async with httpx.AsyncClient() as client:
        assert not await Webhook(settings("http://127.0.0.1:1"), client).send(NEWS)
