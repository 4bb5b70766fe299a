"""`headgate rollout …`: what it says, what it refuses, and with which exit code."""

import asyncio
import io
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyio import to_thread
from click.testing import CliRunner, Result
from rich.console import Console

from flags.rollout.commands import rollout
from flags.rollout.inbox import act_request
from flags.rollout.journal import Journal
from flags.rollout.ledger import Act, EntryKind, fold
from flags.rollout.observed import explanation
from flags.rollout.reporting.standing import standing_of
from flags.rollout.reporting.status import shown, status_of
from flags.rollout.running import StartedBy, serve
from flags.rollout.writing.file_admin import FileAdmin
from flags.rollout.writing.flag_admin import ManagedFlag
from tests.rollout.rolling import FLAG, Rolling, begun, flag_file, policy, policy_said, told_to_begin
from tests.servers.client import eventually


@dataclass
class Desk:
    """An operator's."""

    rolling: Rolling
    path: Path

    async def types(self, *arguments: str) -> Result:
        typed = [*arguments, "--policy", str(self.path)]
        return await to_thread.run_sync(lambda: CliRunner().invoke(rollout, typed))

    async def has_begun(self, share: int = 5) -> None:
        async with told_to_begin(self.rolling) as running:
            await running.until(share)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    path = tmp_path / "rollout.yaml"
    path.write_text(yaml.safe_dump(policy_said()))
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    rolling.now.wall_s = time.time()
    return Desk(rolling, path)


def why(text: str = "because") -> tuple[str, ...]:
    return "--by", "ops", "--reason", text


async def test_before_the_first_rollout_there_is_none(desk: Desk) -> None:
    """It says so, and how one is begun; nobody can act on what is not there."""
    assert (await desk.types("status")).exit_code == 6
    assert "headgate rollout run" in (await desk.types("status")).output
    refused = await desk.types("pause", *why())
    assert refused.exit_code == 1
    assert "no rollout yet" in refused.output


async def test_a_journal_that_is_lost_is_not_called_a_beginning(desk: Desk) -> None:
    """The flag outlives it: what is in force is said, and what to do."""
    await desk.has_begun(5)
    journal = desk.rolling.policy.journal
    for file in journal.parent.glob(f"{journal.name}*"):
        file.rename(file.with_name(f"lost-{file.name}"))

    said = " ".join((await desk.types("status")).output.split())

    assert "The flag is on, at 5 %, and this journal knows of no rollout." in said
    assert "restore its journal" in said


async def test_a_journal_that_is_just_being_made_is_none_yet(desk: Desk) -> None:
    """A look while the controller begins: the file is there, and its tables are not."""
    journal = desk.rolling.policy.journal
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        assert (await desk.types("status")).exit_code == 6


@pytest.mark.parametrize("what", ["pause", "resume", "approve", "advance", "rollback", "kill", "unkill"])
async def test_no_act_without_a_reason(desk: Desk, what: str) -> None:
    """Missing, or empty."""
    assert (await desk.types(what)).exit_code == 2
    refused = await desk.types(what, "--reason", "  ")
    assert refused.exit_code == 1
    assert "--reason" in refused.output


async def test_all_that_is_wrong_with_a_policy_is_said_at_once(desk: Desk) -> None:
    desk.path.write_text(yaml.safe_dump(policy_said(steps=[{"share": 5.5, "at_least": "1h"}], flagg="x")))
    refused = await desk.types("status")
    assert refused.exit_code == 1
    assert "rollout.yaml: steps[0].share" in refused.output
    assert "did you mean `flag`" in refused.output


async def test_status_says_where_it_stands_and_why(desk: Desk) -> None:
    """For people, and for scripts."""
    await desk.has_begun(25)
    shown = await desk.types("status")
    found = json.loads((await desk.types("status", "--json")).output)

    assert shown.exit_code == found["exit_code"] == 0
    lines = [" ".join(line.strip("│ ").split()) for line in shown.output.splitlines()]
    for said in ("decided 25 % · planned 25 % · then 50 %", "written 25 %"):
        assert said in lines
    assert "in force 25 % · environment on · kill off" in lines
    assert "shown to 25 % of users · observed —" in lines
    assert (found["run"], found["step"], found["written"], found["next_share"]) == ("r1", 2, 25, 50)
    assert {verdict["guardrail"] for verdict in found["verdicts"]} >= {"errors", "parity"}


async def test_an_observed_share_that_is_not_the_written_one_explains_itself(desk: Desk) -> None:
    """Few users who ask much are a few of the users, and much of the answers."""
    await desk.has_begun(25)
    with desk.rolling.running() as running:
        await running.ticks(1)
    shown = await desk.types("status")
    found = json.loads((await desk.types("status", "--json")).output)

    users = desk.rolling.traffic.users["stream"]
    assert (found["observed"], found["written"]) == (50, 25)
    said = f"answers are not users: at least {users:,} users had these {found['answers'] // 2:,} streamed"
    assert found["observed_why"] == said
    assert said in shown.output


async def test_a_rollout_whose_proxies_expect_nothing_says_so(desk: Desk) -> None:
    """They are older: nothing is wrong, and harm among users who differ is seen later."""
    await desk.has_begun(25)
    said = "Proxies did not say what they expect"
    before = await desk.types("status")
    with desk.rolling.running() as running:
        await running.ticks(1)
    after = await desk.types("status")

    assert said not in " ".join(before.output.split())
    assert said in " ".join(after.output.split())


@pytest.mark.parametrize(
    ("share", "streamed", "settled", "in_step_s", "said"),
    [
        (40, 0, 0, 60, ""),
        (40, 42, 100, 60, ""),
        (1, 110, 10_000, 60, ""),
        (0, 0, 500, 60, ""),
        (40, 2, 3, 60, "so few answers may be so by chance"),
        (40, 730, 1000, 60, "answers are not users: who asks more counts more"),
        (40, 200, 1000, 60, "some of them were decided before this step"),
        (40, 200, 1000, 3600, "answers are not users: who asks more counts more"),
        (1, 400, 10_000, 60, "answers are not users: who asks more counts more"),
        (0, 7, 500, 60, "of the whole step, also before it went to 0 %"),
    ],
)
def test_what_explains_an_observed_share(
    share: int, streamed: int, settled: int, in_step_s: float, said: str
) -> None:
    """Chance, answers decided before, or who asks: what cannot be the reason is not named."""
    assert explanation(share, streamed, settled, users=0, in_step_s=in_step_s) == said


async def hold(desk: Desk) -> None:
    await desk.has_begun()
    desk.rolling.set_share(1)
    with desk.rolling.running() as running:
        await running.ticks(1)


async def roll_back(desk: Desk) -> None:
    await desk.has_begun()
    desk.rolling.traffic.shows_wrong_text()
    with desk.rolling.running() as running:
        await running.ticks(2)


async def kill(desk: Desk) -> None:
    await desk.has_begun()
    assert (await desk.types("kill", *why())).exit_code == 0


async def fall_silent(desk: Desk) -> None:
    desk.rolling.now.wall_s -= 86400
    await desk.has_begun()


@pytest.mark.parametrize(("befalls", "code"), [(hold, 3), (roll_back, 4), (kill, 5), (fall_silent, 7)])
async def test_the_exit_code_says_how_it_stands(
    desk: Desk, befalls: Callable[[Desk], object], code: int
) -> None:
    """For a script that asks nothing else."""
    await befalls(desk)  # type: ignore[misc]
    assert (await desk.types("status")).exit_code == code


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda flag: flag["strategies"][0]["parameters"].update(rollout="60"), "60 % are in force"),
        (lambda flag: flag.update(enabled=False), "the flag is off in its environment"),
        (
            lambda flag: flag["strategies"].append({"name": "default", "parameters": {}}),
            "1 strategies beside the rollout's are in force",
        ),
    ],
    ids=["raised", "off", "another strategy"],
)
@pytest.mark.parametrize("after", ["", "rollback"])
async def test_what_is_in_force_is_not_what_was_decided(
    desk: Desk, change: Callable[[dict[str, Any]], None], says: str, after: str
) -> None:
    """It is the first that is said, at once and before any controller looks, with a code of its own."""
    await desk.has_begun(25)
    if after:
        await desk.types(after, *why())
    desk.rolling.edit(change)
    if after and "off" in says:
        assert (await desk.types("status")).exit_code == 4  # off is what was decided
        return
    if after and "60" not in says:
        says = "0 % and 1 strategies beside"
    shown = await desk.types("status")
    found = json.loads((await desk.types("status", "--json")).output)

    assert shown.exit_code == found["exit_code"] == 8
    assert "DIFFERS" in shown.output.splitlines()[1]
    assert says in found["gap"]
    assert found["decided"] == (0 if after else 25)
    assert found["in_force"]["share"] == desk.rolling.share


async def test_what_requests_say_against_the_flag_is_said_first(desk: Desk) -> None:
    """After a rollback, too: 0 % is written and in force, and proxies that read another flag stream."""
    await desk.has_begun(25)
    await desk.types("rollback", *why())
    with desk.rolling.running() as running:
        await running.ticks(18)
    shown = await desk.types("status")

    assert shown.exit_code == 8
    assert "DIFFERS" in shown.output.splitlines()[1]
    assert "answers since then are of the stream arm" in " ".join(shown.output.split())


async def test_harm_that_cannot_be_written_does_not_look_as_if_it_was(desk: Desk) -> None:
    """Decided is not written, and written is not in force."""
    await desk.has_begun(25)
    content = desk.rolling.path.read_bytes()
    desk.rolling.path.write_bytes(b"{")
    desk.rolling.traffic.shows_wrong_text()
    with desk.rolling.running() as running:
        moves = await running.ticks(3)
    shown = await desk.types("status")

    assert [move.kind for move in moves] == ["roll_back", "hold", "hold"]
    assert moves[-1].reason == "not_written"
    assert shown.exit_code == 8
    assert "0 % is decided and not yet written: flag file" in " ".join(shown.output.split())
    desk.rolling.path.write_bytes(content)
    found = json.loads((await desk.types("status", "--json")).output)
    assert (found["decided"], found["written"], found["in_force"]["share"]) == (0, 25, 25)


@pytest.mark.parametrize("befalls", [hold, roll_back])
async def test_status_fits_a_terminal(desk: Desk, befalls: Callable[[Desk], object]) -> None:
    """Of 80 by 24, with all guardrails, whatever there is to say."""
    await befalls(desk)  # type: ignore[misc]
    with Journal.open(desk.rolling.policy.journal) as journal:
        journal.append(EntryKind.ACT, act_request(Act.PAUSE, "ops", "why " * 200, 0).body(), at_s=time.time())
    desk.rolling.set_share(70)
    state = fold(desk.rolling.entries())
    console = Console(width=80, record=True, file=io.StringIO())
    flag = await FileAdmin(desk.rolling.path, ManagedFlag(FLAG)).read()
    console.print(shown(status_of(state, desk.rolling.policy, time.time(), standing_of(flag)), time.time()))
    lines = console.export_text().splitlines()

    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert sum("/" in line for line in lines) >= 8


async def test_an_act_is_journaled_with_who_and_why(desk: Desk) -> None:
    """By the command itself where no controller runs, and followed by the next one that does."""
    await desk.has_begun()
    assert (await desk.types("rollback", *why("the ward is content without it"))).exit_code == 0
    act, written = desk.rolling.entries()[-2:]
    assert (act.kind, written.kind, written.body["share"]) == (EntryKind.ACT, EntryKind.WRITTEN, 0)
    assert {name: act.body[name] for name in ("what", "by", "reason")} == {
        "what": "rollback",
        "by": "ops",
        "reason": "the ward is content without it",
    }
    assert act.body["seen"] == act.seq - 1
    with desk.rolling.running() as running:
        await running.ticks(1)
    assert desk.rolling.share == 0


async def test_killing_needs_neither_controller_nor_rollout(desk: Desk) -> None:
    """The flag itself is turned on, and off again."""
    assert (await desk.types("kill", *why())).exit_code == 0
    document = json.loads(desk.rolling.path.read_text())
    assert document["features"][1]["enabled"] is True
    assert (await desk.types("unkill", *why())).exit_code == 0
    assert json.loads(desk.rolling.path.read_text())["features"][1]["enabled"] is False


@pytest.mark.parametrize("what", ["approve", "advance", "resume"])
async def test_nobody_lets_go_on_what_nobody_looks_at(desk: Desk, what: str) -> None:
    """Without a controller it would act on whatever the next one finds."""
    await desk.has_begun()
    refused = await desk.types(what, *why())
    assert refused.exit_code == 1
    assert "no controller runs" in refused.output
    assert desk.rolling.entries()[-1].kind != EntryKind.ACT


async def test_an_act_says_what_came_of_it(desk: Desk) -> None:
    """By the look after it: on to the next step, or the reason why not, with a code."""
    await desk.has_begun()
    with desk.rolling.running() as running:
        for code, says in ((1, "has no effect: soak (time)"), (0, "approve: advance (approved)")):
            typing = asyncio.create_task(desk.types("approve", *why()))
            await eventually(lambda: running.controller.acts_wait)
            await running.ticks(1)
            done = await typing
            assert (done.exit_code, says in done.output) == (code, True), done.output
            await running.ticks(6)


async def test_an_approval_in_place_of_proof_says_why_it_does_nothing(desk: Desk) -> None:
    """Nothing fails in either arm, so no ratio is proved: an approval is no proof, and it says what is."""
    await desk.has_begun()
    with desk.rolling.running() as running:
        await running.until(25, stream_bad=0.0, control_bad=0.0)
        await running.ticks(6, stream_bad=0.0, control_bad=0.0)
        typing = asyncio.create_task(desk.types("approve", *why()))
        await eventually(lambda: running.controller.acts_wait)
        await running.ticks(1, stream_bad=0.0, control_bad=0.0)
        done = await typing

    assert done.exit_code == 1
    assert "approve: has no effect: soak (unclear)" in done.output
    assert "takes the place of neither time nor proof" in done.output
    assert "headgate rollout advance" in done.output


async def test_a_rollback_needs_no_controller(desk: Desk) -> None:
    """0 % is read back before the command ends; the controller that runs next finds what it decided."""
    await desk.has_begun(25)
    done = await desk.types("rollback", *why())
    assert (done.exit_code, desk.rolling.share) == (0, 0)
    assert "0 % is in force" in done.output
    assert desk.rolling.flag["strategies"][0]["title"].endswith(": 0 %, by a person]")
    with desk.rolling.running() as running:
        moves = await running.ticks(3)
        assert running.controller.state.is_over
        assert not running.controller.is_down_due
    assert {move.reason for move in moves} == {"rolled_back"}


async def test_killing_takes_the_share_to_nothing_too(desk: Desk) -> None:
    """So that turning the kill flag off again, at once and by whatever means, brings nobody's stream back."""
    await desk.has_begun(25)
    assert (await desk.types("kill", *why())).exit_code == 0
    assert desk.rolling.share == 0
    assert (await desk.types("unkill", *why())).exit_code == 0
    assert desk.rolling.share == 0


async def test_a_kill_flag_is_not_turned_off_over_a_share(desk: Desk) -> None:
    """Somebody has raised it meanwhile: whoever unkills learns of it first."""
    await desk.has_begun(25)
    await desk.types("kill", *why())
    desk.rolling.set_share(40)
    refused = await desk.types("unkill", *why())
    assert refused.exit_code == 1
    assert "the share is 40 %" in refused.output
    assert desk.rolling.flags[1]["enabled"] is True


@pytest.mark.parametrize("what", ["kill", "rollback"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": [{"share": 5.5, "at_least": "1h"}]},
        {"guardrails": {"erors": {}}},
        {"notify": {"webhook": "${NOBODY_SET_THIS}"}},
        {"evidence": None},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_is_wrong_elsewhere_in_the_policy_does_not_keep_anybody_up(
    desk: Desk, what: str, wrong: dict[str, Any]
) -> None:
    """It is said, and nothing but going down is possible with it."""
    await desk.has_begun(5)
    desk.path.write_text(yaml.safe_dump(policy_said() | wrong))
    done = await desk.types(what, *why())

    assert (await desk.types("pause", *why())).exit_code == 1
    assert done.exit_code == 0
    assert f"rollout.yaml: {next(iter(wrong))}" in done.output
    assert desk.rolling.share == 0


@pytest.mark.parametrize("what", ["kill", "rollback"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"enviroment": "staging"},
        {"where": {"file": "flags.json", "unleash": {}}},
        {"flag": "${NOBODY_SET_THIS}"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_may_name_another_place_is_refused_on_the_way_down_too(
    desk: Desk, what: str, wrong: dict[str, Any]
) -> None:
    """Zero percent in another environment would be said to be in force, and would not be."""
    await desk.has_begun(5)
    desk.path.write_text(yaml.safe_dump(policy_said() | wrong))

    assert (await desk.types(what, *why())).exit_code == 1
    assert desk.rolling.share == 5


@pytest.mark.parametrize("what", ["kill", "rollback"])
async def test_what_could_not_be_written_is_no_success(desk: Desk, what: str) -> None:
    """The act is journaled all the same, and the controller does it when it can."""
    await desk.has_begun(25)
    content = desk.rolling.path.read_bytes()
    desk.rolling.path.write_bytes(b"{")
    refused = await desk.types(what, *why())
    assert refused.exit_code == 1
    assert "flag file" in refused.output
    desk.rolling.path.write_bytes(content)
    with desk.rolling.running() as running:
        await running.ticks(1)
    assert desk.rolling.share == 0


async def test_replay_tells_a_journal_that_was_touched(desk: Desk) -> None:
    """0 as long as it is whole and every decision follows; 1 when it is not what was written."""
    await desk.has_begun(25)
    assert (await desk.types("replay")).exit_code == 0
    content = desk.rolling.policy.journal.read_bytes()
    assert b'"reason":"proved"' not in content  # it has not advanced by proof yet
    desk.rolling.policy.journal.write_bytes(content.replace(b'"reason":"begin"', b'"reason":"bogus"'))
    broken = await desk.types("replay")
    assert broken.exit_code == 1
    assert "hash does not fit" in broken.output


async def test_watch_shows_what_an_act_has_changed(desk: Desk) -> None:
    """The page names the last person who acted, and the reason."""
    await desk.has_begun()
    await desk.types("pause", *why("wait for the night shift"))
    assert "pause by ops" in (await desk.types("status")).output
    assert Act.PAUSE in (await desk.types("status", "--json")).output


async def test_a_controller_begins_one_new_rollout_however_often_it_gets_the_lease(desk: Desk) -> None:
    """A person's `run --new` was of the rollout before: the one that it began is over for good."""
    async with begun(desk.rolling) as running:
        desk.rolling.wants(Act.ROLL_BACK)
        await running.ticks(1)
    lease = desk.rolling.policy.lease.file
    assert lease is not None

    def entries(kind: EntryKind) -> list[Any]:
        return [entry for entry in desk.rolling.entries() if entry.kind == kind]

    def is_over() -> bool:
        state = fold(desk.rolling.entries())
        return (state.run, state.is_over) == ("r2", True)

    controller = asyncio.create_task(
        serve(desk.rolling.policy, StartedBy("ops", "again", again=True, after="r1"))
    )
    try:
        await eventually(lambda: len(entries(EntryKind.BEGIN)) == 2, 30)
        desk.rolling.wants(Act.ROLL_BACK)
        await eventually(is_over, 30)
        term = json.loads(lease.read_bytes())
        lost = {"number": term["number"] + 1, "holder": "another", "expires_s": 0.0, "ttl_s": term["ttl_s"]}
        lease.write_text(json.dumps(lost))
        await eventually(
            lambda: any(entry.body["fence"] > lost["number"] for entry in entries(EntryKind.TICK)), 60
        )
    finally:
        controller.cancel()
        await asyncio.wait([controller])

    assert [entry.body["run"] for entry in entries(EntryKind.BEGIN)] == ["r1", "r2"]


async def test_status_says_that_the_last_act_was_refused(desk: Desk) -> None:
    """Nobody takes it for something that is in force."""
    async with begun(desk.rolling) as running:
        desk.rolling.wants(Act.RESUME)
        await running.ticks(1)

    assert "refused: there is nothing to resume" in (await desk.types("status")).output


async def test_a_rollback_beside_which_the_flag_is_on_did_not_succeed(desk: Desk) -> None:
    """Ours is at 0 %, and somebody's shows everybody streams: that is said, and `kill` stops those, too."""
    await desk.has_begun(25)
    everybody = {"name": "default", "parameters": {}}
    desk.rolling.edit(lambda flag: flag["strategies"].append(everybody))

    refused = await desk.types("rollback", *why())
    assert refused.exit_code == 1
    assert "still on by strategies beside it (1)" in refused.output
    assert "0 % is in force" not in refused.output
    assert desk.rolling.share == 0
    assert (await desk.types("kill", *why())).exit_code == 0
