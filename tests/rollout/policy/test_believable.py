"""Evidence that strangers could make up: what proxies say of it, and what the controller does about it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from flags.errors import RolloutError
from flags.rollout.evidence.pages import PageReadings
from flags.rollout.evidence.readings import Wanted
from flags.rollout.plan.planner import plan
from flags.rollout.plan.refusals import assumptions, refusals
from tests.rollout.plan import test_plan
from tests.rollout.rolling import Rolling, flag_file, policy
from tests.servers.serving import headgate
from tests.servers.streaming import route

WANTED = Wanted(frozenset({"start"}), frozenset({120.0}), frozenset({5.0}))
KEY = "a secret that is long enough for HS256"
JWKS = "http://127.0.0.1:9/keys"


@pytest.mark.parametrize(
    ("identity", "verified"),
    [
        ({}, False),
        ({"jwt": {"key": KEY}}, True),
        ({"jwt": {"jwks_url": JWKS}}, True),
        ({"jwt": None, "header": "X-User"}, True),
        ({"header": "X-User"}, False),
        ({"jwt": {"key": KEY}, "header": "X-User"}, True),
        ({"jwt": {"key": KEY}, "cookie": "session"}, False),
        ({"jwt": None, "cookie": "session"}, False),
    ],
)
async def test_a_proxy_says_whether_somebody_can_be_made_up(
    tmp_path: Path, identity: dict[str, Any], *, verified: bool
) -> None:
    """A token without a key, and a cookie, may say anything; a header is a trusted proxy's."""
    async with (
        headgate("http://127.0.0.1:9", tmp_path, routes=[route()], identity=identity) as serving,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        reading = await PageReadings(http, [f"{serving.admin_url}/metrics"], WANTED).read(1.0)

    assert reading.unverified == (() if verified else ("start",))


async def begun(directory: Path, unverified: tuple[str, ...], **said: Any) -> None:
    flag_file(directory / "flags.json")
    rolling = Rolling(directory, policy(directory, **said))
    rolling.traffic.unverified = unverified
    with rolling.running() as running:
        await running.begin()


async def test_no_rollout_goes_by_itself_by_what_strangers_can_make_up(tmp_path: Path) -> None:
    """The refusal says what is risked, and every way out."""
    with pytest.raises(RolloutError) as refused:
        await begun(tmp_path, ("start",))

    for said in (
        "start",
        "force a rollback, which is final",
        "identity.jwt.key",
        "unverified_identity: accepted",
    ):
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("unverified", "said"),
    [
        (("start",), {"unverified_identity": "accepted"}),
        (("start",), {"mode": "observe"}),
        (("start",), {"mode": "hold-only"}),
        ((), {}),
    ],
    ids=["accepted", "observing", "a person goes back", "verified"],
)
async def test_a_rollout_begins_where_that_is_known_or_impossible(
    tmp_path: Path, unverified: tuple[str, ...], said: dict[str, Any]
) -> None:
    """Somebody has said so, nothing happens by itself, or nobody can be made up."""
    await begun(tmp_path, unverified, **said)


async def test_a_plan_refuses_it_too_or_says_what_it_takes_for_granted() -> None:
    """Before anything is begun."""
    of = test_plan.traffic(unverified=("start",))
    strict, lenient = test_plan.policy(), test_plan.policy(unverified_identity="accepted")

    assert "where the proxies do not verify who asks" in next(refusals(strict, plan(strict, of, 20)))
    made = plan(lenient, of, 20)
    assert not [sentence for sentence in refusals(lenient, made) if "verify" in sentence]
    assert [sentence for sentence in assumptions(lenient, made) if "force a rollback" in sentence]
