"""The plan: how long a step needs, whom harm would hit, and when it must not be begun as it is."""

import asyncio
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flags.rollout.plan import LONGEST_DAYS, Plan, Traffic, plan
from flags.rollout.planning import look, shown
from tests.prometheus_server import ProxyPage
from tests.rolling import policy

USUAL = Traffic(seconds=3600, requests=1200, failed=12, answered=1188, slow=12, users=3000)
"""20 a minute, of which one in a hundred fails."""

STEPS = [
    {"share": 1, "at_least": "8h", "prove": False, "approve": True},
    {"share": 25, "at_least": "12h"},
    {"share": 50, "at_least": "12h"},
]


def planned(tmp_path: Path, traffic: Traffic = USUAL, steps: Any = STEPS, **changes: Any) -> Plan:
    return plan(policy(tmp_path, steps=steps, **changes), traffic)


def text(found: Plan) -> str:
    said = io.StringIO()
    Console(width=160, file=said).print(shown(found))
    return said.getvalue()


def test_a_larger_share_is_proved_sooner_and_a_person_needs_no_proof(tmp_path: Path) -> None:
    found = planned(tmp_path)
    first, quarter, half = found.steps

    assert (first.proves, first.proof_hours) == (False, None)
    assert quarter.proof_hours is not None and half.proof_hours is not None
    assert quarter.proof_hours / half.proof_hours == pytest.approx(2, rel=0.05)
    assert [step.answers_per_hour for step in found.steps] == [12, 300, 600]
    assert found.refusals == ()


def test_harm_costs_as_many_answers_at_any_share(tmp_path: Path) -> None:
    """Failures are what is seen; how fast they come changes the hours alone. Less harm needs more of them."""
    _, quarter, half = planned(tmp_path).steps
    harmed = [harm.harmed for harm in half.harms]

    assert [harm.harmed for harm in quarter.harms] == harmed
    assert harmed == sorted((each for each in harmed if each is not None), reverse=True)
    # The failures that the line asks for, by what each one tells of three times against 1.25 times as many.
    each = 0.75 * math.log(0.75 / (1.25 / 2.25)) + 0.25 * math.log(0.25 / (1 / 2.25))
    fewest = math.log(1 / (0.5 * 0.01)) / each * 0.75 * (1 - 1 / 3)
    assert harmed[1] is not None
    assert fewest * 0.8 < harmed[1] < fewest * 1.6


def test_a_step_that_cannot_see_its_own_margin_is_refused(tmp_path: Path) -> None:
    """With its `at_most`, or with the longest that any step may take; and the refusal says what to change."""
    hurried = planned(tmp_path, steps=[{"share": 25, "at_least": "1h", "at_most": "2h"}])
    rare = planned(tmp_path, Traffic(3600, 60, 0, 60, 0), steps=[{"share": 2, "at_least": "1h"}])

    assert "the step of 25 %" in hurried.refusals[0]
    assert "`at_most`" in hurried.refusals[0]
    assert f"over {LONGEST_DAYS} days" in rare.refusals[0]


def test_too_few_users_are_refused(tmp_path: Path) -> None:
    found = planned(tmp_path, Traffic(3600, 1200, 12, 1188, 12, users=400))
    assert "the step of 1 % has 4 users in its smaller arm" in found.refusals[0]


def test_no_traffic_is_no_plan(tmp_path: Path) -> None:
    found = planned(tmp_path, Traffic(60, 0, 0, 0, 0))
    assert (found.steps, len(found.refusals)) == ((), 1)
    assert "Refused: no request" in text(found)


def test_what_is_too_seldom_to_be_known_is_said_and_not_taken_for_nothing(tmp_path: Path) -> None:
    """Of 1,000 answers none failed: three may have been missed, and that is what is planned with."""
    found = planned(tmp_path, Traffic(3600, 1000, 0, 1000, 500))
    assert len(found.assumed) == 1
    assert "`errors`: 0 of 1,000 seen" in found.assumed[0]
    assert "0.30%" in found.assumed[0]


def test_the_same_traffic_gives_the_same_plan_and_it_is_json(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert found == planned(tmp_path)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["steps"][1]["share"] == 25


def test_the_table_says_all_of_it(tmp_path: Path) -> None:
    said = text(planned(tmp_path))
    for part in ("1,200 answers, 12 failed", "a person", "nine in ten by", "3 times: harmed, after"):
        assert part in said


@pytest.mark.anyio
async def test_a_plan_is_made_of_live_traffic_of_all_arms(tmp_path: Path) -> None:
    """Before a rollout everybody is in the rest."""
    page = ProxyPage()
    page.begin()
    try:
        told = policy(tmp_path, evidence={"pages": [page.url]})
        looking = asyncio.create_task(look(told, 0.3, 500))
        while not looking.done():
            page.settle("rest")
            page.settle("rest", "failed")
            await asyncio.sleep(0)
        traffic = (await looking).traffic
        assert traffic.requests > traffic.failed > 0
        assert (traffic.answered > 0, traffic.slow, traffic.users) == (True, 0, 500)
    finally:
        page.hide()
