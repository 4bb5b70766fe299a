"""The admin port: health, counts, and the kill switch."""

import asyncio
import json
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.observe.page.guard import Guard
from tests.servers import streaming
from tests.servers.client import EITHER, browser, eventually, opened, read, scrape, signed
from tests.servers.serving import ADMIN_TOKEN, flag_document, gated, headgate
from tests.servers.streaming import START, Held, answer, answering, route, served_before

TOKEN = {"authorization": f"Bearer {ADMIN_TOKEN}"}


house = partial(streaming.house, answering(answer()))


async def reason(client: httpx.AsyncClient, url: str = "") -> str:
    """Return the reason of the decision on the next request."""
    decision = (await read(client, f"{url}{START}", signed())).headers["headgate-decision"]
    return str(decision).split(";")[1]


async def test_the_kill_switch_stops_streaming_at_once(tmp_path: Path) -> None:
    """The next request after POST /kill is batch, the next after DELETE streams again; open runs go on."""
    held = Held(answering(answer()))
    async with (
        streaming.house(held, tmp_path, commit_after=0) as (_, serving, client),
        opened(client, START, signed()) as before,
    ):
        url = f"{serving.admin_url}/kill?by=anna"
        killed = await client.post(url, headers=TOKEN, content="too many complaints")
        held.release.set()
        either = await client.post(START, headers=signed(accept=EITHER))
        while_killed = await reason(client)
        ready = (await client.get(f"{serving.admin_url}/readyz")).json()
        released = await client.delete(f"{serving.admin_url}/kill", headers=TOKEN)
        afterwards = await reason(client)
        await before.rest()

    assert (killed.status_code, killed.json()) == (200, {"killed": True})
    assert either.content == answer()
    assert while_killed == "reason=killed"
    assert ready["killed"] is True
    assert ready["kill_flag"] is False
    order = ready["kill_switch"]
    assert (order["reason"], order["by"]) == ("too many complaints", "anna")
    assert ready["ready"] is True
    assert (released.status_code, released.json()) == (200, {"killed": False})
    assert afterwards == "reason=flag_on"
    assert before.types.count("content_chunk") > 2
    assert before.last["type"] == "stream_done"


async def test_what_the_admin_port_does_not_do_it_says(tmp_path: Path) -> None:
    """405, with what it does in `Allow`; whoever asks."""
    async with headgate("http://127.0.0.1:1", tmp_path) as serving, browser(serving.admin_url) as client:
        answers = [await client.request(*asked) for asked in (("PUT", "/kill"), ("POST", "/metrics"))]

    assert [answered.status_code for answered in answers] == [405, 405]
    assert [answered.headers["allow"] for answered in answers] == ["POST, DELETE", "GET, HEAD"]
    for answered in answers:
        assert answered.headers["content-type"] == "application/problem+json"
        assert answered.json()["status"] == 405


async def test_the_kill_switch_needs_its_token(tmp_path: Path) -> None:
    """No token, a wrong one, another scheme: 401 with a challenge, and nothing changes."""
    async with house(tmp_path) as (_, serving, client):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Bearer {ADMIN_TOKEN}x"},
            {"authorization": f"Basic {ADMIN_TOKEN}"},
            {"authorization": ADMIN_TOKEN},
            {"authorization": "Bearer"},
        ):
            for method in ("POST", "DELETE"):
                response = await client.request(method, f"{serving.admin_url}/kill", headers=headers)
                assert response.status_code == 401, headers
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["content-type"] == "application/problem+json"
                assert ADMIN_TOKEN not in response.text
        assert await reason(client) == "reason=flag_on"


async def test_the_kill_switch_is_counted_while_it_is_on(tmp_path: Path) -> None:
    """Also when nobody asks for anything: a switch that is forgotten would never be noticed."""
    async with house(tmp_path) as (_, serving, client):

        async def shown(value: float) -> None:
            async def is_shown() -> bool:
                return (await scrape(client, serving.admin_url))["headgate_kill_switch"] == value

            await eventually(is_shown)

        await shown(0)
        await client.post(f"{serving.admin_url}/kill", headers=TOKEN)
        await shown(1)
        await client.delete(f"{serving.admin_url}/kill", headers=TOKEN)
        await shown(0)


async def test_a_kill_flag_that_is_off_again_is_still_known_to_have_been_on(tmp_path: Path) -> None:
    """For a controller that did not look meanwhile. The local switch is no business of the flag's."""
    async with house(tmp_path) as (_, serving, client):

        async def shown(name: str, value: float) -> None:
            async def is_shown() -> bool:
                return (await scrape(client, serving.admin_url))[f"headgate_{name}"] == value

            await eventually(is_shown, within_s=10)

        await client.post(f"{serving.admin_url}/kill", headers=TOKEN)
        await shown("kill_switch", 1)
        await shown("kill_flag_on_timestamp_seconds", 0)
        await client.delete(f"{serving.admin_url}/kill", headers=TOKEN)
        await shown("kill_switch", 0)
        before_s = time.time()
        serving.flag_file.write_text(json.dumps(flag_document(kill=True)))
        await shown("kill_switch", 1)
        serving.flag_file.write_text(json.dumps(flag_document()))
        await shown("kill_switch", 0)
        samples = await scrape(client, serving.admin_url)

    assert before_s <= samples["headgate_kill_flag_on_timestamp_seconds"] <= time.time()


async def test_without_a_token_in_the_settings_there_is_no_kill_switch(tmp_path: Path) -> None:
    """Not set means refused for everybody: 403, also for an empty or a guessed token."""
    async with house(tmp_path, admin_token=None) as (_, serving, client):
        for headers in ({}, {"authorization": "Bearer None"}, {"authorization": "Bearer"}, TOKEN):
            response = await client.post(f"{serving.admin_url}/kill", headers=headers)
            assert response.status_code == 403
        assert await reason(client) == "reason=flag_on"


@pytest.mark.parametrize("header", ["Bearer ", "Bearer", "Bearer  ", ""])
async def test_nothing_is_never_the_token(header: str) -> None:
    """Settings refuse an empty one; the switch would refuse it, too."""
    kill = Guard(SecretStr(""))("the kill switch", never_asked)
    transport = httpx.ASGITransport(Starlette(routes=[Route("/kill", kill, methods=["POST"])]))

    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        assert (await client.post("/kill", headers={"authorization": header})).status_code == 403


async def never_asked(_: Request) -> Response:
    """A switch that nobody gets to."""
    raise AssertionError


async def test_a_token_may_have_any_letters(tmp_path: Path) -> None:
    """A token in UTF-8 works as a client sends it."""
    async with house(tmp_path, admin_token="schlüssel-für-alle") as (_, serving, client):
        header = {b"authorization": "Bearer schlüssel-für-alle".encode()}
        response = await client.post(f"{serving.admin_url}/kill", headers=header)

    assert response.status_code == 200


async def test_the_kill_flag_in_the_file_works_too(tmp_path: Path) -> None:
    """A changed flag file is applied soon; a broken one changes nothing and is said."""
    async with house(tmp_path) as (_, serving, client):
        serving.flag_file.write_text(json.dumps(flag_document(kill=True)))

        async def killed() -> bool:
            return await reason(client) == "reason=killed"

        await eventually(killed)
        serving.flag_file.write_text("{")

        async def said() -> bool:
            state = (await client.get(f"{serving.admin_url}/readyz")).json()
            return state["flags_problem"] is not None

        await eventually(said)
        assert await killed()
        serving.flag_file.write_text(json.dumps(flag_document()))

        async def streams() -> bool:
            return await reason(client) == "reason=flag_on"

        await eventually(streams)


async def test_health_and_counts(tmp_path: Path) -> None:
    """Alive, ready, and how many runs there are; nothing about whose or what."""
    held = Held(answering(answer()))
    async with (
        gated(held, tmp_path, routes=[route(commit_after=0)]) as (_, serving),
        browser(serving.admin_url) as client,
    ):
        async with opened(client, f"{serving.url}{START}", signed()) as stream:
            live = (await client.get("/livez")).json()
            ready = await client.get("/readyz")
            counts = (await client.get("/runs")).json()
            held.release.set()
            await stream.rest()

        async def kept() -> bool:
            return bool((await client.get("/runs")).json()["kept"] == 1)

        await eventually(kept)
        serving.app.runs.draining = True
        draining = await client.get("/readyz")

    assert live == {"live": True}
    assert ready.status_code == 200
    assert set(ready.json()) == {
        *("ready", "draining", "killed", "kill_flag", "kill_switch"),
        *("flag_age_s", "flags_stale", "flags_problem", "event_log_up", "event_log_shards_down"),
    }
    assert ready.json()["kill_switch"] is None
    assert {key: counts[key] for key in ("live", "kept")} == {"live": {"start": 1}, "kept": 0}
    assert set(counts) == {"live", "kept", "process", "tasks"}
    assert (draining.status_code, draining.json()["draining"]) == (503, True)


async def test_the_admin_calls_are_not_on_the_public_port(tmp_path: Path) -> None:
    """There they belong to the upstream, which has none of them."""
    async with house(tmp_path) as (_, serving, client):
        for path in ("/livez", "/readyz", "/metrics", "/runs"):
            assert (await client.get(path)).content == answer()
            if path != "/runs":
                assert (await client.get(f"/_headgate{path}")).status_code == 404
        # There are the caller's own, and no counts.
        assert (await client.get("/_headgate/runs")).json() == {"runs": []}
        assert (await client.post("/kill", headers=TOKEN)).content == answer()
        assert await reason(client) == "reason=flag_on"
        assert (
            (await client.get(f"{serving.admin_url}/metrics"))
            .headers["content-type"]
            .startswith("text/plain")
        )


async def test_the_kill_switch_reaches_every_worker(tmp_path: Path) -> None:
    """One of two workers is told; the other obeys within a second."""
    async with served_before(answering(answer()), tmp_path, "--workers", "2") as (_, serving, _):
        loop = asyncio.get_running_loop()
        async with browser(serving.url) as client:
            client.headers["connection"] = "close"  # a connection for each request, so that both get some
            assert {await reason(client) for _ in range(12)} == {"reason=flag_on"}
            assert (await client.post(f"{serving.admin_url}/kill", headers=TOKEN)).status_code == 200
            killed_at = last_streamed_at = loop.time()
            in_a_row = 0
            while in_a_row < 12:
                asked_at = loop.time()
                in_a_row += 1
                if await reason(client) == "reason=flag_on":
                    last_streamed_at, in_a_row = asked_at, 0
            await client.delete(f"{serving.admin_url}/kill", headers=TOKEN)

            async def again() -> bool:
                return await reason(client) == "reason=flag_on"

            await eventually(again)

    assert last_streamed_at - killed_at < 1
