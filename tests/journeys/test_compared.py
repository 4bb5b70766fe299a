"""Arms, buckets and outcomes as `/metrics` says them, and as they were, from the outside."""

import asyncio
import json
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import mmh3
import pytest
from prometheus_client import CollectorRegistry

from proxy.downstream.bodies import MAX_REQUEST_BYTES
from proxy.identity import Identity
from tests.servers import streaming
from tests.servers.client import EITHER, SSE, browser, eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked, ScriptedUpstream, talking
from tests.servers.serving import STREAMING, Serving, flag_document, headgate
from tests.servers.streaming import START, Held, answer, answering, route

SENTENCE = "Error generating response: none"


HOWS = {
    "good": "complete",
    "404": "complete",
    "500": "failed",
    "reset": "failed",
    "sentence": "failed",
    "malformed": "failed",
}
"""Acts of the upstream, and the outcome of each for its user, streamed or not."""


async def upstream_script(asked: Asked) -> None:
    """Does as the query says."""
    await asked.read_body()
    match asked.target.decode().partition("how=")[2]:
        case "500":
            await asked.answer(b"{}", b"500 Oh")
        case "404":
            await asked.answer(b"{}", b"404 No")
        case "reset":
            asked.writer.close()
        case "sentence":
            await asked.answer(answer(SENTENCE))
        case "malformed":
            await asked.answer(b"<html>")
        case _:
            await asked.answer(answer())


def arm_of(user: str, share: int) -> str:
    """By the rule, written once more."""
    bucket = mmh3.hash(f"{STREAMING}:{user}", 0, signed=False) % 100 + 1
    if bucket <= share:
        return "stream"
    return "control" if bucket > 100 - min(share, 100 - share) else "rest"


def labels(user: str, outcome: str, share: int = 30) -> tuple[str, str, str]:
    return arm_of(user, share), str(Identity("", user).bucket), outcome


def outcomes(figures: Any) -> Counter[tuple[str, str, str]]:
    """Return the outcomes of a scrape, or of a registry, that are not 0."""
    found: Counter[tuple[str, str, str]] = Counter()
    if isinstance(figures, dict):
        for name, value in figures.items():
            if name.startswith("headgate_outcomes_total{") and value:
                parts = dict(part.split("=") for part in name[:-1].partition("{")[2].split(","))
                found[tuple(json.loads(parts[key]) for key in ("arm", "bucket", "outcome"))] += value  # type: ignore[index]
        return found
    for family in figures.collect():
        for sample in family.samples:
            if sample.name == "headgate_outcomes_total" and sample.value:
                found[tuple(sample.labels[key] for key in ("arm", "bucket", "outcome"))] += sample.value  # type: ignore[index]
    return found


def by_arm(figures: Any) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for (arm, _, outcome), number in outcomes(figures).items():
        found[arm, outcome] += number
    return found


def registry_of(serving: Serving) -> CollectorRegistry:
    return serving.app.admin.registry


def watching(serving: Serving) -> int:
    return sum(len(viewers) for viewers in serving.app.runs._viewers.values())


house = partial(streaming.house, flags=flag_document(rollout=30), routes=[route(commit_after=15)])
"""Headgate with a flag at 30 %."""


def a_user(arm: str, share: int = 30, skip: int = 0) -> str:
    """Return a user who is in this arm."""
    found = (user for number in range(1000) if arm_of(user := f"user-{number}", share) == arm)
    return [next(found) for _ in range(skip + 1)][-1]


@pytest.mark.parametrize("variants", [(), ({"name": "dark", "weight": 1000},)], ids=["live", "dark"])
async def test_arms_buckets_and_outcomes_are_what_was_done(tmp_path: Path, variants: Any) -> None:
    """300 users, each with one request of some kind: `/metrics` says the same as this test has counted."""
    seeded = random.Random(11)
    expected: Counter[tuple[str, str, str]] = Counter()
    seen: dict[str, set[str]] = {"stream": set(), "control": set(), "rest": set()}
    flags = flag_document(rollout=30, variants=list(variants))
    async with house(upstream_script, tmp_path, flags=flags, settle_s=3) as (_, serving, client):
        asking = []
        for number in range(300):
            user, how = f"user-{number}", seeded.choice(list(HOWS))
            seen[arm_of(user, 30)].add(user)
            expected[labels(user, HOWS[how])] += 1
            asking.append((f"{START}?how={how}", signed(user, seeded.choice([EITHER, "*/*"]))))
        for first in range(0, 300, 50):
            await asyncio.gather(*(read(client, *one) for one in asking[first : first + 50]))
        early = await scrape(client, serving.admin_url)

        async def settled() -> bool:
            return outcomes(await scrape(client, serving.admin_url)).total() == 300

        await eventually(settled)
        figures = await scrape(client, serving.admin_url)

    assert outcomes(early).total() < 300
    assert outcomes(figures) == expected
    for arm in ("stream", "control"):
        assert figures[f'headgate_users{{arm="{arm}",route="start"}}'] == len(seen[arm])
    for arm in seen:
        answered = sum(n for (of, _, outcome), n in expected.items() if (of, outcome) == (arm, "complete"))
        assert figures[f'headgate_settled_seconds_count{{arm="{arm}",route="start"}}'] == answered


@pytest.mark.parametrize("broken", ["stream", "control"])
async def test_an_upstream_that_fails_one_arm_shows_in_that_arm(tmp_path: Path, broken: str) -> None:
    """The comparison exists for that."""
    async with house(upstream_script, tmp_path) as (_, serving, client):
        for number in range(60):
            user = f"user-{number}"
            how = "sentence" if arm_of(user, 30) == broken else "good"
            await read(client, f"{START}?how={how}", signed(user, EITHER))
        found = by_arm(await scrape(client, serving.admin_url))

    assert {arm for arm, outcome in found if outcome == "failed"} == {broken}
    assert found.total() == 60


async def test_a_client_that_leaves_a_batch_answer_counts_apart(tmp_path: Path) -> None:
    """And so does a run that ends with nobody there: the one arm must not keep what the other one loses."""
    held = Held(answering(answer()))
    stream_user, control_user = a_user("stream"), a_user("control")
    async with house(held, tmp_path, routes=[route(commit_after=0)]) as (_, serving, client):
        async with opened(client, START, signed(stream_user)):
            await held.come.wait()
        await eventually(lambda: watching(serving) == 0)  # it may only have ended its side
        held.come.clear()
        head = f"POST {START} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n"
        bearer = signed(control_user)["authorization"]
        async with talking(serving.url) as talker:
            await talker.send(f"{head}authorization: {bearer}\r\n\r\n".encode())
            await held.come.wait()
            talker.leave()
            await eventually(lambda: outcomes(registry_of(serving)).total() == 1)
        held.release.set()
        await eventually(lambda: outcomes(registry_of(serving)).total() == 2)

        assert outcomes(registry_of(serving)) == Counter(
            [labels(stream_user, "client_left"), labels(control_user, "client_left")]
        )


async def test_who_comes_back_before_the_end_has_an_answer(tmp_path: Path) -> None:
    """A reader whose connection broke, and who reads on, did not leave."""
    held = Held(answering(answer()))
    user = a_user("stream")
    async with house(held, tmp_path, routes=[route(commit_after=0)]) as (_, serving, client):
        async with opened(client, START, signed(user)) as stream:
            await held.come.wait()
        await eventually(lambda: watching(serving) == 0)
        events = f"/_headgate/runs/{stream.run}/events"
        async with opened(client, events, signed(user), method="GET") as back:
            held.release.set()
            assert (await back.rest()).last["type"] == "stream_done"

        assert outcomes(registry_of(serving)) == Counter([labels(user, "complete")])


async def test_a_run_counts_once_however_many_ask_for_it(tmp_path: Path) -> None:
    """A second tab, and an unchanged client that asks for the same: one run, one outcome."""
    held = Held(answering(answer()))
    user = a_user("stream")
    async with house(held, tmp_path) as (_, serving, client):
        asking = [asyncio.create_task(read(client, START, signed(user, SSE))) for _ in range(2)]
        await eventually(lambda: watching(serving) == 2)
        asking.append(asyncio.create_task(read(client, START, signed(user, "*/*"))))
        await eventually(lambda: watching(serving) == 3)
        held.release.set()
        for one in await asyncio.gather(*asking):
            assert one.status == 200

        assert outcomes(registry_of(serving)) == Counter([labels(user, "complete")])


@pytest.mark.parametrize("arm", ["stream", "control"])
async def test_who_is_refused_for_want_of_room_counts_in_no_arm(tmp_path: Path, arm: str) -> None:
    """Whoever takes the room decides how often that happens."""
    held = Held(answering(answer()))
    first, second = a_user("stream"), a_user(arm, skip=3)
    async with house(held, tmp_path, routes=[route(max_runs=1)]) as (_, serving, client):
        running = asyncio.create_task(read(client, START, signed(first)))
        await held.come.wait()

        refused = await read(client, f"{START}/stream", signed(second, SSE), method="GET")
        held.come.clear()
        relayed = asyncio.create_task(read(client, START, signed(second, EITHER)))
        await held.come.wait()
        held.release.set()
        assert ((await relayed).status, (await running).status) == (200, 200)

        assert refused.status == 503
        assert outcomes(registry_of(serving)) == Counter(
            [labels(second, "complete"), labels(first, "complete")]
        )


async def test_a_request_too_long_to_be_streamed_counts_in_no_arm(tmp_path: Path) -> None:
    """Else a stranger could make the streams alone fail. Nor does a mistake of the client's, as an id that is
    none."""
    async with house(upstream_script, tmp_path) as (_, serving, client):
        content = bytes(MAX_REQUEST_BYTES + 1)
        answers = [
            await read(client, START, signed(a_user(arm), EITHER), content=content)
            for arm in ("stream", "control")
        ]
        wrong = await read(client, START, signed(a_user("stream"), SSE, **{"headgate-run": "7"}))

        assert [one.status for one in (*answers, wrong)] == [413, 200, 400]
        assert outcomes(registry_of(serving)) == Counter([labels(a_user("control"), "complete")])


async def test_strangers_make_no_evidence(tmp_path: Path) -> None:
    """A client that the API does not let in counts in no arm, streamed or relayed, and is no user."""
    refusing = answering(b'{"detail": "Unauthorized"}', b"401 Unauthorized")
    async with house(refusing, tmp_path) as (_, serving, client):
        for number in range(20):
            for accept in (SSE, EITHER, "*/*"):
                assert (await read(client, START, signed(f"forged-{number}", accept))).status == 401

        figures = await scrape(client, serving.admin_url)
        assert not outcomes(registry_of(serving))
        assert [figures[f'headgate_users{{arm="{arm}",route="start"}}'] for arm in ("stream", "control")] == [
            0,
            0,
        ]


async def test_what_a_shutdown_cuts_counts_apart(tmp_path: Path) -> None:
    """Pending requests count while they can still be scraped; a run and a relayed answer that are cut are
    nobody's failure."""
    held = Held(answering(answer()))
    stream_user, control_user = a_user("stream"), a_user("control")
    flags = flag_document(rollout=30)
    async with browser() as client, ScriptedUpstream(upstream_of(held)).running() as upstream:
        async with headgate(
            upstream.url, tmp_path, routes=[route()], flags=flags, settle_s=600, drain_s=0
        ) as serving:
            url = serving.url + START
            for user in (stream_user, control_user):
                await read(client, f"{url}?how=good", signed(user, EITHER))
            assert not outcomes(registry_of(serving))
            cut = [
                asyncio.create_task(read(client, f"{url}?how=held&for={user}", signed(user, EITHER)))
                for user in (stream_user, control_user)
            ]
            await eventually(lambda: len(upstream.asked) == 4)

            async def are_told() -> bool:
                return outcomes(await scrape(client, serving.admin_url)).total() >= 2

            told = asyncio.create_task(eventually(are_told))
        ends = await asyncio.gather(*cut)
        await told

    assert outcomes(registry_of(serving)) == Counter(
        labels(user, outcome) for user in (stream_user, control_user) for outcome in ("complete", "shutdown")
    )
    assert [end.status for end in ends] == [503, 500]


def upstream_of(held: Held) -> Any:
    async def script(asked: Asked) -> None:
        await (held if b"how=held" in asked.target else answering(answer()))(asked)

    return script


async def test_users_are_counted_anew_when_the_share_moves_though_nobody_asks(tmp_path: Path) -> None:
    """The controller reads how many users there were at the new share: those of the old one are gone."""
    async with house(upstream_script, tmp_path) as (_, serving, client):
        for number in range(30):
            await read(client, START, signed(f"user-{number}", EITHER))
        before = await scrape(client, serving.admin_url)
        serving.flag_file.write_text(json.dumps(flag_document(rollout=40)))

        async def forgotten() -> bool:
            figures = await scrape(client, serving.admin_url)
            return not any(
                figures[f'headgate_users{{arm="{a}",route="start"}}'] for a in ("stream", "control")
            )

        assert before['headgate_users{arm="stream",route="start"}'] > 0
        await eventually(forgotten)


async def test_nobody_in_particular_counts_in_no_arm(tmp_path: Path) -> None:
    """A request without an identity has no bucket."""
    async with house(upstream_script, tmp_path) as (_, serving, client):
        for accept in (SSE, "*/*"):
            assert (await read(client, START, {"accept": accept})).status == 200

        assert not outcomes(registry_of(serving))
