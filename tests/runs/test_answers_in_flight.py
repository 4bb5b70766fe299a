"""Answers of runs in flight have one budget: over it runs wait their turn, and no answer is lost."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from proxy.runs.capacity import AnswerBudget
from tests.servers.client import EITHER, eventually, opened, read, scrape, signed
from tests.servers.scripted import Asked
from tests.servers.streaming import START, answer, house, route

LIMIT = 300_000
LARGE = answer("word " * 40_000, "short")
USERS = ["ann", "bob", "cyd", "dan"]
OVER = 'headgate_over_budget_total{budget="run_answers"}'
NATIVE = {
    "format": "sse",
    "events": [{"event": "end", "means": "done"}, {"stage": "extraction", "at": "$.t"}],
    "answer": {"result": {"extraction": "{{ text $.extraction }}", "summary": ""}},
}


class Large:
    """An upstream whose answers lack their last byte until it is told to send it."""

    def __init__(self) -> None:
        self.asked = 0
        self.all_asked, self.release = asyncio.Event(), asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        await asked.read_body()
        if asked.header(b"x-small"):
            await asked.answer(answer())
            return
        self.asked += 1
        if self.asked == len(USERS):
            self.all_asked.set()
        await self.all_asked.wait()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(LARGE) + LARGE[:-1])
        await self.release.wait()
        await asked.send(LARGE[-1:])


async def test_all_answers_come_though_they_do_not_fit_in_at_once(tmp_path: Path) -> None:
    """Never is more read than the budget and one answer. Meanwhile another user gets the batch answer."""
    upstream_waits, most = Large(), 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, budget.held)
            await asyncio.sleep(0)

    async with (
        house(upstream_waits, tmp_path, commit_after=0, limits={"run_answers": LIMIT}) as (
            _,
            serving,
            client,
        ),
        AsyncExitStack() as stack,
    ):
        budget = serving.app.runs._capacity.answers
        looking = asyncio.create_task(look())
        streams = [await stack.enter_async_context(opened(client, START, signed(user))) for user in USERS]
        await eventually(lambda: len(budget._waiting) >= 2)
        relayed = await read(client, START, signed("eve", EITHER, **{"x-small": "1"}))
        upstream_waits.release.set()
        ended = [await stream.rest() for stream in streams]
        looking.cancel()
        samples = await scrape(client, serving.admin_url)

        assert [stream.last["metadata"]["result"] for stream in ended] == [LARGE.decode()] * len(USERS)
        assert LIMIT < most <= LIMIT + len(LARGE)
        assert relayed.raw == answer()
        key = 'headgate_requests_total{mode="batch",reason="overloaded",route="start"}'
        assert samples[key] == 1
        assert samples[OVER] >= 2
        assert (budget.held, budget._held_by) == (0, {})


async def test_live_text_stops_where_there_is_no_room_and_the_end_has_the_rest(tmp_path: Path) -> None:
    """The text that was shown is a beginning of the whole, not another one."""
    text = "word " * 4_000
    events = b"".join(b'data: {"t":"word word word word "}\n\n' for _ in range(1_000))
    stream = events + b"event: end\ndata: {}\n\n"

    async def script(asked: Asked) -> None:
        await asked.read_body()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
        await asked.send(head % len(stream) + stream)

    async with house(script, tmp_path, source="native", native=NATIVE, limits={"run_answers": 100_000}) as (
        _,
        serving,
        client,
    ):
        got = await read(client, START, signed())
        samples = await scrape(client, serving.admin_url)

        assert got.texts()["extraction"] == text
        assert got.last["type"] == "stream_done"
        assert "content_replace" not in got.types
        assert samples[OVER] >= 1
        assert serving.app.runs._capacity.answers.held == 0


async def test_a_look_that_there_is_no_room_for_costs_the_live_text_alone(tmp_path: Path) -> None:
    """The polled document is not read on, and the call's answer is."""

    async def script(asked: Asked) -> None:
        await asked.read_body()
        await asked.answer(LARGE if asked.target.endswith(b"/rows") else answer())

    polls = {"path": "/api/cases/{case_id}/rows", "row": "$.rows[?@.stage == '{stage}']"}
    polled = route(source="poll", poll=polls | {"updated_at": ["$.at"]})
    polled["sections"][0]["poll_at"] = "$.text"
    async with house(script, tmp_path, routes=[polled], limits={"run_answers": 100_000}) as (
        _,
        serving,
        client,
    ):
        got = await read(client, START, signed())

        assert got.last["metadata"]["result"] == answer().decode()
        assert serving.app.runs._capacity.answers.held == 0


async def test_one_user_leaves_room_to_the_others() -> None:
    """A quarter of it. Over his share his runs wait, and one of them goes on."""
    budget = AnswerBudget(1_000)
    first, second, third = (budget.share("ann") for _ in range(3))
    hers = budget.share("bob")
    await first.take(700)
    waiting = [asyncio.create_task(share.take(100)) for share in (second, third)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [task.done() for task in waiting] == [True, False]
    await asyncio.wait_for(first.take(0), 1)  # nothing more is no reason to wait
    assert not budget.has_room_for_run("ann")
    assert budget.has_room_for_run("bob")
    await hers.take(200)
    first.close()
    await waiting[1]
    for share in (second, third, hers):
        share.close()
    assert (budget.held, budget._held_by) == (0, {})


async def test_a_run_that_ends_while_it_waits_has_taken_nothing() -> None:
    """Also if it was its turn just then; and the next one has its turn."""
    budget = AnswerBudget(1_000)
    first, second, third = (budget.share(user) for user in ("ann", "bob", "cyd"))
    await first.take(740)
    await second.take(250)
    over = asyncio.create_task(second.take(20))
    waiting = asyncio.create_task(third.take(20))
    await asyncio.sleep(0)
    over.cancel()
    waiting.cancel()
    await asyncio.wait({over, waiting})
    second.close()
    third.close()

    assert budget.held == 740
    assert budget.has_room("cyd", 260)


async def test_a_run_costs_no_more_the_more_runs_wait() -> None:
    """Neither when it begins to wait, nor when another one gives back what it had."""

    async def cost_s(runs: int) -> float:
        budget = AnswerBudget(1_000_000)
        first, over = budget.share("ann"), budget.share("bob")
        await first.take(740_000)
        await over.take(260_000)
        await over.take(1)
        began = time.thread_time()
        shares = [budget.share(f"user {number}") for number in range(runs)]
        waiting = [asyncio.create_task(share.take(1_000)) for share in shares]
        await asyncio.sleep(0)
        for _ in shares:
            first.give_back(1)
        took_s = time.thread_time() - began
        first.close()
        over.close()
        for share, task in zip(shares, waiting, strict=True):
            await task
            share.close()
        assert budget.held == 0
        return took_s / runs

    few_s = min([await cost_s(100) for _ in range(5)])
    many_s = min([await cost_s(2_000) for _ in range(3)])
    assert many_s < 5 * few_s
