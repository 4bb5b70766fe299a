"""Flags from a real Unleash server, as ops run it: changed by its Admin API, taken away, frozen, refused."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from flags.decision import Accept, FlagAnswer, Mode, Question, Reason, decide
from flags.sources.unleash import UnleashFlags
from flags.sources.unleash_api import UnleashServer
from tests.flags.documents import ALICE, Clock
from tests.observe.test_admin import TOKEN
from tests.servers.client import EITHER, PATIENCE_S, browser, eventually
from tests.servers.serving import Serving, gated
from tests.servers.streaming import START, answer, answering, route, served_before
from tests.servers.unleash_server import PROJECT, Unleash, is_installed, unleash

pytestmark = pytest.mark.skipif(not is_installed(), reason="Unleash or PostgreSQL is not installed")

REFRESH_S = 1.0
KILLED_S = REFRESH_S + 2.0  # what a kill in Unleash may take
SWITCHED_S = 10.0  # what the local one may take, on a busy machine
NOTICED_S = 75.0
"""Unleash itself writes down every 5 to 30 seconds what it has heard, the first time up to 30 later."""

KILL = "headgate.kill"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Unleash]:
    async with unleash(tmp_path_factory.mktemp("unleash")) as running:
        await running.make_flag(KILL, None, on=False)
        yield running


@pytest.fixture
async def unharmed(server: Unleash) -> AsyncIterator[Unleash]:
    """The server, which is there again afterwards whatever a test does to it, and kills nobody."""
    yield server
    server.thaw()
    try:
        async with browser() as client:
            await client.get(f"{server.url}/health")
    except httpx.TransportError:
        await server.start()
    await turn(server, KILL, "off")


def flags_of(
    server: Unleash, *flags: str, token: str = "", timeout_s: float = 5.0, **more: Any
) -> UnleashFlags:
    at = UnleashServer(server.url, token or server.client_token, refresh_s=0.1, timeout_s=timeout_s)
    return UnleashFlags(at, frozenset(flags), **more)


def settings_of(server: Unleash, **more: Any) -> dict[str, Any]:
    block = {"url": server.url, "token": server.client_token, "refresh_s": REFRESH_S}
    return {"unleash": block, **more}


async def turn(server: Unleash, flag: str, to: str) -> None:
    await server.ask("POST", f"{server.environment_of(flag)}/{to}")


async def set_strategy(server: Unleash, flag: str, strategy: str, share: int, **more: Any) -> None:
    """All of it, as the Admin API wants it."""
    parameters = {"rollout": str(share), "stickiness": "userId", "groupId": flag}
    body = {"name": "flexibleRollout", "parameters": parameters, "constraints": [], **more}
    await server.ask("PUT", f"{server.strategies_of(flag)}/{strategy}", body)


def signed(tenant: str | None = None, user: str = "ann") -> dict[str, str]:
    claims = {"sub": user, "org": tenant} if tenant else {"sub": user}
    return {
        "authorization": f"Bearer {jwt.encode(claims, 'long enough for HS256, all in all')}",
        "accept": EITHER,
    }


async def until(
    client: httpx.AsyncClient,
    wanted: str,
    within_s: float = PATIENCE_S,
    headers: dict[str, str] | None = None,
) -> None:
    """Ask until a request is decided for this reason."""

    async def is_so() -> bool:
        return await reason(client, headers=headers) == wanted

    await eventually(is_so, within_s)


async def reason(client: httpx.AsyncClient, url: str = "", headers: dict[str, str] | None = None) -> str:
    """Return the reason of the decision on a request; batch answers that JSON clients get say nothing, so
    events are asked."""
    wanted = {**(headers or signed()), "accept": "text/event-stream"}
    response = await client.post(f"{url}{START}", headers=wanted)
    return str(response.headers["headgate-decision"]).split(";")[1].removeprefix("reason=")


@asynccontextmanager
async def house(
    directory: Path, server: Unleash, flag: str, **settings: Any
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient]]:
    """A Headgate whose one route has this flag."""
    flag_settings = settings.pop("flag_settings", settings_of(server))
    async with (
        gated(
            answering(answer()), directory, routes=[route(flag=flag)], flag_settings=flag_settings, **settings
        ) as (_, serving),
        browser(serving.url) as client,
    ):
        yield serving, client


# What is seen


async def test_a_change_of_the_share_is_seen(server: Unleash) -> None:
    """From 0 to 100 and back, without anything being done here."""
    strategy = await server.make_flag("share", 0)
    async with flags_of(server, "share") as flags:
        assert not flags.evaluate("share", ALICE).enabled
        await set_strategy(server, "share", strategy, 100)
        await eventually(lambda: flags.evaluate("share", ALICE).enabled)
        await set_strategy(server, "share", strategy, 0)
        await eventually(lambda: not flags.evaluate("share", ALICE).enabled)
        assert flags.problem is None


async def test_a_flag_that_is_made_or_archived_is_known_or_not(server: Unleash) -> None:
    """Unknown is not off; and neither is a stale server's fault."""
    async with flags_of(server, "made") as flags:
        assert not flags.evaluate("made", ALICE).known
        await server.make_flag("made", 100)
        await eventually(lambda: flags.evaluate("made", ALICE) == FlagAnswer(known=True, enabled=True))
        await server.ask("DELETE", f"/projects/{PROJECT}/features/made")
        await eventually(lambda: not flags.evaluate("made", ALICE).known)
        assert (flags.problem, flags.stale) == (None, False)


async def test_the_server_is_asked_for_changes_only(server: Unleash) -> None:
    """Its 304s keep the flags young: they are confirmed though nothing is sent."""
    clock = Clock()
    await server.make_flag("quiet", 100)
    async with flags_of(server, "quiet", clock=clock) as flags:
        await eventually(lambda: flags.evaluate("quiet", ALICE).enabled)
        clock.now_s += 200
        await eventually(lambda: flags.age_s == 0)


async def test_segments_and_constraints_see_tenant_and_route(tmp_path: Path, server: Unleash) -> None:
    """A segment of tenants, and a constraint on the route: who is in both streams, nobody else."""
    segment = await server.ask(
        "POST",
        "/segments",
        {"name": "north", "constraints": [{"contextName": "tenant", "operator": "IN", "values": ["north"]}]},
    )
    for flag, there in (("here", "start"), ("elsewhere", "another")):
        strategy = await server.make_flag(flag, 100)
        constraint = {"contextName": "route", "operator": "IN", "values": [there]}
        await set_strategy(server, flag, strategy, 100, segments=[segment["id"]], constraints=[constraint])

    identity = {"tenant": {"claim": "org"}}
    async with house(tmp_path, server, "here", identity=identity) as (_, client):
        await until(client, "flag_on", headers=signed("north"))
        assert await reason(client, headers=signed("south")) == "flag_off"
        assert await reason(client, headers=signed()) == "flag_off"
    async with house(tmp_path, server, "elsewhere", identity=identity) as (_, client):
        assert await reason(client, headers=signed("north")) == "flag_off"
    identity = {"tenant": {"header": "X-Tenant"}}
    async with house(tmp_path, server, "here", identity=identity) as (_, client):
        assert await reason(client, headers={**signed("south"), "x-tenant": "north"}) == "flag_on"
        assert await reason(client, headers=signed("north")) == "flag_off"


async def test_a_strategy_variant_overrides_the_source(server: Unleash) -> None:
    """From Unleash's page to the decision: source and chunks, then dark, then the route's own again."""
    payload = {"type": "json", "value": json.dumps({"source": "poll", "chunk": {"min": 4, "max": 8}})}
    variant = {"name": "polled", "weight": 1000, "weightType": "variable", "stickiness": "userId"}
    strategy = await server.make_flag("varied", 100)
    question = Question("varied", "tap", frozenset({"poll"}), ALICE, Accept.ONLY_STREAM)
    async with flags_of(server, "varied") as flags:
        await set_strategy(server, "varied", strategy, 100, variants=[{**variant, "payload": payload}])
        await eventually(lambda: decide(question, flags).source == "poll")
        decision = decide(question, flags)
        assert (decision.mode, decision.variant, decision.chunk_chars) == (Mode.STREAM, "polled", (4, 8))

        await set_strategy(server, "varied", strategy, 100, variants=[{**variant, "name": "dark"}])
        await eventually(lambda: decide(question, flags).reason is Reason.DARK)

        await set_strategy(server, "varied", strategy, 100, variants=[])
        await eventually(lambda: decide(question, flags).variant == "")


# What takes it away


async def test_a_server_that_comes_later_is_found(tmp_path: Path, unharmed: Unleash) -> None:
    """Down at the start: Headgate serves batch, says why, and streams when the server is there."""
    await unharmed.make_flag("later", 100)
    await unharmed.stop()
    async with house(tmp_path, unharmed, "later") as (serving, client):
        assert await reason(client) == "flags_stale"
        ready = await client.get(f"{serving.admin_url}/readyz")
        assert ready.status_code == 200
        assert ready.json()["flags_problem"].startswith("cannot be reached")
        assert (ready.json()["flag_age_s"], ready.json()["flags_stale"]) == (None, True)
        metrics = (await client.get(f"{serving.admin_url}/metrics")).text
        assert "headgate_flag_age_seconds +Inf" in metrics

        await unharmed.start()
        await until(client, "flag_on")


async def test_a_server_that_goes_leaves_its_flags_until_they_are_stale(unharmed: Unleash) -> None:
    """Killed while it is asked: users keep the stream for `stale_s`, then get batch, until it is back."""
    clock = Clock()
    strategy = await unharmed.make_flag("holds", 100)
    question = Question("holds", "tap", frozenset(), ALICE, Accept.EITHER)
    async with flags_of(unharmed, "holds", stale_s=300, clock=clock) as flags:
        await eventually(lambda: decide(question, flags).reason is Reason.FLAG_ON)
        await unharmed.stop()
        await eventually(lambda: flags.problem is not None)
        assert decide(question, flags).reason is Reason.FLAG_ON
        clock.now_s += 301
        assert decide(question, flags).reason is Reason.FLAGS_STALE

        await unharmed.start()
        await eventually(lambda: decide(question, flags).reason is Reason.FLAG_ON)
        await set_strategy(unharmed, "holds", strategy, 0)
        await eventually(lambda: decide(question, flags).reason is Reason.FLAG_OFF)


async def test_a_server_that_freezes_holds_nobody_up(tmp_path: Path, unharmed: Unleash) -> None:
    """It keeps connections and says nothing: requests are answered at once, and the problem is named."""
    await unharmed.make_flag("frozen", 100)
    flag_settings = settings_of(unharmed)
    flag_settings["unleash"]["timeout_s"] = 0.5
    async with house(tmp_path, unharmed, "frozen", flag_settings=flag_settings) as (serving, client):
        await until(client, "flag_on")
        unharmed.freeze()

        async def noticed() -> bool:
            state = (await client.get(f"{serving.admin_url}/readyz")).json()
            return bool(state["flags_problem"] == "did not answer within 0.5 s")

        await eventually(noticed)
        began = time.monotonic()
        assert await reason(client) == "flag_on"
        assert time.monotonic() - began < 10
        unharmed.thaw()

        async def good_again() -> bool:
            return (await client.get(f"{serving.admin_url}/readyz")).json()["flags_problem"] is None

        await eventually(good_again)


@pytest.mark.parametrize(("token", "status"), [("default:development.wrong", 401), ("", 403)])
async def test_a_token_that_is_none_is_said(server: Unleash, token: str, status: int) -> None:
    """Unknown, or one of an administrator: the problem names the setting, and no token."""
    async with flags_of(server, "any", token=token or server.admin_token) as flags:
        assert flags.stale
        assert f"refuses the token ({status})" in (flags.problem or "")


async def test_a_token_that_ends_leaves_its_flags(server: Unleash) -> None:
    """Expired while it is used: the last good flags hold until they are stale. (One that is deleted in
    Unleash goes on working there for up to a minute.)"""
    ends = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    kind = {"type": "client", "environment": "development", "projects": [PROJECT], "expiresAt": ends}
    await server.make_flag("token", 100)
    made = await server.ask("POST", "/api-tokens", {"tokenName": "short", **kind})
    clock = Clock()
    async with flags_of(server, "token", token=made["secret"], clock=clock) as flags:
        await eventually(lambda: flags.evaluate("token", ALICE).enabled, 2)
        await eventually(lambda: "refuses the token (401)" in (flags.problem or ""))
        assert flags.evaluate("token", ALICE).enabled
        assert not flags.stale
        clock.now_s += 301
        assert flags.stale


# Killing


async def test_the_kill_flag_takes_effect_within_a_refresh_and_two_seconds(
    tmp_path: Path, unharmed: Unleash
) -> None:
    """From the click in Unleash to the first request that gets batch; and back."""
    await unharmed.make_flag("killable", 100)
    async with house(tmp_path, unharmed, "killable") as (_, client):
        await until(client, "flag_on")
        await turn(unharmed, KILL, "on")
        await until(client, "killed", KILLED_S)
        await turn(unharmed, KILL, "off")
        await until(client, "flag_on", KILLED_S)


async def test_the_local_switch_works_without_the_server_and_outlives_the_process(
    tmp_path: Path, unharmed: Unleash
) -> None:
    """Unleash is down: the switch obeys within a second, a restart does not forget it, and neither does
    the server's return."""
    await unharmed.make_flag("switched", 100)
    flag_settings = settings_of(unharmed, kill_file=str(tmp_path / "state" / "kill"))
    async with house(tmp_path, unharmed, "switched", flag_settings=flag_settings) as (serving, client):
        await until(client, "flag_on")
        await unharmed.stop()
        began = time.monotonic()
        await client.post(f"{serving.admin_url}/kill", headers=TOKEN, content="too many complaints")
        assert await reason(client) == "killed"
        assert time.monotonic() - began < SWITCHED_S

    await unharmed.start()
    async with house(tmp_path, unharmed, "switched", flag_settings=flag_settings) as (serving, client):
        assert await reason(client) == "killed"
        assert (tmp_path / "state" / "kill").read_text().startswith("too many complaints\n")
        await client.delete(f"{serving.admin_url}/kill", headers=TOKEN)
        await until(client, "flag_on")


async def test_every_worker_asks_for_itself(tmp_path: Path, unharmed: Unleash) -> None:
    """Two processes, two instances on Unleash's page, and a kill reaches both."""
    await unharmed.make_flag("worked", 100)
    async with served_before(
        answering(answer()),
        tmp_path,
        *("--workers", "2"),
        flags=settings_of(unharmed),
        routes=[route(flag="worked")],
    ) as (_, found, client):
        anew = signed() | {"connection": "close"}  # so that each worker gets some

        async def all_say(what: str) -> bool:
            said = [await reason(client, found.url, anew) for _ in range(12)]
            return set(said) == {what}

        await eventually(lambda: all_say("flag_on"))
        await turn(unharmed, KILL, "on")
        await eventually(lambda: all_say("killed"), KILLED_S + 1)  # twelve requests more
        await turn(unharmed, KILL, "off")

        async def both_are_known() -> bool:
            path = "/metrics/instances/headgate/environment/development"
            instances = (await unharmed.ask("GET", path))["instances"]
            return len({one["instanceId"] for one in instances if one["sdkVersion"]}) >= 2

        await eventually(both_are_known, NOTICED_S)


# What Unleash shows of us


async def test_unleash_shows_the_application_and_how_often_it_asked(server: Unleash) -> None:
    """Its page lists who asks, how often the flag was on and when it was last seen: nobody archives it."""
    await server.make_flag("seen", 100)
    async with flags_of(server, "seen", report_s=0.2) as flags:

        async def is_counted() -> bool:
            flags.evaluate("seen", ALICE)  # more than once: Unleash drops what it hears of very new flags
            rows = (await server.ask("GET", "/client-metrics/features/seen/raw"))["data"]
            return any(row["yes"] > 0 for row in rows if row["appName"] == "headgate")

        async def is_seen() -> bool:
            flags.evaluate("seen", ALICE)
            feature = await server.ask("GET", f"/projects/{PROJECT}/features/seen")
            return any(environment.get("lastSeenAt") for environment in feature["environments"])

        async def is_listed() -> bool:
            listed = (await server.ask("GET", "/metrics/applications"))["applications"]
            return "headgate" in {one["appName"] for one in listed}

        for shown in (is_counted, is_listed, is_seen):
            await eventually(shown, NOTICED_S)


# The check


async def checked(directory: Path, **unleash_settings: Any) -> tuple[int, str]:
    """Exit code and standard error of `headgate check`."""
    config = directory / "headgate.yaml"
    document = {"upstream": {"url": "http://127.0.0.1:1"}, "flags": {"unleash": unleash_settings}}
    config.write_text(json.dumps({**document, "routes": [route(flag="checked")]}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "check", "--config", str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    _, told = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def test_a_check_asks_the_server_once(tmp_path: Path, server: Unleash) -> None:
    """0 and what is doubtful, or 1 and what is wrong; never the token."""
    good = {"url": server.url, "token": server.client_token}
    code, told = await checked(tmp_path, **good)
    assert code == 0
    assert "checked: is not served; make it in Unleash" in told

    await server.make_flag("checked", 100)
    async with asyncio.timeout(30):
        while "checked" in told:  # the server itself looks once a second
            code, told = await checked(tmp_path, **good)
    assert code == 0

    code, told = await checked(tmp_path, **good | {"token": "default:development.wrong"})
    assert code == 1
    assert told.startswith(f"flags.unleash: Unleash {server.url}: refuses the token (401)")
    assert "wrong" not in told

    code, told = await checked(tmp_path, **good | {"url": "http://127.0.0.1:1"})
    assert code == 1
    assert told.startswith("flags.unleash: Unleash http://127.0.0.1:1: cannot be reached")
