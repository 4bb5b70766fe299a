"""A person edits the flag through Unleash's real API, in each state of a rollout: nothing is written over."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flags.errors import FlagAdminError, RolloutError
from flags.rollout.ledger import Act
from flags.rollout.moves import MoveKind, MoveReason
from flags.rollout.reporting.standing import gap
from flags.rollout.writing import down
from flags.rollout.writing.flag_admin import ManagedFlag
from flags.rollout.writing.unleash_admin import UnleashAdmin
from tests.rollout.rolling import TICK_S, Rolling, Running, begun, policy, told_to_begin
from tests.rollout.writing.test_unleash_admin import VIEWER, person
from tests.servers.unleash_server import ENVIRONMENT, PROJECT, Unleash, is_installed, unleash

pytestmark = pytest.mark.skipif(not is_installed(), reason="no Unleash server: run tests/services/setup.sh")

_numbers = itertools.count()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Unleash]:
    async with unleash(tmp_path_factory.mktemp("unleash")) as running:
        yield running


class Place:
    """A rollout whose flag is on the server."""

    def __init__(self, server: Unleash, directory: Path, flag: ManagedFlag, admin: UnleashAdmin) -> None:
        self.server = server
        self.flag, self.kill_flag = flag.name, flag.kill_flag
        self.rolling = Rolling(directory, policy(directory), admin=admin)

    async def strategies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.server.ask("GET", self.server.strategies_of(self.flag))
        return found

    async def share(self) -> int:
        return int((await self.strategies())[0]["parameters"]["rollout"])

    async def change(self, **parameters: str) -> None:
        [strategy] = await self.strategies()
        path = f"{self.server.strategies_of(self.flag)}/{strategy['id']}"
        await self.server.ask("PUT", path, strategy | {"parameters": strategy["parameters"] | parameters})


@pytest.fixture
async def place(server: Unleash, tmp_path: Path) -> AsyncIterator[Place]:
    flag = ManagedFlag(
        f"flag-{next(_numbers)}", kill_flag=f"kill-{next(_numbers)}", group_id="headgate.streaming"
    )
    await server.make_flag(flag.name, 0, group_id="headgate.streaming")
    await server.make_flag(flag.kill_flag, None, on=False)
    token = server.admin_token
    async with UnleashAdmin(server.url, token, flag, project=PROJECT, environment=ENVIRONMENT) as admin:
        yield Place(server, tmp_path, flag, admin)


async def soaking(place: Place, running: Running) -> None:
    await running.ticks(1)


async def unclear(place: Place, running: Running) -> None:
    await running.until(25)
    for _ in range(5):
        await running.tick()


async def awaiting_approval(place: Place, running: Running) -> None:
    moves = await running.ticks(6)
    assert moves[-1].reason is MoveReason.APPROVAL


async def paused(place: Place, running: Running) -> None:
    place.rolling.wants(Act.PAUSE)
    await running.ticks(1)


async def in_an_incident(place: Place, running: Running) -> None:
    place.rolling.incident = True
    await running.ticks(1)


async def without_data(place: Place, running: Running) -> None:
    place.rolling.traffic.problem = "it does not answer"
    await running.tick()


async def complete(place: Place, running: Running) -> None:
    await running.until(50)
    moves = await running.ticks(20)
    assert moves[-1].reason is MoveReason.COMPLETE


def constraint(name: str, *values: str) -> dict[str, Any]:
    return {"contextName": name, "operator": "IN", "values": list(values)}


STATES: dict[str, Callable[[Place, Running], Awaitable[None]]] = {
    state.__name__: state
    for state in (soaking, unclear, awaiting_approval, paused, in_an_incident, without_data, complete)
}


@pytest.mark.parametrize(
    ("share", "reason"), [("1", MoveReason.FLAG_LOWERED), ("60", MoveReason.FLAG_CHANGED)]
)
@pytest.mark.parametrize("state", STATES)
async def test_a_share_that_a_person_sets_stays(
    place: Place, state: str, share: str, reason: MoveReason
) -> None:
    """Lower or higher, in every state: held, told whose it is, and never written over."""
    async with begun(place.rolling) as running:
        await STATES[state](place, running)
        await place.change(rollout=share)
        moves = await running.ticks(4)

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, reason)}
    assert moves[0].detail.startswith("by ")
    assert await place.share() == int(share)


async def test_a_second_strategy_is_seen_and_left(place: Place) -> None:
    """It would enable whom it likes beside ours; harm still takes ours to 0."""
    async with begun(place.rolling) as running:
        more = {
            "name": "flexibleRollout",
            "parameters": {"rollout": "30", "stickiness": "userId", "groupId": "g"},
        }
        await place.server.ask("POST", place.server.strategies_of(place.flag), more)
        [move] = await running.ticks(1)
        assert move.reason is MoveReason.FLAG_CHANGED
        place.rolling.traffic.shows_wrong_text()
        await running.ticks(1)

    shares = {int(strategy["parameters"]["rollout"]) for strategy in await place.strategies()}
    assert shares == {0, 30}


async def test_a_disabled_strategy_is_watched_before_it_is_enabled(place: Place) -> None:
    """It shows nobody anything, and is one click from it: made, changed or taken away, it is held."""
    strategies = place.server.strategies_of(place.flag)
    more = {
        "name": "flexibleRollout",
        "disabled": True,
        "parameters": {"rollout": "30", "stickiness": "userId", "groupId": "g"},
    }

    async def held_until_resumed(running: Running) -> None:
        moves = await running.ticks(2)
        assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
        assert "disabled strategies" in moves[-1].detail
        place.rolling.wants(Act.RESUME)
        await running.ticks(1)
        assert running.controller.state.dwelt_s == 0
        [move] = await running.ticks(1)
        assert move.kind is MoveKind.SOAK

    async with begun(place.rolling) as running:
        await place.server.ask("POST", strategies, more)
        await held_until_resumed(running)
        beside = next(each for each in await place.strategies() if each["disabled"])
        path = f"{strategies}/{beside['id']}"
        await place.server.ask("PUT", path, beside | {"parameters": more["parameters"] | {"rollout": "90"}})
        await held_until_resumed(running)
        await place.server.ask("DELETE", path)
        await held_until_resumed(running)


async def test_what_a_person_does_after_a_rollback_is_theirs(place: Place) -> None:
    """The rollout is over: it writes nothing any more, and says what is in force, and whose it is."""
    async with begun(place.rolling) as running:
        place.rolling.traffic.shows_wrong_text()
        await running.ticks(1)
        assert await place.share() == 0
        await place.change(rollout="10")
        moves = await running.ticks(3)

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
    assert "0 % is decided, and 10 % are in force" in moves[-1].detail
    assert await place.share() == 10


async def test_the_kill_flag_of_the_server_ends_it(place: Place) -> None:
    """Turned on by hand, as somebody does who has never heard of the controller."""
    async with begun(place.rolling) as running:
        await place.server.ask("POST", f"{place.server.environment_of(place.kill_flag)}/on")
        moves = await running.ticks(2)

    assert moves[-1].reason is MoveReason.KILLED
    assert await place.share() == 0


async def test_what_the_server_makes_of_a_lost_strategy_is_held(place: Place) -> None:
    """Somebody deletes it, and turns the flag off and on again: Unleash has put its 100 % in its place."""
    async with begun(place.rolling) as running:
        [strategy] = await place.strategies()
        strategies = place.server.strategies_of(place.flag)
        await place.server.ask("DELETE", f"{strategies}/{strategy['id']}")
        environment = place.server.environment_of(place.flag)
        await place.server.ask("POST", f"{environment}/off")
        await place.server.ask("POST", f"{environment}/on")
        moves = await running.ticks(2)
        state = running.controller.state

    assert await place.share() == 100
    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
    assert gap(state, state.standing) == "5 % is decided, and 100 % are in force"


async def test_an_environment_that_is_off_is_held_and_no_time_in_the_step(place: Place) -> None:
    """A day of it, and on again: the step's time and proof begin anew."""
    async with told_to_begin(place.rolling) as running:
        await running.until(25)
        await running.ticks(2)
        environment = place.server.environment_of(place.flag)
        await place.server.ask("POST", f"{environment}/off")
        moves = await running.ticks(5)
        state = running.controller.state
        assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
        assert "off in its environment" in moves[-1].detail
        assert gap(state, state.standing) == "25 % is decided, and the flag is off in its environment"
        await place.server.ask("POST", f"{environment}/on")
        [first, *_] = await running.ticks(2)
        assert first.kind is MoveKind.SOAK
        assert running.controller.state.dwelt_s == TICK_S


async def test_a_segment_that_is_widened_is_a_change_by_somebody(place: Place) -> None:
    """The strategy stays what it was, and names others: held, and after a person's word begun anew."""
    ask = place.server.ask
    segment = {"name": f"wards of {place.flag}", "constraints": [constraint("ward", "a")]}
    made = await ask("POST", "/segments", segment)
    [strategy] = await place.strategies()
    path = f"{place.server.strategies_of(place.flag)}/{strategy['id']}"
    await ask("PUT", path, strategy | {"segments": [made["id"]]})
    async with begun(place.rolling) as running:
        wider = {"name": segment["name"], "constraints": [constraint("ward", "a", "b", "c")]}
        await ask("PUT", f"/segments/{made['id']}", wider)
        moves = await running.ticks(3)
        assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
        assert "segments" in moves[-1].detail
        place.rolling.wants(Act.RESUME)
        await running.ticks(1)
        state = running.controller.state

    assert state.share == 5
    assert state.dwelt_s == 0
    assert state.standing is not None and state.standing["expected"] is None


async def test_a_parent_feature_is_a_change_by_somebody(place: Place) -> None:
    """It hides the flag; and so is what becomes of the parent."""
    parent = f"parent-of-{place.flag}"
    await place.server.make_flag(parent, 100)
    async with begun(place.rolling) as running:
        path = f"/projects/{PROJECT}/features/{place.flag}/dependencies"
        await place.server.ask("POST", path, {"feature": parent, "enabled": True})
        [move] = await running.ticks(1)
        assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.FLAG_CHANGED)
        place.rolling.wants(Act.RESUME)
        moves = await running.ticks(2)
        assert moves[-1].kind is MoveKind.SOAK
        await place.server.ask("POST", f"{place.server.environment_of(parent)}/off")
        [move] = await running.ticks(1)

    assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.FLAG_CHANGED)


async def test_a_rollback_that_the_server_refuses_is_said_first_and_retried(place: Place) -> None:
    """The token has lost its right to write: nothing pretends that the harm is over."""
    async with begun(place.rolling):
        pass
    flag = ManagedFlag(place.flag, kill_flag=place.kill_flag, group_id="headgate.streaming")
    token = await person(place.server, f"reader-of-{place.flag}", VIEWER)
    writer = place.rolling.admin
    async with UnleashAdmin(
        place.server.url, token, flag, project=PROJECT, environment=ENVIRONMENT
    ) as place.rolling.admin:
        with place.rolling.running() as running:
            place.rolling.traffic.shows_wrong_text()
            harmed, *after = await running.ticks(3)
            state = running.controller.state
    assert harmed.kind is MoveKind.ROLL_BACK
    assert {(move.kind, move.reason) for move in after} == {(MoveKind.HOLD, MoveReason.NOT_WRITTEN)}
    assert "403" in after[-1].detail
    assert gap(state, state.standing).startswith("0 % is decided and not yet written, and 5 % are in force")
    assert await place.share() == 5

    place.rolling.admin = writer
    with place.rolling.running() as running:
        fence = await running.lease.acquire()
        assert fence is not None
        await running.controller.retry(fence)
        assert gap(running.controller.state, running.controller.state.standing) == ""
    assert await place.share() == 0


async def test_down_and_up_again_without_a_controller(place: Place) -> None:
    """Killed: the share is 0 on the server, too, and over any other share nobody unkills."""
    async with told_to_begin(place.rolling) as running:
        await running.until(25)
    admin = place.rolling.admin
    assert admin is not None
    killed = await down.kill(admin)
    assert (killed.killed, killed.strategy.share, await place.share()) == (True, 0, 0)
    await place.change(rollout="25")
    with pytest.raises(FlagAdminError, match="the share is 25 %"):
        await down.unkill(admin)
    assert (await admin.read()).killed
    assert (await down.lower(admin)).strategy.share == 0
    await down.unkill(admin)
    assert not (await admin.read()).killed


@asynccontextmanager
async def another(place: Place) -> AsyncIterator[Rolling]:
    """A controller on another machine, with a journal, a lease and a connection of its own."""
    directory = place.rolling.directory / "another"
    directory.mkdir()
    flag = ManagedFlag(place.flag, kill_flag=place.kill_flag, group_id="headgate.streaming")
    token = place.server.admin_token
    async with UnleashAdmin(place.server.url, token, flag, project=PROJECT, environment=ENVIRONMENT) as admin:
        yield Rolling(directory, policy(directory), admin=admin)


async def test_two_controllers_with_journals_of_their_own_find_each_other(place: Place) -> None:
    """Both at the same share; who was there first holds, and says which journal the other one has."""
    async with another(place) as other:
        with place.rolling.running() as one, other.running() as two:
            await one.begin()
            await one.until(5)
            with pytest.raises(RolloutError, match="was here"):
                await two.begin()
            await two.begin(again=True)
            await two.ticks(2)
            moves = await one.ticks(3)
            home = two.controller.state.home

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
    assert (
        f"another controller, with a journal of its own: rollout r2 of the journal {home}" in moves[-1].detail
    )
    assert await place.share() == 5


async def test_of_two_controllers_that_write_at_once_at_most_one_goes_on(place: Place) -> None:
    """Each began when the flag had no mark: the later write stays, and the share is not raised twice."""
    async with another(place) as other:
        with place.rolling.running() as one, other.running() as two:
            await asyncio.gather(one.begin(), two.begin())
            await asyncio.gather(one.tick(), two.tick())
            shares = [await place.share()]
            for _ in range(8):
                moves = await asyncio.gather(*(each.ticks(1) for each in (one, two)))
                shares.append(await place.share())

    held = [move.reason is MoveReason.FLAG_CHANGED for [move] in moves]
    assert any(held), moves
    assert set(shares) <= {0, 5}
    assert any("another controller" in move.detail for [move] in moves)


async def test_an_unleash_that_is_away_holds_and_is_written_when_it_is_back(place: Place) -> None:
    """Harm that shows while it is away is not forgotten."""
    async with begun(place.rolling) as running:
        await place.server.stop()
        [move] = await running.ticks(1)
        assert move.reason is MoveReason.FLAG_UNREADABLE
        place.rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)
        assert move.kind is MoveKind.ROLL_BACK
        await place.server.start()
        await running.ticks(1)

    assert await place.share() == 0
