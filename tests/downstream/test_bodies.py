"""Bodies that are held: their budget together, their pace, and that each is given back."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from proxy.downstream import bodies
from proxy.downstream.bodies import ByteBudget
from tests.servers import streaming
from tests.servers.client import SSE, browser, eventually, opened, read, scrape, signed
from tests.servers.scripted import ScriptedUpstream, Talker, ok, talking
from tests.servers.serving import Serving, headgate
from tests.servers.streaming import START, Held, answer, answering, route

LIMIT = 100_000
HALF = b"x" * 60_000
OVER = 'headgate_over_budget_total{budget="bodies"}'


house = partial(streaming.house, limits={"bodies": LIMIT})


def held(serving: Serving) -> int:
    return serving.app.gateway.bodies.held


@asynccontextmanager
async def unfinished(serving: Serving, user: str | None, body: bytes = HALF) -> AsyncIterator[Talker]:
    """A client in the middle of its request's body, of which one byte is missing."""
    headers = {"host": "x", "accept": SSE, "content-length": str(len(body) + 1)}
    if user is not None:
        headers |= signed(user, SSE)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with talking(serving.url) as client:
        await client.send(f"POST {START} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        yield client


async def test_a_body_too_many_is_refused(tmp_path: Path) -> None:
    """503 with the time to try again; it is counted, and who was there before is served."""
    async with house(answering(answer()), tmp_path) as (_, serving, client):
        async with unfinished(serving, "ann") as first:
            await eventually(lambda: held(serving) == len(HALF))
            refused = await read(client, START, signed("bob"), content=HALF)
            await first.send(b"x")
            assert (await first.answer()).status == 200
        served = await read(client, START, signed("bob"), content=HALF)

        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert served.last["type"] == "stream_done"
        assert (await scrape(client, serving.admin_url))[OVER] == 1
        assert held(serving) == 0


async def test_one_user_takes_not_the_room_of_all(tmp_path: Path) -> None:
    """A quarter of it is for the others, however much one user sends; and it is given back."""
    async with house(answering(answer()), tmp_path) as (_, serving, client):
        async with unfinished(serving, "ann") as first:
            await eventually(lambda: held(serving) == len(HALF))
            hers = await read(client, START, signed("ann"), content=b"y" * 20_000)
            his = await read(client, START, signed("bob"), content=b"y" * 20_000)
            await first.send(b"x")
            assert (await first.answer()).status == 200
        served = await read(client, START, signed("ann"), content=b"y" * 20_000)

        assert (hers.status, hers.headers["retry-after"]) == (503, "5")
        assert his.last["type"] == "stream_done"
        assert served.last["type"] == "stream_done"
        assert (await scrape(client, serving.admin_url))[OVER] == 1
        assert not serving.app.gateway.bodies._held_by


async def test_a_runs_body_counts_until_its_end(tmp_path: Path) -> None:
    """Also while nobody watches it: the upstream may have to be asked with it again."""
    upstream_waits = Held(answering(answer()))
    async with house(upstream_waits, tmp_path, commit_after=0) as (_, serving, client):
        async with opened(client, START, signed("ann"), content=HALF) as stream:
            await stream.piece()
        assert held(serving) == len(HALF)
        assert (await read(client, START, signed("bob"), content=HALF)).status == 503
        upstream_waits.release.set()
        await eventually(lambda: held(serving) == 0)


async def test_who_gets_batch_is_relayed_though_there_is_no_room(tmp_path: Path) -> None:
    """Its body is compared with runs in flight only if there is room to keep it."""
    async with (
        house(answering(answer()), tmp_path) as (upstream, serving, client),
        unfinished(serving, "ann"),
    ):
        await eventually(lambda: held(serving) == len(HALF))
        named = {"idempotency-key": "k", "accept": "application/json"}
        reply = await client.post(START, headers=signed("bob") | named, content=HALF)

        assert (reply.status_code, reply.content) == (200, answer())
        assert upstream.asked[0].body == HALF


async def test_of_nobody_in_particular_no_body_is_held(tmp_path: Path) -> None:
    """Strangers could fill what all share; the API sees their requests as they come."""
    async with house(answering(answer()), tmp_path) as (upstream, serving, client), AsyncExitStack() as stack:
        for _ in range(30):
            await stack.enter_async_context(unfinished(serving, None))
        await eventually(lambda: len(upstream.asked) == 30)

        assert held(serving) == 0
        assert (await read(client, START, signed("ann"), content=HALF)).last["type"] == "stream_done"


async def test_a_body_that_comes_too_slowly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408, though each of its bytes comes in time: else it would take its room for hours."""
    monkeypatch.setattr(bodies, "GRACE_S", 0.2)
    async with house(answering(answer()), tmp_path) as (upstream, serving, _):
        async with unfinished(serving, "ann", b"x" * 50) as slow:
            assert (await slow.answer()).status == 408
        assert upstream.asked == []
        await eventually(lambda: held(serving) == 0)


async def test_every_way_a_request_ends_gives_its_body_back(tmp_path: Path) -> None:
    """Streamed, joined, resumed, refused, cancelled, cut while it came, relayed."""
    run = str(uuid.uuid4())
    async with house(answering(answer()), tmp_path) as (_, serving, client):
        first = await read(client, START, signed("ann", **{"headgate-run": run}), content=HALF)
        cursor = {"last-event-id": first.events[2]["id"]}
        assert (await read(client, START, signed("ann", **cursor), content=HALF)).status == 200
        assert (await read(client, START, signed("ann", **cursor), content=b"other")).status == 422
        assert (await read(client, START, signed("ann", **{"headgate-run": run}), content=HALF)).status == 200
        assert (await read(client, START, signed("bob", **{"headgate-run": run}), content=HALF)).status == 409
        assert (await read(client, START, signed("ann"), content=HALF * 2)).status == 503
        assert (await client.post(START, headers=signed("ann", "*/*"), content=HALF)).status_code == 200
        async with unfinished(serving, "ann"):
            await eventually(lambda: held(serving) == len(HALF))

        await eventually(lambda: held(serving) == 0)


async def test_a_model_call_goes_on_though_there_is_no_room(tmp_path: Path) -> None:
    """It is the backend's own: it shows nobody anything, and is answered as ever."""
    async with ScriptedUpstream(ok).running() as provider:
        llm = {"providers": [{"name": "openai", "url": provider.url}]}
        async with (
            headgate(provider.url, tmp_path, routes=[route()], llm=llm, limits={"bodies": LIMIT}) as serving,
            browser() as client,
        ):
            url = f"{serving.model_url}/openai/v1/chat/completions"
            reply = await client.post(url, content=b"x" * 3 * LIMIT)
            assert (reply.status_code, len(provider.asked[0].body)) == (200, 3 * LIMIT)
            assert (await scrape(client, serving.admin_url))[OVER] == 1
            assert serving.app.model_port is not None
            await eventually(lambda: serving.app.model_port.bodies.held == 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("accept", ["application/json", SSE], ids=["compared", "as events"])
async def test_an_answer_goes_out_as_it_came_where_there_is_no_room_to_keep_it(
    tmp_path: Path, accept: str
) -> None:
    """It is neither read for the comparison of arms nor sent as events: other answers fill the budget."""
    long = answer("x" * 3000)
    async with house(answering(long), tmp_path, limits={"answers": 2000}) as (_, serving, client):
        headers = signed("ann", accept) if accept != SSE else {"accept": SSE}
        reply = await client.post(START, headers=headers)

        assert (reply.status_code, reply.content) == (200, long)
        assert reply.headers["content-type"] == "application/json"
        figures = await scrape(client, serving.admin_url)
        assert figures['headgate_over_budget_total{budget="answers"}'] == 1
        assert serving.app.gateway.batch.answers.held == 0


async def test_an_answer_that_is_kept_gives_its_room_back(tmp_path: Path) -> None:
    """After it has been read, again and again."""
    async with house(answering(answer()), tmp_path, limits={"answers": 2000}) as (_, serving, client):
        for headers in (signed("ann", "application/json"), {"accept": SSE}) * 30:
            assert (await read(client, START, headers)).status == 200

        assert serving.app.gateway.batch.answers.held == 0
        assert (await scrape(client, serving.admin_url))['headgate_over_budget_total{budget="answers"}'] == 0


def test_what_is_held_is_held_by_one() -> None:
    """A transferred reservation gives nothing back; its new owner does, once."""
    budget = ByteBudget(10, lambda budget: None)
    with budget.reserve() as reservation:
        assert reservation.take(6)
        assert not reservation.take(5)
        other = reservation.transfer()
    assert budget.held == 6
    other.close()
    other.close()
    assert budget.held == 0
