"""A plan from proxies that serve: what is read, what it is taken for, and what a terminal shows."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from io import StringIO
from typing import Any

import orjson
import pytest
from prometheus_client import generate_latest
from rich.console import Console

from flags.errors import EvidenceError, ReadingProblem
from flags.rollout import planning
from flags.rollout.evidence.evidence import batch_body, batch_from_body
from flags.rollout.evidence.growth import between
from flags.rollout.evidence.readings import OUTCOMES, Reading, Series
from flags.rollout.plan.plan import Plan, Rate
from flags.rollout.plan.planner import plan
from flags.rollout.verdict.evaluator import Evaluator
from tests.rollout.plan.test_plan import HALF, policy, traffic
from tests.servers.ports import free_port
from tests.servers.prometheus_server import CV2, ProxyPage
from tests.servers.scripted import Asked, ScriptedUpstream


class Busy:
    """A proxy of which each page shows more requests than the one before."""

    def __init__(self, *settled: Mapping[str, Any]) -> None:
        self._page = ProxyPage()
        self._page.begin()
        self._page.hide()
        self._settled = settled
        self.upstream = ScriptedUpstream(self._answer)

    async def _answer(self, asked: Asked) -> None:
        await asked.answer(generate_latest(self._page.registry))
        for settled in self._settled:
            self._page.settle(**settled)


@asynccontextmanager
async def proxies(*busy: Busy) -> AsyncIterator[list[str]]:
    async with busy[0].upstream.running():
        if len(busy) == 1:
            yield [busy[0].upstream.url]
        else:
            async with proxies(*busy[1:]) as others:
                yield [busy[0].upstream.url, *others]


def pages(urls: list[str]) -> Any:
    return policy(HALF, evidence={"pages": urls})


async def test_two_looks_at_the_pages_make_a_plan() -> None:
    """Everybody counts, whatever their arm: before a rollout all are in the rest."""
    one = Busy({"arm": "rest", "times": 40}, {"arm": "rest", "outcome": "failed", "times": 3})
    two = Busy({"arm": "rest", "seconds": 200, "times": 5}, {"arm": "stream", "times": 2})
    async with proxies(one, two) as urls:
        made = await planning.plan_from_traffic(pages(urls), 0.05, 1000)

    seen = made.traffic
    assert (seen.failed.bad, seen.failed.of, seen.users, seen.missing) == (3, 50, 1000, 0)
    assert [(rate.bad, rate.of, rate.limit_s) for rate in seen.slow] == [(5, 50, 120.0)]
    assert 0.05 <= seen.looked_s < 5
    assert seen.cv2 == CV2
    assert [step.users for step in made.steps] == [500]
    assert json.loads(orjson.dumps(asdict(made)))["traffic"]["failed"]["of"] == 50


async def test_a_proxy_that_does_not_answer_is_said() -> None:
    """Its traffic would come on top."""
    async with proxies(Busy({"arm": "rest"})) as urls:
        made = await planning.plan_from_traffic(
            pages([*urls, f"http://127.0.0.1:{free_port()}/metrics"]), 0, None
        )

    assert made.traffic.missing == 1
    assert any(said.startswith("No reading came from 1 of the proxies") for said in made.assumptions)


async def test_without_traffic_the_plan_is_refused() -> None:
    """And nothing else is said, since nothing else is known."""
    async with proxies(Busy()) as urls:
        made = await planning.plan_from_traffic(pages(urls), 0.01, None)

    assert len(made.refusals) == 1
    assert "No request of start settled" in made.refusals[0]
    assert "No request of start settled" in text(made)
    assert "in each arm" not in text(made)


async def test_without_a_reading_there_is_no_plan() -> None:
    """Neither from pages nor from Prometheus; the error says what to look at."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    server = {"prometheus": {"url": nowhere, "selector": 'job="headgate"'}}

    for evidence in ({"pages": [nowhere]}, server):
        with pytest.raises(EvidenceError, match="cannot be asked: ConnectError"):
            await planning.plan_from_traffic(policy(HALF, evidence=evidence), 0, None)


def reading(at_s: float, seen: Mapping[str, float], failed: int) -> Reading:
    """Of a route whose users in two buckets fail, one more often than the other."""
    counters = {}
    for instance in seen:
        for bucket, outcome, n in (
            ("1", "failed", failed),
            ("2", "failed", 0),
            ("2", "complete", 9 * failed),
        ):
            counters[Series(OUTCOMES, instance, ("start", "rest", bucket, outcome))] = n
        counters[Series(OUTCOMES, instance, ("start", "rest", "2", "client_left"))] = 7 * failed
    return Reading(at_s, counters, seen)


def test_the_time_is_that_between_scrapes() -> None:
    """Not that between questions, which Prometheus answers with what it has."""
    before, after = reading(100, {"a": 90, "b": 95}, 0), reading(160, {"a": 150, "b": 140, "c": 150}, 10)

    made = planning.traffic(before, after, None)

    assert (made.looked_s, made.failed) == (52.5, Rate(20, 200))
    assert made.dispersion > 10


def test_of_few_failures_nobody_can_say_how_users_differ() -> None:
    """A dispersion of three events is chance."""
    made = planning.traffic(reading(0, {"a": 0}, 0), reading(60, {"a": 60}, 3), None)

    assert (made.failed.bad, made.dispersion) == (3, 1.0)


def test_a_proxy_that_was_not_scraped_in_between_is_no_lack_of_traffic() -> None:
    """It would look like one."""
    with pytest.raises(EvidenceError, match="longer than a scrape interval") as refused:
        planning.traffic(reading(0, {"a": 0}, 0), reading(60, {"a": 0}, 0), None)

    assert refused.value.problem is ReadingProblem.STALE


def test_the_rest_is_in_no_comparison() -> None:
    """A batch that has it, from wherever, says to an evaluator what it says without."""
    labels = [("start", arm, "1", "complete") for arm in ("stream", "control", "rest")]
    before, after = (
        Reading(at_s, {Series(OUTCOMES, "a", of): n for of in labels}, {"a": at_s})
        for at_s, n in ((0, 0), (60, 900))
    )
    batch = between(before, after, 0)
    without = replace(batch, outcomes={key: n for key, n in batch.outcomes.items() if key[0] != "rest"})

    def verdicts(of: Any) -> Any:
        made = policy(HALF)
        evaluator = Evaluator(made.guardrail_values(), made.exposures(), made.budget_value())
        evaluator.enter(0)
        evaluator.add(of)
        return evaluator.verdicts()

    assert len(batch.outcomes) == 3
    assert verdicts(batch) == verdicts(without)
    assert batch_from_body(batch_body(batch)) == batch


def text(made: Plan) -> str:
    """Return the text as a terminal of 100 columns has it."""
    console = Console(file=StringIO(), width=100, color_system=None)
    console.print(planning.shown(made))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_plan_is_shown_in_100_columns() -> None:
    """A row a step: what is in it, how long proof takes, what harm costs; then what it rests on."""
    made = policy(
        {"share": 0, "at_least": "1h"},
        {"share": 1, "at_least": "1h", "prove": False, "approve": True},
        {"share": 25, "at_least": "24h", "at_most": "7d"},
        {"share": 95, "at_least": "1h"},
    )
    said = text(plan(made, traffic(), 40))

    assert max(map(len, said.splitlines())) <= 100
    for words in (
        "Seen in 24 h: 86,400 answers (60 a minute), 864 failed, 4,277 of 85,536 whole ones took over 120 s",
        "1: dark",
        "not asked for",
        "a person approves",
        "3: 25 %",
        "900 answers/h",
        "250 users",
        "(needs 20)",
        "at most: 7 d",
        "and 180 answers/h",
        "Taken for granted",
        "Do not begin like this",
        "Step 1 of 4 (dark) needs 20 users",
    ):
        assert words in said


def test_what_is_not_seen_in_time_is_shown_as_that() -> None:
    """With the harm that it did until then; and users that nobody counted are not invented."""
    step = {"share": 1, "at_least": "1h", "at_most": "2h"}
    said = text(plan(policy(step), traffic(6, users=None), 40))

    assert "not in 2 h" in said
    assert "users unknown" in said
    assert "≤" not in said
