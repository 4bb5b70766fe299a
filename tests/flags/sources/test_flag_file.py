"""Flags from a watched file."""

import asyncio
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from scipy.stats import binom

from flags.decision import Accept, Arm, FlagAnswer, Mode, Question, Reason, decide
from flags.errors import FlagFileError, FlagsError
from flags.sources.flag_file import FlagFile
from flags.sources.kill_switch import KillSwitch
from tests.flags.documents import (
    ALICE,
    FLAG,
    OFF,
    ON,
    SECRET,
    Clock,
    becomes,
    document,
    feature,
    gradual,
    write,
)

IDS = [f"user-{number}" for number in range(2000)]


async def users_on(path: Path, rollout: Any) -> set[str]:
    write(path, document(feature(gradual(rollout))))
    async with FlagFile(path) as flags:
        return {user for user in IDS if flags.evaluate(FLAG, {"userId": user}).enabled}


# Who is on


async def test_raising_the_rollout_only_adds_users(path):
    """10 → 25 → 50 → 100 %: nobody who was on goes off, and the shares are those asked for."""
    steps = {percent: await users_on(path, str(percent)) for percent in (0, 10, 25, 50, 100)}

    assert steps[0] < steps[10] < steps[25] < steps[50] < steps[100]
    for percent, users in steps.items():
        # A fair draw of 2,000 falls outside once in a million; the ids are fixed, so this cannot flake.
        low, high = binom.interval(1 - 1e-6, len(IDS), percent / 100)
        assert low <= len(users) <= high


async def test_a_rollout_given_as_a_number_is_the_same_rollout(path):
    """The engine would drop the whole file for a number without quotes; people write one all the same."""
    assert await users_on(path, 25) == await users_on(path, "25")


@pytest.mark.parametrize(
    "context",
    [None, {}, {"userId": None}, {"userId": ""}, {"sessionId": "s"}, {"properties": {"userId": None}}],
    ids=str,
)
async def test_a_user_without_an_id_is_off_even_at_100_percent(path, context):
    """The engine's client would make one user of them all, named "None", and turn it on."""
    write(path, document(feature(gradual("100"))))

    async with FlagFile(path) as flags:
        assert flags.evaluate(FLAG, context) == OFF


async def test_properties_take_part(path):
    """A rollout may stick to a property, and a property that is blank is no property."""
    write(path, document(feature(gradual("100", stickiness="tenant"))))

    async with FlagFile(path) as flags:
        assert flags.evaluate(FLAG, {"userId": "a", "properties": {"tenant": "north"}}) == ON
        assert flags.evaluate(FLAG, {"userId": "a", "properties": {"tenant": None}}) == OFF


async def test_a_flag_that_is_not_in_the_file_is_unknown(path, lines):
    """Unknown is not off: a route without its flag is a mistake to be seen, but not a line per request."""
    write(path, document())

    async with FlagFile(path) as flags:
        before = lines()
        answer = flags.evaluate(FLAG, ALICE)

    assert answer == FlagAnswer(known=False, enabled=False)
    assert lines() == before


async def test_a_context_that_is_not_unicode_is_a_flag_error(path, lines):
    """Half a surrogate pair reaches neither the engine nor its log; the user gets the batch answer."""
    write(path, document(feature(gradual())))
    question = Question(FLAG, "tap", frozenset(), {"userId": "\ud800"}, Accept.EITHER)

    async with FlagFile(path) as flags:
        before = lines()
        decision = decide(question, flags)

    assert decision.reason is Reason.FLAG_ERROR
    assert lines() == before


async def test_a_variant_overrides_the_source(path):
    """From the file to the decision: the variant's payload says how to stream."""
    payload = {"type": "json", "value": '{"source": "poll", "chunk": {"min": 4, "max": 8}}'}
    variant = {"name": "polled", "weight": 1000, "stickiness": "userId", "payload": payload}
    write(path, document(feature(gradual(), variants=[variant])))
    question = Question(FLAG, "tap", frozenset({"poll"}), ALICE, Accept.ONLY_STREAM)

    async with FlagFile(path) as flags:
        decision = decide(question, flags)

    assert (decision.mode, decision.arm, decision.source) == (Mode.STREAM, Arm.STREAM, "poll")
    assert (decision.variant, decision.chunk_chars) == ("polled", (4, 8))


async def test_a_variant_needs_no_payload(path):
    """A variant may be a name only."""
    variant = {"name": "plain", "weight": 1000, "stickiness": "userId"}
    write(path, document(feature(gradual(), variants=[variant])))

    async with FlagFile(path) as flags:
        assert flags.evaluate(FLAG, ALICE) == FlagAnswer(True, True, "plain", "")


# The file changes


async def test_a_change_is_applied_within_two_seconds(path, lines):
    """Replaced in one step or written over in place; up and down."""
    write(path, document(feature(gradual("0"))))

    async with FlagFile(path) as flags:
        assert flags.evaluate(FLAG, ALICE) == OFF
        write(path, document(feature(gradual("100"))))
        await becomes(lambda: flags.evaluate(FLAG, ALICE) == ON)
        path.write_text(json.dumps(document(feature(gradual("0")))))
        await becomes(lambda: flags.evaluate(FLAG, ALICE) == OFF)

    assert len([line for line in lines() if "applied" in line]) == 3


async def test_a_change_within_one_tick_of_the_files_clock_is_seen(path):
    """Same size, same inode, same time: a file that is still young is looked into again."""
    hour_ahead_ns = path.parent.stat().st_mtime_ns + 3600 * 10**9
    path.write_text(json.dumps(document(feature(gradual("000")))))
    os.utime(path, ns=(hour_ahead_ns, hour_ahead_ns))

    async with FlagFile(path) as flags:
        path.write_text(json.dumps(document(feature(gradual("100")))))
        os.utime(path, ns=(hour_ahead_ns, hour_ahead_ns))
        await becomes(lambda: flags.evaluate(FLAG, ALICE) == ON)


async def test_a_file_that_did_not_change_is_not_loaded_again(path, lines):
    """The same flags written again cost nothing and say nothing."""
    write(path, document(feature(gradual())))
    clock = Clock()

    async with FlagFile(path, poll_s=0.01, clock=clock) as flags:
        write(path, document(feature(gradual())))
        clock.now_s += 10
        await becomes(lambda: flags.age_s == 0)

    assert len([line for line in lines() if "applied" in line]) == 1


BREAKAGES = {
    "not JSON": lambda path: write(path, f'{{"features": "{SECRET}'),
    "not flags": lambda path: write(path, [SECRET]),
    "refused": lambda path: write(path, document(feature(gradual("12.5", secret=SECRET)))),
    "missing": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "refused by the engine alone": lambda path: write(path, document(feature(variants=[{"name": SECRET}]))),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_a_broken_file_keeps_the_last_good_flags_and_says_so_once(path, lines, breakage):
    """Users keep the stream, `problem` says what is wrong, the log does so once, without any content."""
    write(path, document(feature(gradual())))

    async with FlagFile(path, poll_s=0.01) as flags:
        BREAKAGES[breakage](path)
        await becomes(lambda: flags.problem)
        said, problem = lines(), flags.problem
        seen: list[int] = []
        await becomes(lambda: seen.append(1) or len(seen) > 20)  # some dozen looks later

        assert flags.evaluate(FLAG, ALICE) == ON
        assert lines() == said
        assert flags.problem == problem
        assert SECRET not in f"{problem} {said} {flags!r}"

        if path.is_dir():
            path.rmdir()
        write(path, document(feature(gradual("0"))))
        await becomes(lambda: flags.problem is None)
        assert flags.evaluate(FLAG, ALICE) == OFF
        assert [line for line in lines()[len(said) :] if "good again" in line]


async def test_flags_grow_old_only_while_the_file_is_broken(path):
    """A good file is young however long ago it was written; a broken one is stale after `stale_s`."""
    write(path, document(feature(gradual())))
    clock = Clock()
    question = Question(FLAG, "tap", frozenset(), ALICE, Accept.EITHER)

    async with FlagFile(path, poll_s=0.01, stale_s=300, clock=clock) as flags:
        clock.now_s += 3000
        await becomes(lambda: flags.age_s == 0)
        path.unlink()
        await becomes(lambda: flags.problem)
        clock.now_s += 300
        assert (flags.age_s, decide(question, flags).reason) == (300, Reason.FLAG_ON)
        clock.now_s += 1
        assert decide(question, flags).reason is Reason.FLAGS_STALE
        write(path, document(feature(gradual())))
        await becomes(lambda: decide(question, flags).reason is Reason.FLAG_ON)


async def test_a_surprise_does_not_end_the_watch(path, lines):
    """The next look is taken, whatever goes wrong in this one."""
    write(path, document(feature(gradual("0"))))
    clock = Clock()

    async with FlagFile(path, poll_s=0.01, clock=clock) as flags:
        clock.broken = True
        await becomes(lambda: flags.problem == "could not be checked: ArithmeticError")
        clock.broken = False
        write(path, document(feature(gradual("100"))))
        await becomes(lambda: flags.evaluate(FLAG, ALICE) == ON and flags.problem is None)


# What a file may not be


REFUSED = {
    "nothing": ("", "is not JSON"),
    "a list": ([], "is not a JSON object"),
    "no version": ({"features": []}, "version is missing"),
    "a version in quotes": ({"version": "2", "features": []}, "version is missing or not a whole number"),
    "no features": ({"version": 2}, "features is missing"),
    "features by name": ({"version": 2, "features": {}}, "features is missing or not a list"),
    "a text for a feature": (document("x"), "features[0] is not an object"),
    "no name": (document({"enabled": True}), "features[0].name is missing"),
    "a name with spaces": (document(feature(name="a b")), "features[0].name is missing or not"),
    "a name twice": (
        document(feature(), feature(name="x"), feature()),
        f"features[2] ({FLAG}): the name is already taken",
    ),
    "enabled in quotes": (document(feature(enabled="true")), f"({FLAG}): enabled is missing or not true"),
    "no strategies": (document({"name": "x", "enabled": True}), "(x): strategies is missing or not a list"),
    "a text for a strategy": (document(feature("x")), "strategies[0] is not an object with a name"),  # type: ignore[arg-type]
    "a list of parameters": (
        document(feature({"name": "default", "parameters": []})),
        "strategies[0].parameters is not an object",
    ),
    "a number for a group": (document(feature(gradual(groupId=5))), "holds a value that is not a string"),
    "half a percent": (
        document(feature(gradual("12.5"))),
        f"features[0] ({FLAG}): strategies[0].parameters.rollout has a fraction, and would enable nobody",
    ),
    "half a percent as a number": (document(feature(gradual(12.5))), "rollout has a fraction"),
    "a whole number with a point": (document(feature(gradual(50.0))), "rollout has a fraction"),
    "more than all": (document(feature(gradual("101"))), "rollout is not a percentage"),
    "less than none": (document(feature(gradual(-1))), "rollout is not a percentage"),
    "a percent sign": (document(feature(gradual("50%"))), "rollout is not a percentage"),
    "foreign digits": (document(feature(gradual("٥٠"))), "rollout is not a percentage"),
    "true": (document(feature(gradual(True))), "rollout is missing or not a number"),
    "no rollout": (
        document(feature({"name": "flexibleRollout"})),
        "rollout is missing or not a number; write a whole number from 0 to 100",
    ),
    "no stickiness": (
        document(feature(gradual(stickiness=""))),
        "stickiness is empty, and would enable nobody",
    ),
    "what only the engine refuses": (
        document(feature(gradual(), variants=[{"name": "no weight"}])),
        "the evaluation engine refuses it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_file_that_would_mislead_is_refused_by_name(path, case):
    """At the start a file is good, or the process ends with the place, the problem and the fix."""
    content, problem = REFUSED[case]
    write(path, content)

    with pytest.raises(FlagFileError) as refused:
        await FlagFile(path).__aenter__()

    assert str(refused.value).startswith(f"flag file {path}: ")
    assert problem in refused.value.problem


async def test_a_missing_file_is_refused_at_the_start(path):
    """The message names the file and what to do."""
    with pytest.raises(
        FlagsError, match=r"flags\.json: cannot be read: No such file or directory; put the file"
    ):
        await FlagFile(path).__aenter__()


async def test_several_problems_are_reported_at_once(path):
    """All of them, up to a bound; beyond it their number."""
    write(path, document(*(feature(gradual("1.5"), name=f"flag-{number}") for number in range(8))))

    with pytest.raises(FlagFileError, match=r"flag-0.*flag-4.*; and 3 more$"):
        await FlagFile(path).__aenter__()


@pytest.mark.parametrize("stickiness", ["random", "default", None])
async def test_a_stickiness_that_flips_is_warned_about(path, lines, stickiness):
    """`random` and `default` (which is also what nothing means) can answer one user differently each time."""
    strategy = gradual("50", stickiness=stickiness)
    if stickiness is None:
        del strategy["parameters"]["stickiness"]
    write(path, document(feature(strategy)))

    async with FlagFile(path):
        pass

    assert [line for line in lines() if f"{FLAG}: stickiness {stickiness or 'default'}" in line]


async def test_a_strategy_that_the_engine_does_not_have_is_warned_about(path, lines):
    """An export from a server may carry flags of others with strategies of their own; they enable nobody."""
    write(path, document(feature({"name": "fullMoon"}), feature({"name": "default"}, name="plain")))

    async with FlagFile(path) as flags:
        assert flags.evaluate(FLAG, ALICE) == OFF
        assert flags.evaluate("plain", ALICE) == ON

    assert len([line for line in lines() if "a kind the engine does not have" in line]) == 1


# Killing


async def test_the_kill_flag_in_the_file_kills(path):
    """Within two seconds, and back; it needs no user."""
    write(path, document(feature(name="headgate.kill", enabled=False)))

    async with FlagFile(path) as flags:
        assert not flags.killed
        write(path, document(feature(name="headgate.kill")))
        await becomes(lambda: flags.killed)
        write(path, document(feature(name="headgate.kill", enabled=False)))
        await becomes(lambda: not flags.killed)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"disabled": True}, "disabled is true"),
        ({"constrains": []}, "constrains is unknown; did you mean constraints?"),
        ({"constraints": [{"contextName": "userId", "operator": "REGEX"}]}, "REGEX has no value"),
        ({"constraints": [{"contextName": "age", "operator": "NUM_GT", "values": ["3"]}]}, "NUM_GT has no"),
    ],
)
async def test_what_the_engine_would_pass_over_is_refused_by_name(path, part, says):
    """Each of them would enable others than whoever wrote it means."""
    write(path, document(feature({**gradual("10"), **part})))
    with pytest.raises(FlagFileError, match=re.escape(says)):
        async with FlagFile(path):
            pass


async def test_an_edit_that_keeps_time_and_size_is_seen(path):
    """A copy can preserve both; the time of the inode's change is set by nobody."""
    write(path, document(feature(gradual("10"))))
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3_600_000_000_000))
    status = os.stat(path)
    async with FlagFile(path, poll_s=0.01) as flags:
        await becomes(lambda: time.time_ns() - os.stat(path).st_ctime_ns > 200_000_000)  # looked at since
        path.write_text(path.read_text().replace('"10"', '"99"'))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        await becomes(
            lambda: any(flags.evaluate("headgate.streaming", {"userId": f"u{n}"}).enabled for n in range(5))
        )


async def test_a_kill_outlives_its_flag(path, lines):
    """Taken out of the file, or archived on the server: killed, and told, until a document shows it off."""
    write(path, document(feature(name="headgate.kill")))

    async with FlagFile(path) as flags:
        await becomes(lambda: flags.killed)
        write(path, document(feature(name="another")))
        await becomes(lambda: flags.evaluate("another", {"userId": "ann"}).known)
        assert flags.killed
        write(path, document(feature(name="headgate.kill", enabled=False)))
        await becomes(lambda: not flags.killed)

    assert [line for line in lines() if "is gone while it was on" in line]


async def test_a_kill_flag_that_kills_nothing_is_warned_about(path, lines):
    """A kill flag with a rollout by user is never on, for it is asked about nobody."""
    write(path, document(feature(gradual("100"), name="stop")))

    async with FlagFile(path, kill_flag="stop") as flags:
        assert not flags.killed

    assert [line for line in lines() if "stop is on but kills nothing" in line]


# Leaving


async def test_leaving_leaves_nothing_behind(path, tmp_path, lines):
    """No task and no thread, no complaint; and what is left over knows nothing and is stale."""
    write(path, document(feature(gradual()), feature(name="headgate.kill")))
    threads, tasks = threading.enumerate(), asyncio.all_tasks()

    async with FlagFile(path) as flags, KillSwitch(tmp_path / "kill"):
        assert threading.enumerate() == threads
        assert len(asyncio.all_tasks()) == len(tasks) + 2
        write(path, document(feature(gradual("0")), feature(name="headgate.kill")))
        await becomes(lambda: flags.evaluate(FLAG, ALICE) == OFF)

    assert asyncio.all_tasks() == tasks
    assert threading.enumerate() == threads
    assert (flags.stale, flags.killed) == (True, False)
    assert not flags.evaluate(FLAG, ALICE).known
    assert all("applied" in line for line in lines())


async def test_cancellation_ends_the_watch(path, tmp_path):
    """A task that is cancelled inside the block ends cancelled, and both watchers with it."""
    write(path, document())
    tasks = asyncio.all_tasks()
    entered = asyncio.Event()

    async def serve() -> None:
        async with FlagFile(path), KillSwitch(tmp_path / "kill"):
            entered.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await entered.wait()
    serving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await serving
    assert asyncio.all_tasks() == tasks


EVALUATING = """
import asyncio, sys
from flags.sources.flag_file import FlagFile

async def evaluate():
    async with FlagFile(sys.argv[1]) as flags:
        print(flags.evaluate("headgate.streaming", {"userId": "alice"}).enabled)

asyncio.run(evaluate())
"""


async def test_nothing_is_written_outside(path, tmp_path):
    """A home that cannot be written to, as in a hardened container, is no obstacle, and no warning."""
    write(path, document(feature(gradual())))
    home = tmp_path / "home"
    home.write_text("not a directory: not even root can write below")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(home))
    before = sorted(os.listdir(tmp_path))

    done = await anyio.run_process(
        [sys.executable, "-W", "error", "-B", "-c", EVALUATING, str(path)], env=os.environ | places
    )

    assert (done.stdout, done.stderr) == (b"True\n", b"")
    assert sorted(os.listdir(tmp_path)) == before
