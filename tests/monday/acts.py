"""The day from its beginning to its end."""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import yaml

from tests.monday.day import ALERT, DAY_S, RUNBOOK, Day
from tests.monday.morning import PROXIES, ProxyPlace, command_in, morning
from tests.project.shell_blocks import commands
from tests.rollout.operating import LOOKED_S
from tests.rollout.readers import USERS
from tests.servers.client import eventually

HEALTHY_S = 8.0
"""At 25 %, before it breaks."""

MIXED = 5
"""So many streamed answers are read at both an old and a new proxy."""


async def monday(directory: Path, say: Callable[[str], None], pictures: Path) -> Day:
    """The whole day. Raises TimeoutError when something that must happen does not.

    Args:
        pictures: the folder in which the operators' page is kept, at each moment that somebody looks at it.
    """
    async with morning(directory, say, pictures) as day:
        day.mark("up", f"{PROXIES} proxies, Unleash, Redis, Prometheus, Alertmanager; {USERS} users ask")
        await week_before(day)
        await nine_o_clock(day)
        async with day.runs("headgate rollout run --new"):
            await first_users(day)
            await proxies_are_upgraded(day)
        async with day.runs("headgate rollout run --reason"):
            await a_quarter(day)
            await it_breaks(day)
        await evening(day)
    return day


async def week_before(day: Day) -> None:
    """Try everything before anybody streams."""
    await day.types("headgate check")
    await day.types("amtool alert add HeadgateDrill")
    await eventually(lambda: ("HeadgateDrill", "critical") in day.on_call.told, DAY_S)
    day.say(await day.types("headgate rollout plan"))
    day.mark("tried", "the settings are checked, the drill has come, the plan is looked at")


async def nine_o_clock(day: Day) -> None:
    """The beginning, and the drill of the way back."""

    async def killed() -> bool:
        return "=>" in await day.types("promtool query instant $PROMETHEUS 'sum by (route)")

    await day.types("curl -fsS $ADMIN/readyz")
    async with day.runs("headgate rollout run --reason"):
        await within(day.ops.reaches(5))
        day.mark("begun", "5 % in the dark: the controller has begun")
        await day.types("headgate rollout status")
        day.shown["in the dark"] = await shown(day)
        await day.types("headgate rollout kill")
        await eventually(killed, DAY_S, LOOKED_S)
        await day.looks(
            "drill",
            "Everybody gets batch: the kill flag is on.",
            "So the flag says; nobody streams now.",
            "State killed",
        )
        await day.types("headgate rollout unkill")
        await within(day.ops.reaches(0))
        day.mark("drill", "the kill switch has been tried: everybody got batch")


async def shown(day: Day) -> float:
    """Percent of users who are shown something, by the flag's own evaluation."""
    return float((await day.ops.status())["in_force"]["expected"])


async def first_users(day: Day) -> None:
    """A person's yes, and the first users."""
    await approved(day, step=1)
    await within(day.ops.until("approval", step=2))
    day.shown["after the drill"] = await shown(day)
    await day.looks(
        "first-users",
        "5 % of users are shown live text on answers.",
        "5 % stream 90 % as before 5 % control",
        "running · hold · approval",
        "Step 2 of 4",
    )
    day.mark("first", "5 %: the first users")
    await day.types("headgate rollout pause")


async def approved(day: Day, *, step: int) -> None:
    """A person approves what the controller has asked for; looks again, if it says something else by then."""

    async def is_taken() -> bool:
        status = await day.ops.status()
        if status["step"] == step and status["reason"] == "approval":
            await day.types("headgate rollout approve")
        return bool(status["step"] > step)

    await eventually(is_taken, DAY_S, LOOKED_S)


async def proxies_are_upgraded(day: Day) -> None:
    """One after the other, under the users' hands; then what only the new release has is turned on."""
    day.releases.append(await day.types("headgate --version"))
    directory = day.ops.policy.parent
    first, *others = day.proxies
    await _replace(day, first)
    day.mark("mixed", "one proxy is new, the other is old: both serve, on one store")
    so_far = day.readers.elsewhere["too"]
    await eventually(lambda: day.readers.elsewhere["too"] >= so_far + MIXED, DAY_S)
    await both_are_seen(day, first, *others)
    for place in others:
        await _replace(day, place)
    command_in(directory, day.release)
    day.releases.append(await day.types("headgate --version"))
    found = yaml.safe_load((directory / "headgate.yaml").read_text())
    found["traces"] = {"endpoint": "https://collector.test/v1/traces", "ratio": 0.2}
    (directory / "headgate.yaml").write_text(yaml.safe_dump(found))
    await day.types("headgate check")
    for place in day.proxies:
        os.kill(place.parent, signal.SIGHUP)
    await eventually(lambda: bool(day.collector.spans), DAY_S)
    await eventually(lambda: _counts(day, PROXIES), DAY_S, LOOKED_S)
    await day.looks(
        "upgraded",
        *("traces.endpoint", "https://collector.test/v1/traces", "********"),
        *("5 % of users are shown live text on answers.", "paused · "),
        unlocked=True,
    )
    day.mark("upgraded", "both are new, and traces are turned on; now the controller is upgraded")


async def both_are_seen(day: Day, new: ProxyPlace, old: ProxyPlace) -> None:
    """Each page says its own release, and what its own proxy has counted."""
    before = await new.streamed()
    said = await day.looks("mixed-new", f"Headgate {new.release} · 1 process", "paused", at=new)
    found = re.search(r"Streamed ([\d,]+)", said)
    assert found is not None, said
    assert before <= int(found[1].replace(",", "")) <= await new.streamed()
    await day.looks("mixed-old", f"Headgate {old.release} · 1 process", "paused", at=old)


async def _replace(day: Day, place: ProxyPlace) -> None:
    """As Kubernetes does it: its endpoints forget a pod, then it is told to end, and drains."""
    url = f"http://{place.public}"
    day.readers.leaving.add(url)
    await eventually(lambda: not day.readers.unheard[url], DAY_S)
    await place.stop()
    await place.start(day.release)
    day.readers.leaving.clear()


async def _counts(day: Day, proxies: int) -> bool:
    release = day.proxies[0].release
    return f'{{version="{release}"}} => {proxies} @' in await day.types(
        "promtool query instant $PROMETHEUS 'count by (version)"
    )


async def a_quarter(day: Day) -> None:
    """The new controller goes on by the journal of the old one: a quarter of all for a while."""

    async def is_resumed() -> bool:
        """Not at once: a controller that has just begun must have looked."""
        is_paused = (await day.ops.status())["phase"] == "paused"
        if is_paused:
            await day.types("headgate rollout resume")
        return not is_paused

    await eventually(is_resumed, DAY_S, LOOKED_S)
    await within(day.ops.until("approval", step=2))
    day.shown["after the upgrade"] = await shown(day)
    await approved(day, step=2)
    await within(day.ops.reaches(25))
    day.mark("quarter", "25 %: somebody has looked at the first users, and approved")
    await asyncio.sleep(HEALTHY_S)
    assert (ALERT, "critical") not in day.on_call.told, "it rang before anything was wrong"


async def it_breaks(day: Day) -> None:
    """The streams of the upstream break off; what rings, what goes back, and what the runbook finds."""
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{day.ops.upstream}/break")
    day.mark("fault", "the upstream's streams now break off in the middle; its batch answers do not")
    async with asyncio.TaskGroup() as waits:
        waits.create_task(within(_rung(day)))
        waits.create_task(within(_back(day)))
    nobody = "Nobody is shown live text: every flag is off or at 0 %."
    said = await day.looks("rolled-back", nobody, "State rolled back")
    assert re.search(r"Runs from native .*\d (failed|cut short)", said), said
    assert re.search(r"(errors|early) harm", said), said
    queries = [command for command in commands(RUNBOOK) if command.startswith("promtool")]
    day.cause = "\n".join([await day.types(query) for query in queries])
    day.mark("cause", "the runbook of the alert has found the cause:")
    day.say(day.cause)


async def evening(day: Day) -> None:
    """A second try is begun and rolled back by hand; then the journal is made to tell it all again."""
    async with day.runs("headgate rollout run --new"):
        await within(day.ops.reaches(5))
        await day.looks("dark", "Nobody is shown live text", "5 % in the dark", "Step 1 of 4")
        await unleash_is_down(day)
        await day.types("headgate rollout rollback")
        await within(day.ops.until("rolled_back", written=0))
        await day.looks("evening", "Nobody is shown live text", "State rolled back", "Step 1 of 4")
    day.say(await day.types("headgate rollout replay"))
    day.mark("evening", "another try was rolled back by hand; the readers go home")


async def unleash_is_down(day: Day) -> None:
    """So somebody at the proxies says: the switch is of one proxy, with who and why, until it is released."""
    first, second = day.proxies
    await day.types("curl -fsS -X POST")
    because = ["Everybody gets batch: the kill switch is on.", "anna: Unleash is down"]
    await day.looks("kill-switch", *because, at=first)
    order = (await first.ready())["kill_switch"]
    assert (order["by"], order["reason"]) == ("anna", "Unleash is down")
    said = await day.looks("kill-switch-other", "Off. It takes every new request", at=second)
    assert because[0] not in said
    await day.types("curl -fsS -X DELETE")
    assert (await first.ready())["kill_switch"] is None


async def within(waited_for: Awaitable[None]) -> None:
    async with asyncio.timeout(DAY_S):
        await waited_for


async def _rung(day: Day) -> None:
    await eventually(lambda: (ALERT, "critical") in day.on_call.told, DAY_S)
    day.mark("alert", f"the webhook of who is on call gets {ALERT}, as critical")


async def _back(day: Day) -> None:
    await day.ops.until("rolled_back", written=0)
    day.mark("rollback", "0 %: the controller has rolled back")


def summary(day: Day) -> str:
    """The figures of the day."""
    since = {what: day.marks[what] - day.marks["fault"] for what in ("alert", "rollback")}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(day.readers.answered.items()))
    before, after = (release.strip().rpartition(" version ")[2] for release in day.releases)
    rang = ", ".join(sorted(f"{name} ({severity})" for name, severity in day.on_call.told))
    return (
        f"Upgraded from {before} to {after}. What rang: {rang}. "
        f"From the fault to the alert {since['alert']:.1f} s, to the rollback {since['rollback']:.1f} s. "
        f"Answers: {kinds}; {day.readers.unanswered} never came, {len(day.readers.wrong)} were wrong. "
        f"{len(day.readers.noticed)} of {USERS} users saw an answer break off, and had it on asking again."
    )
