"""Answers of a flag server, and what becomes of each: played on loopback, answer by answer."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from flags.decision import Accept, FlagAnswer, Question, Reason, decide
from flags.errors import FlagServerError
from flags.sources.unleash import JITTER, MAX_BACK_OFF_S, UnleashFlags, pause_s
from flags.sources.unleash_api import UnleashServer
from flags.sources.usage import MAX_COUNTS, Usage
from tests.flags.documents import ALICE, FLAG, OFF, ON, SECRET, Clock, document, feature, gradual
from tests.servers.authority import certificates
from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.scripted import Asked, Script, ScriptedUpstream, raw

TOKEN = "default:development.not-to-be-told"
KILL = feature({"name": "default"}, name="headgate.kill", enabled=False)
QUESTION = Question(FLAG, "tap", frozenset(), ALICE, Accept.EITHER)


@dataclass
class Playing:
    """A flag server: `features` plays for who asks for flags; what it is told is kept, or counts refused."""

    features: Script
    counts_status: bytes = b"202 Accepted"
    counts_answered: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[tuple[str, Any]] = field(default_factory=list)
    fetches: list[Asked] = field(default_factory=list)
    server: ScriptedUpstream = field(init=False)

    async def __call__(self, asked: Asked) -> None:
        if asked.target == b"/api/client/features":
            self.fetches.append(asked)
            await self.features(asked)
            return
        told = (asked.target.decode(), json.loads(await asked.read_body()))
        status = self.counts_status if asked.target.endswith(b"/metrics") else b"202 Accepted"
        if status.startswith(b"2"):
            self.told.append(told)
        if told[0].endswith("/metrics"):
            await self.counts_answered.wait()
        await asked.answer(b"", status)

    def of(self, path: str) -> list[Any]:
        return [body for target, body in self.told if target == f"/api/client/{path}"]


def serves(*features: Any, etag: str = "", **more: Any) -> Script:
    """200 with these flags, and 304 to who has them already."""
    body = json.dumps({**document(*features), **more}).encode()

    async def script(asked: Asked) -> None:
        if etag and asked.header(b"if-none-match") == etag.encode():
            await asked.send(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        else:
            await asked.answer(body, extra=f"etag: {etag}\r\n".encode() if etag else b"")

    return script


GOOD = serves(feature(gradual()), KILL)


@asynccontextmanager
async def playing(features: Script = GOOD) -> AsyncIterator[Playing]:
    played = Playing(features)
    played.counts_answered.set()
    async with ScriptedUpstream(played).running() as played.server:
        yield played


def flags_of(
    played: Playing, *, refresh_s: float = 0.02, timeout_s: float = 5.0, **more: Any
) -> UnleashFlags:
    server = UnleashServer(
        played.server.url, TOKEN, refresh_s=refresh_s, timeout_s=timeout_s, max_body_bytes=2**20
    )
    return UnleashFlags(server, frozenset({FLAG}), **more)


async def fetched_again(played: Playing, times: int = 2) -> None:
    """Some more fetches have been answered to the end."""
    wanted = len(played.fetches) + times + 1
    await eventually(lambda: len(played.fetches) >= wanted)


# What is asked, and how often


async def test_a_fetch_says_who_asks_and_what_is_known_already(tmp_path: Path) -> None:
    """The token, the application, this process; and the ETag of what it has."""
    async with playing(serves(feature(gradual()), KILL, etag='"7"')) as played, flags_of(played):
        await fetched_again(played)

    first, second = (dict(asked.headers()) for asked in played.fetches[:2])
    assert first[b"authorization"] == TOKEN.encode()
    assert first[b"unleash-appname"] == b"headgate"
    assert first[b"unleash-instanceid"].endswith(f"-{os.getpid()}".encode())
    assert b"if-none-match" not in first
    assert second[b"if-none-match"] == b'"7"'


async def test_not_modified_is_news_too(lines: Callable[[], list[str]]) -> None:
    """A 304 makes the flags young again, and loads nothing."""
    clock = Clock()
    async with (
        playing(serves(feature(gradual()), KILL, etag='"7"')) as played,
        flags_of(played, clock=clock) as flags,
    ):
        clock.now_s += 200
        await eventually(lambda: flags.age_s == 0)

        assert flags.evaluate(FLAG, ALICE) == ON
    assert len([line for line in lines() if "applied" in line]) == 1


async def test_flags_are_as_old_as_the_question_that_got_them() -> None:
    """Not as its answer: that may have been long under way."""
    clock = Clock()

    async def slowly(asked: Asked) -> None:
        clock.now_s += 4
        await GOOD(asked)

    async with playing(slowly) as played, flags_of(played, refresh_s=3600, clock=clock) as flags:
        assert flags.age_s == 4


@pytest.mark.parametrize(
    ("overloads", "retry_after_s", "expected_s"),
    [(0, 0, 15), (1, 0, 30), (2, 0, 60), (3, 0, 60), (1000, 0, 60), (1, 45, 45), (1, 9999, 60), (1, 5, 30)],
)
def test_an_overloaded_server_is_asked_less_often_but_at_least_once_a_minute(
    overloads: int, retry_after_s: float, expected_s: float
) -> None:
    """Twice as long each time, or as long as it asks for, up to the bound; chance only shortens."""
    assert pause_s(15, overloads, retry_after_s, 0) == expected_s <= MAX_BACK_OFF_S
    assert pause_s(15, overloads, retry_after_s, 1) == pytest.approx(expected_s * (1 - JITTER))


def test_a_long_refresh_is_no_shorter_for_a_server_in_trouble() -> None:
    """The bound is for the backing off, not for what ops have chosen."""
    assert pause_s(300, 0, 0, 0) == pause_s(300, 3, 0, 0) == 300


async def test_an_overloaded_server_gets_the_pause_that_it_asks_for() -> None:
    """`Retry-After: 1` at a refresh of 20 ms: in half of that second nobody asks, and then somebody does."""
    loop = asyncio.get_running_loop()
    async with playing() as played, flags_of(played) as flags:
        played.features = status("503 Service Unavailable", b"retry-after: 1\r\n")
        await eventually(lambda: flags.problem == "answers with 503")
        refused_at, fetches = loop.time(), len(played.fetches)
        played.features = GOOD
        await eventually(lambda: len(played.fetches) > fetches)
        assert loop.time() - refused_at > 0.5
        await fetched_again(played)


# Whatever it answers


def status(code: str, extra: bytes = b"") -> Script:
    return raw(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n%b\r\n" % (code.encode(), extra))


def text(body: bytes, kind: bytes = b"application/json") -> Script:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return raw(head % (kind, len(body)) + body)


async def never(_: Asked) -> None:
    await asyncio.Event().wait()


async def cuts(asked: Asked) -> None:
    asked.writer.transport.abort()


async def half(asked: Asked) -> None:
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
    asked.writer.close()


async def drips(asked: Asked) -> None:
    """A byte now and then, for ever: each is in time, and the whole never is."""
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n")
    while True:
        await asked.send(b" ")
        await asyncio.sleep(0.02)


async def endless(asked: Asked) -> None:
    await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        await asked.send(b" " * 2**20)


NOT_GZIP = b"content-encoding: gzip\r\ncontent-type: application/json\r\n"
BAD: dict[str, tuple[Script, str]] = {
    "garbage": (text(b'{"features": "' + SECRET.encode()), "is not JSON: "),
    "nothing": (text(b""), "is not JSON: "),
    "another JSON": (text(b'{"ok": true}'), "serves no list of features"),
    "features by name": (text(b'{"version": 2, "features": {}}'), "serves no list of features"),
    "a page": (text(b"<h1>Sign in</h1>", b"text/html"), "answers with something that is not JSON"),
    "an archive that is none": (
        raw(b"HTTP/1.1 200 OK\r\n" + NOT_GZIP + b"content-length: 2\r\n\r\n{}"),
        "broke off (DecodingError)",
    ),
    "half a body": (half, "broke off (RemoteProtocolError)"),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "broke off (RemoteProtocolError)"),
    "a cut": (cuts, "broke off (Re"),
    "silence": (never, "did not answer within 0.3 s"),
    "drips": (drips, "did not answer within 0.3 s"),
    "a flood": (endless, "answers with more than 1 MiB"),
    "an error": (status("500 Internal Server Error"), "answers with 500"),
    "an error of its proxy": (status("520 Unknown"), "answers with 520"),
    "too many requests": (status("429 Too Many Requests"), "asks for fewer requests (429)"),
    "a token refused": (status("401 Unauthorized"), "refuses the token (401); set a backend (client) token"),
    "a frontend token": (status("403 Forbidden"), "refuses the token (403); set a backend (client) token"),
    "another address": (status("404 Not Found"), "has no /api/client there (404)"),
    "a redirect": (status("302 Found", b"location: /elsewhere\r\n"), "redirects (302); set the address"),
    "no content": (status("204 No Content"), "answers with 204"),
    "304 to nothing": (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "answers with 304"),
    "what the engine refuses": (
        serves(feature(gradual(), variants=[{"name": SECRET}])),
        "the evaluation engine refuses it",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_keeps_the_last_good_flags_and_is_said_once(
    lines: Callable[[], list[str]], case: str
) -> None:
    """Users keep the stream; `problem` says what, the log does so once; and the next good answer counts."""
    script, problem = BAD[case]
    async with playing() as played, flags_of(played, timeout_s=0.3) as flags:
        played.features = script
        await eventually(lambda: flags.problem is not None)
        said = lines()
        await eventually(lambda: len(played.fetches) > 4)

        assert problem in (flags.problem or "")
        assert decide(QUESTION, flags).reason is Reason.FLAG_ON
        assert lines() == said
        for secret in (SECRET, TOKEN):
            assert secret not in f"{flags.problem} {said} {flags!r}"

        played.features = serves(feature(gradual("0")), KILL)
        await eventually(lambda: flags.problem is None)
        assert flags.evaluate(FLAG, ALICE) == OFF
        assert [line for line in lines()[len(said) :] if "good again" in line]


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_first_answer_means_batch_until_a_good_one(case: str) -> None:
    """The process starts all the same; its flags have no age, are stale, and come when the server does."""
    async with playing(BAD[case][0]) as played, flags_of(played, timeout_s=0.3) as flags:
        assert flags.age_s == float("inf")
        assert decide(QUESTION, flags).reason is Reason.FLAGS_STALE
        played.features = GOOD
        await eventually(lambda: decide(QUESTION, flags).reason is Reason.FLAG_ON)


@pytest.mark.parametrize("case", BAD)
async def test_a_check_says_what_is_wrong(case: str) -> None:
    """The same words, with the server's address and without the token."""
    script, problem = BAD[case]
    async with playing(script) as played:
        with pytest.raises(FlagServerError) as wrong:
            await flags_of(played, timeout_s=0.3).verify()

    assert str(wrong.value).startswith(f"Unleash {played.server.url}: ")
    assert problem in wrong.value.problem
    assert TOKEN not in str(wrong.value)


async def test_a_server_that_is_not_there_is_said() -> None:
    """Nobody listens: the process starts, and gives batch."""
    server = UnleashServer(f"http://127.0.0.1:{free_port()}", TOKEN)
    async with UnleashFlags(server, frozenset({FLAG})) as flags:
        assert (flags.problem or "").startswith("cannot be reached: ")
        assert flags.stale


async def test_a_token_goes_nowhere_else() -> None:
    """A redirect is not followed, not even to the same server."""
    async with playing(BAD["a redirect"][0]) as played, flags_of(played):
        await fetched_again(played)

    assert {asked.target for asked in played.server.asked} <= {
        b"/api/client/features",
        b"/api/client/register",
    }


async def test_a_server_with_tls_must_show_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    """By the authorities of `ca_file`, or the system's: before the token is sent."""
    ca_file, tls = certificates(tmp_path)
    played = Playing(GOOD)
    async with ScriptedUpstream(played, tls=tls).running() as played.server:
        server = UnleashServer(played.server.url, TOKEN, ca_file=ca_file)
        await UnleashFlags(server, frozenset({FLAG})).verify()
        with pytest.raises(FlagServerError, match=r"certificate refused of 127\.0\.0\.1: .*who signed it"):
            await UnleashFlags(replace(server, ca_file=None), frozenset({FLAG})).verify()

    assert len(played.fetches) == 1


async def test_what_was_refused_is_not_confirmed_later() -> None:
    """The ETag of a document that was not taken is never sent, so no 304 can make it count as known."""
    async with (
        playing(serves(feature(gradual()), KILL, etag='"good"')) as played,
        flags_of(played) as flags,
    ):
        played.features = serves(feature(gradual(), variants=[{}]), etag='"bad"')
        await eventually(lambda: flags.problem is not None)
        await fetched_again(played)

    assert {asked.header(b"if-none-match") for asked in played.fetches} == {None, b'"good"'}


async def test_flags_grow_old_only_while_nothing_confirms_them() -> None:
    """A silent server's flags hold for `stale_s`, then everybody gets batch, until it speaks again."""
    clock = Clock()
    async with playing() as played, flags_of(played, stale_s=300, clock=clock) as flags:
        played.features = BAD["a cut"][0]
        await eventually(lambda: flags.problem is not None)
        clock.now_s += 300
        assert (flags.age_s, decide(QUESTION, flags).reason) == (300, Reason.FLAG_ON)
        clock.now_s += 1
        assert decide(QUESTION, flags).reason is Reason.FLAGS_STALE
        played.features = GOOD
        await eventually(lambda: decide(QUESTION, flags).reason is Reason.FLAG_ON)


async def test_a_surprise_does_not_end_the_asking() -> None:
    """The next look is taken, whatever goes wrong in this one."""
    clock = Clock()
    async with playing() as played, flags_of(played, clock=clock) as flags:
        clock.broken = True
        await eventually(lambda: flags.problem == "could not be asked: ArithmeticError")
        clock.broken = False
        await eventually(lambda: flags.problem is None)


# Flags of others, and traps in ours


async def test_flags_of_other_teams_are_none_of_our_business(lines: Callable[[], list[str]]) -> None:
    """A flag of another team may be malformed or change: that neither refuses nor changes ours."""
    others = [
        feature({"name": "fullMoon"}, name="by moon"),
        feature(gradual(12), name="theirs", variants=[{"name": "no weight"}]),
        {"name": "nothing"},
        "not even an object",
    ]
    async with playing(serves(*others, feature(gradual()), KILL)) as played, flags_of(played) as flags:
        assert decide(QUESTION, flags).reason is Reason.FLAG_ON
        assert not flags.evaluate("theirs", ALICE).known
        played.features = serves(feature(gradual()), feature(name="new"), KILL)
        await fetched_again(played)

    assert len(lines()) == 1
    assert "applied, 2 flags" in lines()[0]


TRAPS = {
    "a fraction": (feature(gradual("12.5")), "rollout has a fraction, and would enable nobody"),
    "a stickiness that is empty": (feature(gradual(stickiness="")), "stickiness is empty"),
    "a stickiness that flips": (feature(gradual("50", stickiness="random")), "answers may flip"),
    "another strategy": (feature({"name": "fullMoon"}), "a strategy of a kind the engine does not have"),
    "the same name twice": (feature(gradual()), "the name is already taken"),
    "nothing": (feature(name="another"), f"{FLAG}: is not served; make it in Unleash"),
}


@pytest.mark.parametrize("trap", TRAPS)
async def test_a_trap_in_our_own_flag_is_warned_about_once(lines: Callable[[], list[str]], trap: str) -> None:
    """It is taken all the same, as Unleash means it; whoever reads the log learns what it does."""
    served, warning = TRAPS[trap]
    twice = [served] if trap == "the same name twice" else []
    async with playing(serves(served, *twice, KILL)) as played, flags_of(played) as flags:
        await fetched_again(played)

        assert flags.problem is None
    assert len([line for line in lines() if warning in line]) == 1


async def test_a_default_of_unleash_at_all_users_is_no_trap(lines: Callable[[], list[str]]) -> None:
    """100 % cannot flip, whatever it sticks to; the kill flag that its page makes is one of these."""
    by_page = gradual("100", stickiness="default")
    served = serves(feature(gradual()), feature(by_page, name="headgate.kill"))
    async with playing(served) as played, flags_of(played) as flags:
        assert flags.killed

    assert len(lines()) == 1


async def test_the_kill_flag_kills_and_says_so_when_it_cannot(lines: Callable[[], list[str]]) -> None:
    """On, off, and on for some users, which is nobody when nobody is asked about."""
    async with playing() as played, flags_of(played) as flags:
        played.features = serves(feature(gradual()), feature({"name": "default"}, name="headgate.kill"))
        await eventually(lambda: flags.killed)
        played.features = serves(feature(gradual()), feature(gradual(), name="headgate.kill"))
        await eventually(lambda: not flags.killed)

    assert [line for line in lines() if "headgate.kill is on but kills nothing" in line]


async def test_a_kill_that_was_set_for_a_time_comes_at_that_time() -> None:
    """A constraint on the date: nothing changes on the server, and the flag turns on by itself."""
    # Milliseconds, as Unleash writes them: with microseconds the engine takes it for no date at all.
    at = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat(timespec="milliseconds")
    later = {"contextName": "currentTime", "operator": "DATE_AFTER", "value": at, "values": []}
    kill = feature({"name": "default", "constraints": [later]}, name="headgate.kill")
    async with playing(serves(feature(gradual()), kill, etag='"7"')) as played, flags_of(played) as flags:
        assert not flags.killed
        await eventually(lambda: flags.killed)


# What it is told


async def test_the_server_is_told_who_we_are_and_how_often_we_asked() -> None:
    """Registered once; then yes, no and variants by flag, with nothing lost when the flags change."""
    variants = [{"name": "polled", "weight": 1000, "stickiness": "userId"}]
    served = serves(feature(gradual(), variants=variants), KILL)
    async with playing(served) as played, flags_of(played, report_s=0.02) as flags:
        assert flags.evaluate(FLAG, ALICE).variant == "polled"
        assert not flags.evaluate("no-such-flag", ALICE).known
        played.features = serves(feature(gradual("0")), KILL)
        await eventually(lambda: not flags.evaluate(FLAG, ALICE).enabled)
        await eventually(lambda: len(played.of("metrics")) > 2)

    [registered] = played.of("register")
    assert (registered["appName"], registered["sdkVersion"].partition(":")[0]) == ("headgate", "headgate")
    buckets = [told["bucket"] for told in played.of("metrics")]
    assert all(first["stop"] <= second["start"] for first, second in pairwise(buckets))
    counted = [bucket["toggles"].get(FLAG, {"yes": 0, "no": 0, "variants": {}}) for bucket in buckets]
    assert sum(count["yes"] for count in counted) >= 1
    assert sum(count["no"] for count in counted) >= 1
    assert sum(count["yes"] for count in counted) == sum(
        count["variants"].get("polled", 0) for count in counted
    )
    assert not any("no-such-flag" in bucket["toggles"] for bucket in buckets)
    assert any("headgate.kill" in bucket["toggles"] for bucket in buckets)


async def test_counts_that_were_not_heard_are_told_later_and_nothing_else_depends_on_it(
    lines: Callable[[], list[str]],
) -> None:
    """A server that takes no reports still gives flags; what it did not take comes with the next report."""
    async with playing() as played:
        played.counts_status = b"500 Internal Server Error"
        async with flags_of(played, report_s=0.02) as flags:
            assert flags.evaluate(FLAG, ALICE) == ON
            await eventually(lambda: any("told of usage" in line for line in lines()))
            assert flags.problem is None
            played.counts_status = b"202 Accepted"
            await eventually(lambda: bool(played.of("metrics")))

    assert played.of("metrics")[0]["bucket"]["toggles"][FLAG] == {"yes": 1, "no": 0, "variants": {}}
    assert len([line for line in lines() if "told of usage" in line]) == 2  # that it was not heard, and was


async def test_the_last_counts_are_told_at_the_end() -> None:
    """Within a bound: a server that says nothing holds nobody up."""
    async with playing() as played:
        async with flags_of(played, report_s=3600) as flags:
            await eventually(lambda: bool(played.of("register")))
            flags.evaluate(FLAG, ALICE)
        assert played.of("metrics")[-1]["bucket"]["toggles"][FLAG]["yes"] == 1


async def test_a_report_that_is_cut_by_leaving_counts_as_told() -> None:
    """The server may have heard it: the last one begins where that one stopped, and repeats nothing of it."""
    async with playing() as played:
        played.counts_answered.clear()
        async with flags_of(played, report_s=3600) as flags:
            flags.evaluate(FLAG, ALICE)
            await eventually(lambda: bool(played.of("metrics")))
            flags.evaluate(FLAG, ALICE)
        cut, last = (told["bucket"] for told in played.of("metrics"))

    assert cut["stop"] <= last["start"]
    assert [bucket["toggles"][FLAG]["yes"] for bucket in (cut, last)] == [1, 1]


def test_counts_have_a_bound() -> None:
    """Of different answers; those that are counted already go on."""
    usage = Usage()
    usage.note("unknown", FlagAnswer(known=False, enabled=False))
    for number in range(MAX_COUNTS + 5):
        usage.note(f"flag-{number}", ON)
    usage.note("flag-0", ON)

    counts = usage.take()
    assert (len(counts), counts["flag-0", True, ""]) == (MAX_COUNTS, 2)
    assert "unknown" not in {flag for flag, _, _ in counts}
    assert not usage.take()


# Leaving


async def test_leaving_leaves_nothing_behind() -> None:
    """No task, no thread, no connection; and what is left over knows nothing and is stale."""
    async with playing(serves(feature(gradual()), feature(name="headgate.kill"))) as played:
        threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
        async with flags_of(played) as flags:
            await fetched_again(played)
            assert flags.killed

        assert set(threading.enumerate()) == threads
        await eventually(lambda: played.server.open == 0)
        await eventually(lambda: asyncio.all_tasks() <= tasks)
        assert (flags.stale, flags.killed) == (True, False)
        assert not flags.evaluate(FLAG, ALICE).known


@pytest.mark.parametrize("script", [GOOD, never], ids=["inside", "while it starts"])
async def test_cancellation_ends_the_asking(script: Script) -> None:
    """A task that is cancelled ends cancelled, wherever it is, and takes both loops with it."""
    async with playing(script) as played:

        async def serve() -> None:
            async with flags_of(played):
                await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        await eventually(lambda: len(played.server.asked) > 0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("headgate ")]


EVALUATING = """
import asyncio, sys
from flags.sources.unleash import UnleashFlags
from flags.sources.unleash_api import UnleashServer

async def evaluate():
    server = UnleashServer(sys.argv[1], "token")
    async with UnleashFlags(server, frozenset({"headgate.streaming"})) as flags:
        print(flags.evaluate("headgate.streaming", {"userId": "alice"}).enabled)

asyncio.run(evaluate())
"""


async def test_nothing_is_written_anywhere(tmp_path: Path) -> None:
    """A home that cannot be written to, as in a hardened container, is no obstacle, and no warning."""
    home = tmp_path / "home"
    home.write_text("not a directory: not even root can write below")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(home))

    async with playing() as played:
        command = [sys.executable, "-W", "error", "-B", "-c", EVALUATING, played.server.url]
        done = await anyio.run_process(command, env=os.environ | places)

    assert (done.stdout, done.stderr) == (b"True\n", b"")
    assert os.listdir(tmp_path) == ["home"]
