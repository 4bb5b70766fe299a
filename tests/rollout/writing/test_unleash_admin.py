"""Changing a flag on a real Unleash server: whole, only as it was read, and never more than was meant."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from flags.errors import FlagAdminError, FlagChanged
from flags.rollout.writing.flag_admin import ManagedFlag
from flags.rollout.writing.unleash_admin import UnleashAdmin
from tests.servers.scripted import Asked, Script, ScriptedUpstream
from tests.servers.unleash_server import ENVIRONMENT, PROJECT, Unleash, is_installed, unleash

pytestmark = pytest.mark.skipif(not is_installed(), reason="no Unleash server: run tests/services/setup.sh")

PASSWORD = "Correct-Horse-1!"
VIEWER, EDITOR = 3, 2
DARK = ({"name": "dark", "weight": 1000, "weightType": "variable", "stickiness": "userId"},)
CONSTRAINT = {"contextName": "tenant", "operator": "IN", "values": ["a"]}

_numbers = itertools.count()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Unleash]:
    async with unleash(tmp_path_factory.mktemp("unleash")) as running:
        await running.ask("POST", "/segments", {"name": "one", "constraints": [CONSTRAINT]})
        yield running


def new_flag() -> ManagedFlag:
    name = f"flag-{next(_numbers)}"
    return ManagedFlag(name, kill_flag=f"{name}.kill")


async def make(server: Unleash, share: int | None = 10, *, on: bool = True) -> ManagedFlag:
    """A flag and its kill flag."""
    flag = new_flag()
    await server.make_flag(flag.name, share, on=on)
    await server.make_flag(flag.kill_flag, None, on=False)
    return flag


@pytest.fixture
async def flag(server: Unleash) -> ManagedFlag:
    """At 10 %."""
    return await make(server, 10)


@asynccontextmanager
async def admin(
    server: Unleash, flag: ManagedFlag, *, url: str = "", token: str = "", timeout_s: float = 10
) -> AsyncIterator[UnleashAdmin]:
    async with UnleashAdmin(
        url or server.url,
        token or server.admin_token,
        flag,
        project=PROJECT,
        environment=ENVIRONMENT,
        timeout_s=timeout_s,
    ) as its_admin:
        yield its_admin


async def strategies(server: Unleash, flag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await server.ask("GET", server.strategies_of(flag))
    return found


async def edit(server: Unleash, flag: ManagedFlag, **change: Any) -> None:
    """Do what a person does in Unleash's pages: change a strategy, and leave the rest of it."""
    (strategy,) = await strategies(server, flag.name)
    share = change.pop("share", strategy["parameters"]["rollout"])
    del strategy["milestoneId"]
    strategy["parameters"]["rollout"] = str(share)
    path = f"{server.strategies_of(flag.name)}/{strategy.pop('id')}"
    await server.ask("PUT", path, {**strategy, **change, "title": "human's"})


async def person(server: Unleash, name: str, role: int) -> str:
    """Somebody with an account; their personal token."""
    account = {"username": name, "email": f"{name}@example.com", "rootRole": role, "sendEmail": False}
    await server.ask("POST", "/user-admin", {**account, "password": PASSWORD})
    async with httpx.AsyncClient(base_url=server.url, timeout=20, verify=False) as client:
        await client.post("/auth/simple/login", json={"username": name, "password": PASSWORD})
        until = {"description": "tests", "expiresAt": "2099-01-01T00:00:00Z"}
        made = await client.post("/api/admin/user/tokens", json=until)
        return str(made.raise_for_status().json()["secret"])


class Between:
    """A server between the writer and Unleash: it passes everything on, but for what a test says.

    Args:
        before: called before each request that is passed on.
        instead: what is answered by Unleash's own path, without asking it: a body, or a change of its body.
    """

    def __init__(
        self,
        server: Unleash,
        before: Callable[[str, str], Awaitable[None]] | None = None,
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        self._server = server
        self._before = before
        self._instead = instead or {}

    async def __call__(self, asked: Asked) -> None:
        method, target = asked.head.decode().split(" ", 2)[:2]
        body = await asked.read_body()
        if self._before:
            await self._before(method, target)
        instead = self._instead.get(target.removeprefix("/api/admin").split("?")[0])
        if instead is not None and not callable(instead):
            return await asked.answer(json.dumps(instead).encode())
        headers = {"authorization": self._server.admin_token, "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=self._server.url, timeout=20, verify=False) as client:
            answer = await client.request(method, target, content=body, headers=headers)
        content = json.dumps(instead(answer.json())).encode() if instead else answer.content
        return await asked.answer(content, b"%d X" % answer.status_code)


@asynccontextmanager
async def through(script: Script, server: Unleash, flag: ManagedFlag) -> AsyncIterator[UnleashAdmin]:
    """Somebody who writes by way of a server that plays a script."""
    async with ScriptedUpstream(script).running() as way, admin(server, flag, url=way.url) as its_admin:
        yield its_admin


def once(act: Callable[[], Awaitable[None]], method: str) -> Callable[[str, str], Awaitable[None]]:
    """`act` before the first request of this method."""
    done: list[str] = []

    async def before(asked_method: str, target: str) -> None:
        if asked_method == method and not done:
            done.append(target)
            await act()

    return before


async def test_a_share_is_read_and_written(server: Unleash, flag: ManagedFlag) -> None:
    """Unleash says what was written, under a later event, and by whom."""
    async with admin(server, flag) as its_admin:
        before = await its_admin.read()
        after = await its_admin.write(replace(before.strategy, share=25), before)

        assert (before.strategy.share, after.strategy.share) == (10, 25)
        assert after == await its_admin.read()
        assert after.event_id > before.event_id
        assert (after.event_by, after.others, after.enabled, after.killed) == ("admin", (), True, False)


async def test_a_write_keeps_all_of_the_strategy(server: Unleash, flag: ManagedFlag) -> None:
    """Title, constraints, segments and variants are there afterwards, as they were."""
    variants = [{"name": "a", "weight": 1000, "weightType": "variable", "stickiness": "userId"}]
    await edit(server, flag, constraints=[CONSTRAINT], segments=[1], variants=variants)
    (before,) = await strategies(server, flag.name)

    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        await its_admin.write(replace(read.strategy, share=20), read)

    (after,) = await strategies(server, flag.name)
    assert after == {**before, "parameters": {**before["parameters"], "rollout": "20"}}
    assert (len(after["constraints"]), after["segments"], len(after["variants"])) == (1, [1], 1)


async def test_unleash_fills_in_what_an_update_leaves_out(server: Unleash, flag: ManagedFlag) -> None:
    """Why everything is written: an update without a share is one of 100 %, without constraints for all."""
    await edit(server, flag, constraints=[CONSTRAINT])
    (before,) = await strategies(server, flag.name)

    path = f"{server.strategies_of(flag.name)}/{before['id']}"
    partial = {"name": "flexibleRollout", "parameters": {"stickiness": "userId", "groupId": flag.name}}
    await server.ask("PUT", path, partial)

    (after,) = await strategies(server, flag.name)
    assert (after["parameters"]["rollout"], after["constraints"]) == ("100", [])


async def test_what_changes_nothing_is_not_written(server: Unleash, flag: ManagedFlag) -> None:
    """Unleash would keep no event of it either."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()

        assert await its_admin.write(read.strategy, read) == read


async def test_the_dark_variant_comes_and_goes(server: Unleash) -> None:
    """It is written with the share of the next step, and taken away with the first share that is shown."""
    flag = await make(server, 0)
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        dark = await its_admin.write(replace(read.strategy, share=5, variants=DARK), read)
        assert dark.strategy.variants == DARK
        assert await its_admin.problems() == []

        light = await its_admin.write(replace(dark.strategy, variants=()), dark)
        assert light.strategy.variants == ()


@pytest.mark.parametrize("change", [{"share": 5}, {"share": 50}, {"constraints": [CONSTRAINT]}, {}])
async def test_who_was_first_is_not_written_over(
    server: Unleash, flag: ManagedFlag, change: dict[str, Any]
) -> None:
    """A human's edit between read and write, of whatever, and nothing is written."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        await edit(server, flag, **change)
        was = await strategies(server, flag.name)

        with pytest.raises(FlagChanged, match="by admin since it was read; nothing was written") as changed:
            await its_admin.write(replace(read.strategy, share=25), read)

        assert await strategies(server, flag.name) == was
        assert not changed.value.wrote


@pytest.mark.parametrize(("theirs", "then"), [(5, 5), (60, 25), ("12.5", 0)])
async def test_an_edit_in_the_very_moment_is_put_back(
    server: Unleash, flag: ManagedFlag, theirs: int | str, then: int
) -> None:
    """Between the last look and the write: theirs has the last word, and nobody meant more than the lower."""

    async def human() -> None:
        await edit(server, flag, share=theirs, constraints=[CONSTRAINT])

    async with through(Between(server, once(human, "PUT")), server, flag) as its_admin:
        read = await its_admin.read()
        with pytest.raises(
            FlagChanged, match="by admin in the moment it was written: theirs was put back"
        ) as it:
            await its_admin.write(replace(read.strategy, share=25), read)

    (after,) = await strategies(server, flag.name)
    assert it.value.wrote
    assert after["parameters"]["rollout"] == str(then)
    assert (len(after["constraints"]), after["title"]) == (1, "human's")


async def test_an_edit_to_the_same_in_the_very_moment_is_told(server: Unleash, flag: ManagedFlag) -> None:
    """Both wanted the same: it is there, under the other's name."""

    async def human() -> None:
        (strategy,) = await strategies(server, flag.name)
        await edit_parameters(server, flag, {**strategy["parameters"], "rollout": "25"})

    async with through(Between(server, once(human, "PUT")), server, flag) as its_admin:
        read = await its_admin.read()
        written = await its_admin.write(replace(read.strategy, share=25), read)

    assert written.strategy.share == 25
    assert written.event_id > read.event_id


async def test_an_edit_right_after_the_write_stands(server: Unleash, flag: ManagedFlag) -> None:
    """It came later, so it is what holds; and the writer is told at once."""
    done = []

    async def before(method: str, target: str) -> None:
        done.append(method)
        if done[-2:] == ["PUT", "GET"] and done.count("PUT") == 1:
            await edit(server, flag, share=3)

    async with through(Between(server, before), server, flag) as its_admin:
        read = await its_admin.read()
        with pytest.raises(FlagChanged, match="while it was written") as changed:
            await its_admin.write(replace(read.strategy, share=25), read)

    (after,) = await strategies(server, flag.name)
    assert changed.value.wrote
    assert after["parameters"]["rollout"] == "3"


async def test_a_server_that_makes_more_of_a_share_is_set_to_0(server: Unleash, flag: ManagedFlag) -> None:
    """If more is stored than was asked for, nobody is exposed, for whatever reason."""
    (strategy,) = await strategies(server, flag.name)
    path = f"{server.strategies_of(flag.name)}/{strategy['id']}"

    def more(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "parameters": {**answer["parameters"], "rollout": "100"}}

    async with through(Between(server, instead={path: more}), server, flag) as its_admin:
        read = await its_admin.read()
        with pytest.raises(FlagAdminError, match=r"made 100 % of 25 %.*the share was set to 0"):
            await its_admin.write(replace(read.strategy, share=25), read)

    (after,) = await strategies(server, flag.name)
    assert after["parameters"]["rollout"] == "0"


async def test_a_server_that_says_one_thing_and_shows_more_is_set_to_0(
    server: Unleash, flag: ManagedFlag
) -> None:
    """A new read counts, not the answer to the write."""
    writes: list[str] = []

    async def before(method: str, target: str) -> None:
        writes.extend([method] if method == "PUT" else [])

    def more(feature: dict[str, Any]) -> dict[str, Any]:
        for place in feature["environments"] if writes else ():
            for strategy in place["strategies"]:
                strategy["parameters"]["rollout"] = "100"
        return feature

    instead = {f"/projects/{PROJECT}/features/{flag.name}": more}
    async with through(Between(server, before, instead), server, flag) as its_admin:
        read = await its_admin.read()
        with pytest.raises(FlagAdminError, match=r"made 100 % of 25 %.*the share was set to 0"):
            await its_admin.write(replace(read.strategy, share=25), read)

    (after,) = await strategies(server, flag.name)
    assert after["parameters"]["rollout"] == "0"


async def test_a_disabled_strategy_turns_the_environment_off(server: Unleash, flag: ManagedFlag) -> None:
    """Unleash does that by itself, with an event of its own, and nobody else was there."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()

        written = await its_admin.write(replace(read.strategy, disabled=True), read)

        assert (written.strategy.disabled, written.enabled) == (True, False)


async def test_a_strategy_beside_ours_is_seen(server: Unleash, flag: ManagedFlag) -> None:
    """Strategies are OR-ed: reading shows the others, and a rollout does not start."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        default = {"name": "default", "parameters": {}, "constraints": []}
        await server.ask("POST", server.strategies_of(flag.name), default)

        with pytest.raises(FlagChanged):
            await its_admin.write(replace(read.strategy, share=25), read)
        now = await its_admin.read()
        assert (now.strategy.id, [other.kind for other in now.others]) == (read.strategy.id, ["default"])
        assert any("has 2 enabled strategies" in problem for problem in await its_admin.problems())


async def test_edits_elsewhere_are_no_edits_here(server: Unleash, flag: ManagedFlag) -> None:
    """Edits of the flag in another environment change nothing for this one."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        elsewhere = f"/projects/{PROJECT}/features/{flag.name}/environments/production/on"
        await server.ask("POST", elsewhere)

        assert await its_admin.read() == read


async def test_killing_and_taking_it_back(server: Unleash, flag: ManagedFlag) -> None:
    """The kill flag gets its one strategy before it is turned on, and keeps it."""
    async with admin(server, flag) as its_admin:
        before = await its_admin.read()
        await its_admin.kill(True)
        assert (await its_admin.read()).killed
        (strategy,) = await strategies(server, flag.kill_flag)
        assert strategy["parameters"] == {
            "rollout": "100",
            "stickiness": "default",
            "groupId": flag.kill_flag,
        }

        await its_admin.kill(True)
        await its_admin.kill(False)
        assert await its_admin.read() == before
        assert len(await strategies(server, flag.kill_flag)) == 1


async def test_a_kill_flag_that_asks_who_is_there_is_made_to_stop_everybody(server: Unleash) -> None:
    """In an emergency it must not matter how the kill flag was made; before one, it is a problem."""
    flag = new_flag()
    await server.make_flag(flag.name, 10)
    await server.make_flag(flag.kill_flag, 100, on=True)  # by userId: nobody without one
    async with admin(server, flag) as its_admin:
        assert not (await its_admin.read()).killed
        assert any("asks who the user is" in problem for problem in await its_admin.problems())

        await its_admin.kill(True)
        assert (await its_admin.read()).killed


async def test_a_kill_flag_that_is_not_there_is_an_error(server: Unleash) -> None:
    """The person who kills is told that nothing was stopped."""
    flag = new_flag()
    await server.make_flag(flag.name, 10)
    async with admin(server, flag) as its_admin:
        assert not (await its_admin.read()).killed
        assert any("no kill flag" in problem for problem in await its_admin.problems())
        with pytest.raises(FlagAdminError, match="404"):
            await its_admin.kill(True)


async def second_strategy(server: Unleash, flag: ManagedFlag) -> None:
    (strategy,) = await strategies(server, flag.name)
    again = {key: strategy[key] for key in ("name", "parameters", "constraints")}
    await server.ask("POST", server.strategies_of(flag.name), again)


async def without_strategy(server: Unleash, flag: ManagedFlag) -> None:
    (strategy,) = await strategies(server, flag.name)
    await server.ask("DELETE", f"{server.strategies_of(flag.name)}/{strategy['id']}")


async def child(server: Unleash, flag: ManagedFlag) -> None:
    parent = new_flag().name
    await server.make_flag(parent, 100)
    path = f"/projects/{PROJECT}/features/{flag.name}/dependencies"
    await server.ask("POST", path, {"feature": parent})


async def stale(server: Unleash, flag: ManagedFlag) -> None:
    await server.ask("POST", f"/projects/{PROJECT}/stale", {"features": [flag.name], "stale": True})


async def archive(server: Unleash, flag: ManagedFlag) -> None:
    await server.ask("DELETE", f"/projects/{PROJECT}/features/{flag.name}")


async def turn_off(server: Unleash, flag: ManagedFlag) -> None:
    await server.ask("POST", f"{server.environment_of(flag.name)}/off")


def parameters(**change: str) -> Callable[[Unleash, ManagedFlag], Awaitable[None]]:
    async def change_them(server: Unleash, flag: ManagedFlag) -> None:
        (strategy,) = await strategies(server, flag.name)
        await edit_parameters(server, flag, {**strategy["parameters"], **change})

    return change_them


async def edit_parameters(server: Unleash, flag: ManagedFlag, its: dict[str, str]) -> None:
    (strategy,) = await strategies(server, flag.name)
    path = f"{server.strategies_of(flag.name)}/{strategy['id']}"
    await server.ask("PUT", path, {"name": "flexibleRollout", "parameters": its})


async def some_dark(server: Unleash, flag: ManagedFlag) -> None:
    other = {**DARK[0], "name": "other"}
    await edit(server, flag, variants=[{**DARK[0], "weight": 500}, {**other, "weight": 500}])


async def leave(server: Unleash, flag: ManagedFlag) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (leave, []),
        (turn_off, ["is off"]),
        (without_strategy, ["is off", "has no enabled strategy"]),
        (second_strategy, ["has 2 enabled strategies"]),
        (child, ["depends on another flag"]),
        (stale, ["is marked as stale"]),
        (archive, ["there is no flag"]),
        (parameters(rollout="12.5"), ["its share is '12.5', by which Unleash enables nobody"]),
        (parameters(stickiness="random"), ["has stickiness 'random', not 'userId'"]),
        (parameters(groupId="else"), ["has group id 'else'"]),
        (some_dark, ["a variant named dark beside others"]),
    ],
)
async def test_what_a_rollout_cannot_start_from_is_named(
    server: Unleash,
    flag: ManagedFlag,
    spoil: Callable[[Unleash, ManagedFlag], Awaitable[None]],
    says: list[str],
) -> None:
    """Each problem by name, with what to do; a flag that is right has none."""
    await spoil(server, flag)

    async with admin(server, flag) as its_admin:
        problems = await its_admin.problems()

    assert len(problems) == len(says), problems
    assert all(part in problem for part, problem in zip(says, problems, strict=True)), problems
    assert all(": " in problem for problem in problems), problems


async def test_the_default_of_the_project_is_a_problem(server: Unleash, flag: ManagedFlag) -> None:
    """A flag that loses its strategy would get it when it is turned on."""
    path = f"/projects/{PROJECT}/environments/{ENVIRONMENT}/default-strategy"
    its = {"rollout": "50", "stickiness": "userId", "groupId": "x"}
    default = {"name": "flexibleRollout", "constraints": [], "parameters": its}
    await server.ask("POST", path, default)

    async with admin(server, flag) as its_admin:
        (problem,) = await its_admin.problems()
        assert "default strategy in development is above 0 %" in problem
        await server.ask("POST", path, {**default, "parameters": {**its, "rollout": "0"}})
        assert await its_admin.problems() == []


def with_plan(feature: dict[str, Any]) -> dict[str, Any]:
    for place in feature["environments"]:
        place["releasePlans"] = [{"id": "plan", "name": "Careful", "milestones": []}]
    return feature


def of_milestone(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**strategy, "milestoneId": "milestone"} for strategy in found]


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/projects/default/features/{flag}", with_plan, "has a release plan"),
        (
            "/projects/default/features/{flag}/environments/development/strategies",
            of_milestone,
            "a release plan",
        ),
        (
            "/projects/default/change-requests/config",
            [{"environment": ENVIRONMENT, "changeRequestEnabled": True, "requiredApprovals": 1}],
            "change requests are on in development",
        ),
    ],
)
async def test_a_second_hand_of_unleash_itself_is_a_problem(
    server: Unleash, flag: ManagedFlag, path: str, answer: Any, says: str
) -> None:
    """Enterprise's release plans move the share too, and its change requests would hold a rollback up."""
    instead = {path.format(flag=flag.name): answer}
    async with through(Between(server, instead=instead), server, flag) as its_admin:
        (problem,) = await its_admin.problems()

    assert says in problem


async def test_a_token_that_may_not_write_is_told_before_it_has_to(
    server: Unleash, flag: ManagedFlag
) -> None:
    """A reader's token is a problem at the start; an editor's is none, and its writes are under its name."""
    async with admin(server, flag, token=await person(server, "vera", VIEWER)) as its_admin:
        read = await its_admin.read()
        (problem,) = await its_admin.problems()
        assert "lacks UPDATE_FEATURE_STRATEGY" in problem
        with pytest.raises(FlagAdminError, match=r"403.*permission"):
            await its_admin.write(replace(read.strategy, share=25), read)
        with pytest.raises(FlagAdminError, match="403"):
            await its_admin.kill(True)

    async with admin(server, flag, token=await person(server, "edith", EDITOR)) as its_admin:
        assert await its_admin.problems() == []
        written = await its_admin.write(replace(read.strategy, share=25), read)
        assert written.event_by == "edith@example.com"


async def test_a_human_s_edit_is_under_their_name(server: Unleash, flag: ManagedFlag) -> None:
    """The controller can say who changed the flag."""
    async with admin(server, flag) as its_admin:
        read = await its_admin.read()
        token = await person(server, "hugo", EDITOR)
        async with admin(server, flag, token=token) as hugo:
            await hugo.write(replace(read.strategy, share=1), read)

        with pytest.raises(FlagChanged, match=r"by hugo@example\.com"):
            await its_admin.write(replace(read.strategy, share=25), read)


@pytest.mark.parametrize("token", ["default:development." + "b" * 64, "*:*." + "c" * 64])
async def test_another_kind_of_token_is_a_problem_without_being_shown(
    server: Unleash, flag: ManagedFlag, token: str
) -> None:
    """A client's token, or an unknown one: named as such, and in no message."""
    async with admin(server, flag, token=token) as its_admin:
        (problem,) = await its_admin.problems()
        with pytest.raises(FlagAdminError, match=r"40[13]") as refused:
            await its_admin.read()

    assert "none of the Admin API" in problem
    assert token not in f"{problem} {refused.value} {refused.value!r} {its_admin!r}"


@pytest.mark.parametrize("token", ["", "a b", "secret\nx", "sécret"])
async def test_a_token_that_is_none_is_refused_without_being_shown(server: Unleash, token: str) -> None:
    """It would go into a header, whose refusal further down would say its value."""
    with pytest.raises(FlagAdminError) as refused:
        UnleashAdmin(server.url, token, ManagedFlag("f"))

    assert not token or token not in str(refused.value)


async def test_a_server_that_is_frozen_is_an_error_in_time(server: Unleash, flag: ManagedFlag) -> None:
    """It accepts and answers nothing: each call ends within its time, and nothing has changed."""
    async with admin(server, flag, timeout_s=0.3) as its_admin:
        read = await its_admin.read()
        server.freeze()
        try:
            async with asyncio.timeout(20):
                for call in (
                    its_admin.read(),
                    its_admin.write(replace(read.strategy, share=25), read),
                    its_admin.kill(True),
                ):
                    with pytest.raises(FlagAdminError, match=r"within 0\.3 s|Timeout"):
                        await call
                (problem,) = await its_admin.problems()
                assert "within 0.3 s" in problem or "Timeout" in problem
        finally:
            server.thaw()
    (strategy,) = await strategies(server, flag.name)
    assert strategy["parameters"]["rollout"] == "10"


async def test_a_server_that_is_not_there_is_an_error(server: Unleash) -> None:
    """No connection, no answer: the controller holds."""
    async with admin(server, new_flag(), url="http://127.0.0.1:9") as its_admin:
        with pytest.raises(FlagAdminError, match="ConnectError"):
            await its_admin.read()


@pytest.mark.parametrize("body", [b"[]", b"{}", b"<html>", b'{"events": [{}]}', b"null"])
async def test_an_answer_of_another_shape_is_an_error(server: Unleash, body: bytes) -> None:
    """A login page, a proxy's word, another version: an error like any other."""

    async def script(asked: Asked) -> None:
        await asked.answer(body)

    async with through(script, server, new_flag()) as its_admin:
        with pytest.raises(FlagAdminError):
            await its_admin.read()
        assert len(await its_admin.problems()) == 1


async def test_reads_are_repeated_and_writes_are_not(server: Unleash, flag: ManagedFlag) -> None:
    """A balancer's 503 in passing: asked again for what is read, told at once for what is written."""
    broken = {"GET": 2, "PUT": 9}
    asked_for: list[str] = []
    passing = Between(server)

    async def script(asked: Asked) -> None:
        method = asked.head.decode().split(" ")[0]
        asked_for.append(method)
        if broken.get(method, 0) > 0:
            broken[method] -= 1
            await asked.read_body()
            await asked.answer(b'{"message": "try later"}', b"503 X")
        else:
            await passing(asked)

    async with through(script, server, flag) as its_admin:
        read = await its_admin.read()
        with pytest.raises(FlagAdminError, match="503: try later"):
            await its_admin.write(replace(read.strategy, share=25), read)

    assert asked_for.count("PUT") == 1


async def test_what_does_not_exist_is_an_error(server: Unleash, tmp_path: Path) -> None:
    """Flag and environment by name."""
    async with admin(server, new_flag()) as its_admin:
        with pytest.raises(FlagAdminError, match="404"):
            await its_admin.read()
    flag = await make(server, 10)
    async with UnleashAdmin(server.url, server.admin_token, flag, environment="mars") as its_admin:
        with pytest.raises(FlagAdminError, match="has no environment mars"):
            await its_admin.read()
        assert any("has no environment mars" in problem for problem in await its_admin.problems())
