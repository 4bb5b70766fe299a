"""The metrics and their names; none of them says who asked."""

import asyncio
import re
import time
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import httpx

from flags.decision import Arm, Reason
from proxy.errors import Fault
from proxy.identity import BUCKETS
from proxy.observe.labels import CallResult, FaultPhase
from proxy.observe.metrics import OUTCOMES, RECOVERY_RESULTS
from proxy.text.sections import Parity
from tests.servers.client import EITHER, browser, eventually, read, scrape, signed
from tests.servers.scripted import Asked, ScriptedUpstream
from tests.servers.serving import flag_document, headgate
from tests.servers.streaming import START, answer, house, logged, route, served

FAMILIES = {
    "requests_total": {"route", "mode", "reason"},
    "request_seconds": {"route", "mode"},
    "relay_overhead_seconds": {"route"},
    "runs_total": {"route", "arm", "source", "outcome"},
    "first_content_seconds": {"route", "source"},
    "delivery_seconds": {"route", "source"},
    "run_seconds": {"route", "arm"},
    "perceived_wait_ratio": {"route", "source"},
    "faults_total": {"route", "fault", "phase"},
    "recoveries_total": {"route", "fault", "result"},
    "parity_total": {"route", "result"},
    "outcomes_total": {"route", "arm", "bucket", "outcome"},
    "expected_failures_total": {"route", "arm", "bucket"},
    "weighed_failures_total": {"route", "arm", "bucket"},
    "capped_failures_total": {"route", "arm"},
    "users_worse_total": {"route", "arm", "limit"},
    "slower_total": {"route", "arm", "bucket"},
    "draw_evidence": {"route", "harm"},
    "settled_seconds": {"route", "arm"},
    "users": {"route", "arm"},
    "viewers": {"route"},
    "upgrades_open": set(),
    "viewer_lag_events": set(),
    "flag_age_seconds": set(),
    "kill_switch": set(),
    "kill_flag_on_timestamp_seconds": set(),
    "event_log_up": set(),
    "flag_context_missing_total": set(),
    "tap_calls_total": {"result"},
    "attached_pages_total": {"result"},
    "users_cv2": {"route"},
    "users_group": {"route"},
    "users_alone": {"route"},
    "identity_verified": {"route"},
    "over_budget_total": {"budget"},
    "build_info": {"version", "python"},
    "event_loop_lag_seconds": set(),
}
"""Of the design's section 7."""

PROCESS = {
    *("process_start_time_seconds", "process_cpu_seconds", "process_resident_memory_bytes"),
    *("process_open_fds", "process_max_fds"),
    *(f"python_gc_{name}" for name in ("collections", "objects_collected", "objects_uncollectable")),
}
"""The names of prometheus-client's own collectors."""

SCRAPE_SERIES, SCRAPE_BYTES, ROUTE_SERIES = 932, 79_400, 842
"""The most of a page with one route, and the most series that each further route adds."""

FAULTS = set(Fault) - {Fault.JOB_FAILED}
"""Of a route without jobs."""

ANEW = {"connection": "close"}
"""A connection for each request, so that both workers get some."""

SENTENCE = "Error generating response: MARK-TEXT"


async def upstream_script(asked: Asked) -> None:
    """Answers as the query says."""
    await asked.read_body()
    how = asked.target.decode().partition("how=")[2].partition("&")[0]
    match how:
        case "500":
            await asked.answer(b'{"detail":"MARK-TEXT"}', b"500 Oh")
        case "404":
            await asked.answer(b'{"detail":"MARK-TEXT"}', b"404 No")
        case "reset":
            asked.writer.close()
        case "cut":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"
            await asked.send(head + answer("MARK-TEXT one", "MARK-TEXT two")[:-5])
            asked.writer.close()
        case "malformed":
            await asked.answer(b'{"result": "MARK-TEXT"')
        case "sentence":
            await asked.answer(answer(SENTENCE))
        case _:
            await asked.answer(answer("MARK-TEXT one", "MARK-TEXT two"))


POLL = {"path": "/p/{case_id}", "row": "$[?@.s == '{stage}']", "updated_at": "$.t"}


async def test_all_label_sets_exist_from_the_first_scrape(tmp_path: Path) -> None:
    """Nothing has happened, and every series is there at 0, so that the first event has a rate."""
    async with (
        headgate("http://127.0.0.1:1", tmp_path, routes=[route(poll=POLL)]) as serving,
        browser() as client,
    ):
        samples = await scrape(client, serving.admin_url)

    names = {name.partition("{")[0] for name in samples}
    for family, labels in FAMILIES.items():
        shown = next(n for n in samples if re.match(rf"headgate_{family}(_count)?(\{{|$)", n))
        assert set(re.findall(r'(\w+)="', shown)) == labels, family
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in names}
    ours = {f"headgate_{family.removesuffix('_total')}" for family in FAMILIES}
    assert families == ours | PROCESS
    expected = [
        f'headgate_runs_total{{arm="{a}",outcome="{o}",route="start",source="{s}"}}'
        for a, o, s in product(Arm, OUTCOMES, ("batch", "poll"))
    ]
    expected += [
        f'headgate_faults_total{{fault="{f}",phase="{p}",route="start"}}'
        for f, p in product(FAULTS, FaultPhase)
    ]
    expected += [
        f'headgate_recoveries_total{{fault="{f}",result="{r}",route="start"}}'
        for f, r in product(FAULTS, RECOVERY_RESULTS)
    ]
    expected += [f'headgate_parity_total{{result="{p}",route="start"}}' for p in Parity]
    expected += [f'headgate_tap_calls_total{{result="{r}"}}' for r in CallResult]
    expected += [
        f'headgate_outcomes_total{{arm="{a}",bucket="{b}",outcome="{o}",route="start"}}'
        for a, b, o in product(Arm, range(BUCKETS), OUTCOMES)
    ]
    expected += [
        f'headgate_requests_total{{mode="batch",reason="{r}",route="start"}}'
        for r in set(Reason) - {Reason.NO_ROUTE, Reason.FLAG_ON}
    ]
    expected += [
        'headgate_requests_total{mode="stream",reason="flag_on",route="start"}',
        'headgate_requests_total{mode="relay",reason="no_route",route="unmatched"}',
        'headgate_requests_total{mode="upgrade",reason="no_route",route="unmatched"}',
        "headgate_upgrades_open",
        'headgate_relay_overhead_seconds_count{route="unmatched"}',
        'headgate_viewers{route="start"}',
    ]
    expected += [
        f'headgate_expected_failures_total{{arm="{a}",bucket="{b}",route="start"}}'
        for a, b in product((Arm.STREAM, Arm.CONTROL), range(BUCKETS))
    ]
    expected += [f'headgate_users{{arm="{a}",route="start"}}' for a in (Arm.STREAM, Arm.CONTROL)]
    expected += [f'headgate_settled_seconds_count{{arm="{a}",route="start"}}' for a in Arm]
    assert {name: samples.get(name) for name in expected} == dict.fromkeys(expected, 0.0)


async def test_a_scrape_is_no_larger_than_it_was(tmp_path: Path) -> None:
    """Each series is kept for months. Whoever adds one sees here what it costs; no metric has a second one
    that says when it began."""
    sizes = {}
    for count in (1, 2):
        paths = [f"/api/{n}/{{case_id}}/start" for n in range(count)]
        routes = [
            route(name=f"route-{n}", match=f"POST {path}", stream_path=f"{path}/stream")
            for n, path in enumerate(paths)
        ]
        async with (
            headgate("http://127.0.0.1:1", tmp_path, routes=routes) as serving,
            browser() as client,
        ):
            samples = await scrape(client, serving.admin_url)
            page = await client.get(f"{serving.admin_url}/metrics", headers={"accept-encoding": "identity"})
            packed = await client.get(f"{serving.admin_url}/metrics", headers={"accept-encoding": "gzip"})
        sizes[count] = len(samples)
        assert not [name for name in samples if "_created" in name]
        assert "content-encoding" not in page.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.text.splitlines()[0] == page.text.splitlines()[0]
        assert int(packed.headers["content-length"]) * 8 < int(page.headers["content-length"])
        if count == 1:
            assert int(page.headers["content-length"]) <= SCRAPE_BYTES

    assert sizes[1] <= SCRAPE_SERIES
    assert sizes[2] - sizes[1] <= ROUTE_SERIES


async def test_a_loop_that_is_held_up_is_seen(tmp_path: Path) -> None:
    """A turn of a third of a second is in the lag's upper buckets; what the process takes is on the page."""
    name = "headgate_event_loop_lag_seconds"

    async with headgate("http://127.0.0.1:1", tmp_path) as serving, browser() as client:

        async def watched() -> bool:
            return (await scrape(client, serving.admin_url))[f"{name}_count"] > 0

        await eventually(watched)
        before = await scrape(client, serving.admin_url)
        time.sleep(0.35)  # noqa: ASYNC251 the loop is held up on purpose

        async def late() -> bool:
            page = await scrape(client, serving.admin_url)
            quick = f'{name}_bucket{{le="0.1"}}'
            return page[f"{name}_count"] - page[quick] > before[f"{name}_count"] - before[quick]

        await eventually(late)
        page = await scrape(client, serving.admin_url)

    assert page["process_resident_memory_bytes"] > 10 * 2**20
    assert 10 < page["process_open_fds"] <= page["process_max_fds"]


async def test_counts_agree_with_what_was_done(tmp_path: Path) -> None:
    """Ten runs of each kind, streamed and batch: requests, runs, faults and outcomes add up."""
    kinds = {
        "good": ("complete", None, None, "complete"),
        "500": ("failed", "status", "nothing", "failed"),
        "404": ("failed", "status", "nothing", "complete"),
        "reset": ("failed", "reset", "nothing", "failed"),
        "cut": ("failed", "truncated", "content", "failed"),
        "malformed": ("failed", "malformed", "nothing", "failed"),
        "sentence": ("failed", "failure_text", "content", "failed"),
    }
    async with house(upstream_script, tmp_path, commit_after=15) as (_, serving, client):
        before = await scrape(client, serving.admin_url)
        for how in kinds:
            await asyncio.gather(
                *(read(client, f"{START}?how={how}&n={number}", signed()) for number in range(10))
            )
        for how in ("good", "500"):
            for _ in range(10):
                await client.post(f"{START}?how={how}", headers=signed(accept="*/*"))
        for _ in range(10):
            await client.get("/elsewhere")
            await client.post(START, headers={"accept": EITHER})

        async def settled() -> bool:
            found = await scrape(client, serving.admin_url)
            return found['headgate_requests_total{mode="stream",reason="flag_on",route="start"}'] == 70

        await eventually(settled)
        after = await scrape(client, serving.admin_url)

    grown = {name: after[name] - before.get(name, 0) for name in after}

    def total(family: str, **labels: str) -> float:
        return sum(
            value
            for name, value in grown.items()
            if name.startswith(f"headgate_{family}{{")
            and all(f'{k}="{v}"' in name for k, v in labels.items())
        )

    assert total("requests_total") == 70 + 20 + 20
    assert total("requests_total", reason="accept") == 20
    assert total("requests_total", reason="no_identity") == 10
    assert total("requests_total", route="unmatched") == 10
    assert total("request_seconds_count") == 110
    assert total("relay_overhead_seconds_count", route="start") == 30
    assert grown["headgate_flag_context_missing_total"] == 10
    runs = Counter(outcome for outcome, *_ in kinds.values())
    for outcome in OUTCOMES:
        assert total("runs_total", outcome=outcome) == 10 * runs[outcome], outcome
    faults = Counter((fault, phase) for _, fault, phase, _ in kinds.values() if fault)
    for fault, phase in product(FAULTS, FaultPhase):
        assert total("faults_total", fault=fault, phase=phase) == 10 * faults[fault, phase], (fault, phase)
    outcomes = Counter(settled for *_, settled in kinds.values())
    outcomes.update(["complete", "failed"])  # the relayed ones of a known user
    for outcome in OUTCOMES:
        assert total("outcomes_total", outcome=outcome) == 10 * outcomes[outcome], outcome
    assert total("outcomes_total", arm="stream") == 90
    assert total("settled_seconds_count", arm="stream") == total("outcomes_total", outcome="complete")
    assert total("users", arm="stream") == 1
    assert total("recoveries_total", result="failed") == 60
    assert total("parity_total") == total("parity_total", result="equal") + total(
        "parity_total", result="unshown"
    )
    assert total("first_content_seconds_count") == 30
    assert total("perceived_wait_ratio_count") == 10
    assert total("delivery_seconds_count") >= 30
    assert total("viewers") == 0


async def test_nothing_that_identifies_anybody_is_counted_or_logged(tmp_path: Path) -> None:
    """Marked users, cases, queries, tokens, bodies and texts in a busy house: no mark in logs or metrics."""
    marks: dict[str, Any] = {
        "content-type": "application/json",
        "cookie": "s=MARK-COOKIE",
        "x-a": "MARK-HEAD",
    }
    hows = ("good", "500", "reset", "cut", "malformed", "sentence")
    poll = {**POLL, "path": "/p/{case_id}", "every_ms": 50}
    flags = flag_document(rollout=60)
    with logged() as lines:
        async with house(
            upstream_script, tmp_path, poll=poll, source="poll", commit_after=0, flags=flags
        ) as (_, serving, client):

            async def one(number: int) -> None:
                path = f"/api/cases/MARK-CASE-{number}/start?how={hows[number % 6]}&q=MARK-QUERY"
                accept = ("text/event-stream", EITHER, "*/*")[number % 3]
                headers = signed(f"MARK-USER-{number}", accept, **marks)
                stream = await read(client, path, headers, content=b'{"input_text": "MARK-BODY"}')
                if run := stream.headers.get("headgate-run"):
                    back = f"/api/cases/MARK-CASE-{number}/start/stream"
                    cursor = {"last-event-id": f"{run}:1"}
                    await read(client, back, {**headers, **cursor}, method="GET")
                    await read(client, back, {**headers, "last-event-id": "MARK-CURSOR:1"}, method="GET")
                await client.get(f"/elsewhere/MARK-PATH-{number}?q=MARK-QUERY", headers=headers)

            await asyncio.gather(*(one(number) for number in range(48)))
            page = (await client.get(f"{serving.admin_url}/metrics")).text
            pages = [(await client.get(f"{serving.admin_url}/{name}")).text for name in ("runs", "readyz")]

    own = [line for line in lines.lines if line["logger"].startswith(("headgate", "uvicorn"))]
    assert len([line for line in own if line["message"] == "request"]) >= 48
    bearer = signed("MARK-USER-1")["authorization"].split(".")[2]
    for where in (page, *pages, str(own)):
        assert "MARK" not in where
        assert bearer not in where
        assert signed("MARK-USER-1")["authorization"][-20:] not in where


async def test_workers_are_counted_together(tmp_path: Path) -> None:
    """Two workers: whichever answers a scrape, the counters are true sums, and never go back."""
    key = 'headgate_requests_total{mode="stream",reason="flag_on",route="start"}'
    async with (
        ScriptedUpstream(upstream_script).running() as upstream,
        served(
            upstream.url, tmp_path, "--workers", "2", flags={"file": "flags.json", "settle_s": 0.3}
        ) as serving,
    ):
        done = asyncio.Event()
        sent = 0

        async def busy(client: httpx.AsyncClient) -> None:
            nonlocal sent
            while not done.is_set():
                sent += 1
                assert (await read(client, START, {**signed(), **ANEW})).last["type"] == "stream_done"

        seen: list[dict[str, float]] = []
        processes: set[int] = set()
        async with browser(serving.url) as client, asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(busy(client))
            client.headers.update(ANEW)
            while len(seen) < 50 or len(processes) < 2:
                seen.append(await scrape(client, serving.admin_url))
                processes.add((await client.get(f"{serving.admin_url}/runs")).json()["process"])
            done.set()

        async def summed() -> bool:
            async with browser() as client:
                figures = await scrape(client, serving.admin_url)
                # Some requests have joined another's run.
                runs, settled = (
                    sum(value for name, value in figures.items() if name.startswith(f"headgate_{family}{{"))
                    for family in ("runs_total", "outcomes_total")
                )
                # Each worker has seen the one user, and says so: there is one at least.
                assert figures['headgate_users{arm="stream",route="start"}'] == 1
                return figures[key] == sent and runs == settled > 0

        await eventually(summed)

    assert len(processes) == 2
    assert sent > 10
    counters = [name for name in seen[0] if re.search(r"_(total|count|bucket)\b", name)]
    for earlier, later in pairwise(seen):
        assert all(later[name] >= earlier[name] for name in counters)
