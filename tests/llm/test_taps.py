"""The place of each model call's text: in order, by patterns, once more, and no more."""

import asyncio
import json
from typing import Any

import pytest

from proxy.http.tracing import TraceId, with_token
from proxy.llm.assembly.dialect import Prompt
from proxy.llm.taps import open_taps
from proxy.llm.taps.expected_calls import ExpectedCall, compile_calls
from proxy.llm.taps.open_taps import EARLY_S, Taps
from proxy.llm.taps.tap import MAX_CALLS, Tap
from proxy.settings.blocks.sources import TapSettings
from proxy.text.sections import Section
from tests.servers.client import PATIENCE_S, eventually

SECTIONS = [Section.compile(stage, "reasoning", f"$.{stage}") for stage in ("one", "two", "three")]
ANY = Prompt("some-model", "")


class Shown:
    """Takes a tap's text, as a run does."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def stream(self, section: Section, piece: str) -> None:
        self.said.append((section.stage, piece))

    def finish(self, section: Section) -> None:
        self.said.append((section.stage, "finish", ""))

    def withdraw(self, section: Section) -> None:
        self.said.append((section.stage, "withdraw", ""))


def expected(*calls: dict[str, Any]) -> tuple[ExpectedCall, ...]:
    return compile_calls(TapSettings.model_validate({"calls": list(calls)}), SECTIONS)


IN_ORDER = expected({"stage": "one"}, {}, {"stage": "three"})


async def test_calls_are_the_expected_ones_in_order():
    """One that the route names without a stage is shown nowhere, and counts."""
    shown = Shown()
    tap = Tap(shown, IN_ORDER)
    for number in range(4):
        call = await tap.begin(b"%d" % number, ANY)
        call.add(f"text {number}")
        await call.finish()

    assert shown.said == [
        ("one", "text 0"),
        ("one", "finish", ""),
        ("three", "text 2"),
        ("three", "finish", ""),
    ]
    assert tap.calls == 4


async def test_a_repeated_call_stays_the_same_expected_one():
    """An SDK repeats what failed with the same body: what was shown is withdrawn, and no later call
    shifts."""
    shown = Shown()
    tap = Tap(shown, IN_ORDER)
    first = await tap.begin(b"a", ANY)
    first.add("half ")
    await first.fail()
    again = await tap.begin(b"a", ANY)
    again.add("whole")
    await again.finish()
    await tap.begin(b"b", ANY)
    (await tap.begin(b"c", ANY)).add("third")

    assert shown.said == [
        ("one", "half "),
        ("one", "withdraw", ""),
        ("one", "withdraw", ""),
        ("one", "whole"),
        ("one", "finish", ""),
        ("three", "third"),
    ]


async def test_an_attempt_that_was_given_up_shows_nothing_more():
    """An SDK that has waited long enough asks again, while the first answer is still under way."""
    shown = Shown()
    tap = Tap(shown, IN_ORDER)
    slow = await tap.begin(b"a", ANY)
    slow.add("slow")
    quick = await tap.begin(b"a", ANY)
    slow.add(" late")
    quick.add("quick")
    await slow.fail()

    assert shown.said == [("one", "slow"), ("one", "withdraw", ""), ("one", "quick")]


async def test_patterns_name_calls_that_come_in_no_order():
    """By the model and by the system prompt; each expected call comes once."""
    tap = Tap(
        shown := Shown(),
        expected(
            {"stage": "one", "model": "^small"},
            {"stage": "two", "system": "summar(y|ise)"},
            {"stage": "three", "model": "^small", "system": "plan"},
        ),
    )
    (await tap.begin(b"1", Prompt("large", "You summarise."))).add("two")
    (await tap.begin(b"2", Prompt("small-1", "You plan."))).add("one: it is the first that fits")
    (await tap.begin(b"3", Prompt("small-1", "You plan."))).add("three")
    (await tap.begin(b"4", Prompt("large", "You plan."))).add("nowhere")

    assert [stage for stage, *_ in shown.said] == ["two", "one", "three"]


async def test_more_different_calls_than_the_bound_are_shown_nowhere():
    """Nothing grows with what an upstream calls."""
    tap = Tap(shown := Shown(), IN_ORDER)
    for number in range(MAX_CALLS + 10):
        await tap.begin(b"%d" % number, ANY)
    (await tap.begin(b"0", ANY)).add("the first one is still known")

    assert shown.said == [("one", "withdraw", ""), ("one", "the first one is still known")]


async def test_a_token_is_good_for_as_long_as_the_upstream_works():
    """Forged, replayed or finished it finds nothing, and what a call still has to say then is not shown."""
    taps = Taps({"route": IN_ORDER}, 60)
    shown = Shown()
    async with taps.open(shown, "route") as (tap, token):
        assert await taps.find(token) is tap
        assert await taps.find(token[:-1] + ("a" if token[-1] != "a" else "b")) is None
        call = await tap.begin(b"a", ANY)
    call.add("too late")
    await call.finish()

    assert await taps.find(token) is None
    assert len(taps) == 0
    assert shown.said == []


async def test_tokens_are_unguessable_and_each_is_new():
    """192 random bits."""
    taps = Taps({"route": IN_ORDER}, 60)
    tokens = set()
    for _ in range(100):
        async with taps.open(Shown(), "route") as (_, token):
            tokens.add(token)

    assert len(tokens) == 100
    assert all(len(token) == 32 for token in tokens)


class Replicas:
    """Two `Taps` and what they share: messages arrive in order, or are lost."""

    def __init__(
        self, calls: tuple[ExpectedCall, ...] = IN_ORDER, by_trace_id: frozenset[str] = frozenset()
    ) -> None:
        self.stored: dict[str, str] = {}
        self.owner = Taps({"route": calls}, 60, self, by_trace_id)
        self.other = Taps({"route": calls}, 60, self, by_trace_id)
        self.loses = False
        self.messages = 0
        self.calls = 0
        self.stores = asyncio.Event()
        self.stores.set()

    def is_near(self, token: str, principal: str | None) -> bool:
        return True

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        if self.loses:
            return False
        await self.stores.wait()
        self.stored[token] = route
        return True

    async def drop_tap(self, token: str) -> None:
        self.stored.pop(token, None)

    async def find_tap(self, token: str) -> tuple[str, str] | None:
        return ("owner", self.stored[token]) if token in self.stored else None

    async def count_call(self, token: str) -> int | None:
        self.calls += 1
        return None if self.loses else self.calls

    async def tell(self, replica: str, said: dict[str, Any]) -> None:
        self.messages += 1
        if not self.loses:
            self.owner.receive(json.loads(json.dumps(said))["taps"])


async def test_a_call_at_another_replica_is_shown_at_the_runs_own():
    """In order, in few messages, and all of it is there before the call has its answer."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        found = await replicas.other.find(token)
        assert found is not None
        call = await found.begin(b"a", ANY)
        for word in ("a ", "few ", "words"):
            call.add(word)
        await call.finish()
        half = await found.begin(b"b", ANY)
        await half.fail()

    assert shown.said == [("one", "a "), ("one", "few "), ("one", "words"), ("one", "finish", "")]
    assert replicas.messages == 2
    assert replicas.stored == {}
    assert await replicas.other.find(token) is None


async def test_a_call_at_another_replica_is_found_by_its_trace_id():
    """The run's own replica would find the same; a trace id that was never given finds nothing."""
    replicas, shown = Replicas(by_trace_id=frozenset({"route"})), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        headers = with_token([], token)
        [carried] = replicas.other.tokens_of([pair for pair in headers if pair[0] == b"traceparent"])
        found = await replicas.other.find(carried)
        assert found is not None and carried == token
        call = await found.begin(b"a", ANY)
        call.add("words")
        await call.finish()
        assert await replicas.other.find(TraceId.random()) is None

    assert shown.said == [("one", "words"), ("one", "finish", "")]
    assert await replicas.other.find(token) is None


def test_without_such_a_route_trace_ids_are_not_looked_up():
    """No store is asked for the trace of each call."""
    headers = with_token([], TraceId.random())

    assert Taps({"route": IN_ORDER}, 60).tokens_of(headers) == []


async def test_a_tools_arguments_go_to_the_runs_own_replica_if_their_text_is_shown():
    """Nothing of them travels for a call whose entry names no path."""
    for call_settings, texts in (({"at": "$.a"}, ["te", "xt"]), ({}, [])):
        replicas, shown = Replicas(expected({"stage": "one"} | call_settings)), Shown()
        async with replicas.owner.open(shown, "route") as (_, token):
            found = await replicas.other.find(token)
            assert found is not None
            call = await found.begin(b"a", ANY)
            for piece in ('{"a": "te', 'xt", "b', '": 1}'):
                call.add_arguments(piece)
            await call.finish()

        assert shown.said == [*(("one", text) for text in texts), ("one", "finish", "")]


async def test_what_nobody_is_shown_waits_for_no_store():
    """Dark mode: the user's call goes out at once. The store is told all the same, and forgets it last."""
    replicas = Replicas()
    replicas.stores.clear()
    async with (
        asyncio.timeout(PATIENCE_S),
        replicas.owner.open(Shown(), "route", waits=False) as (_, token),
    ):
        assert replicas.stored == {}
        replicas.stores.set()
        await eventually(lambda: token in replicas.stored)
    assert replicas.stored == {}

    replicas.stores.clear()
    async with replicas.owner.open(Shown(), "route", waits=False):
        asyncio.get_running_loop().call_soon(replicas.stores.set)
    assert replicas.stored == {}


@pytest.mark.parametrize(("is_late", "compared"), [(False, ["one"]), (True, [])])
async def test_a_dark_tap_that_is_stored_late_compares_no_call(
    is_late: bool, compared: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Its first call may have come to a replica that could not find it: the second is not taken for it."""
    if not is_late:
        monkeypatch.setattr(open_taps, "EARLY_S", PATIENCE_S)  # or a machine that halts makes it late
    replicas, shown, loop = Replicas(), Shown(), asyncio.get_running_loop()
    replicas.stores.clear()
    due = loop.time() + 2 * EARLY_S
    async with replicas.owner.open(shown, "route", waits=False) as (_, token):
        await eventually(lambda: not is_late or loop.time() > due)
        replicas.stores.set()
        await eventually(lambda: token in replicas.stored)
        found = await replicas.other.find(token)
        assert found is not None
        call = await found.begin(b"b", ANY)
        call.add("of which stage?")
        await call.finish()

    assert [stage for stage, *_, text in shown.said if text] == compared


async def test_text_after_a_gap_is_not_shown():
    """The text shown so far stays a prefix of the whole: the batch answer has the rest."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        found = await replicas.other.find(token)
        assert found is not None
        call = await found.begin(b"a", ANY)
        await call.send("text", "one ").wait()
        replicas.loses = True
        await call.send("text", "two ").wait()
        replicas.loses = False
        call.add("three")
        await call.finish()

    assert shown.said == [("one", "one ")]


async def test_after_a_call_that_was_missed_no_further_one_is_shown():
    """It would take the stage of the one before it. What was shown stays, and the answer has the rest."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (tap, _):
        (await tap.begin(b"a", ANY)).add("first")
        replicas.calls += 1  # one that a replica could not find the tap for, and counted later
        second = await tap.begin(b"b", ANY)
        third = await tap.begin(b"c", ANY)
        for call in (second, third):
            call.add("of which stage?")
            await call.finish()

    assert shown.said == [("one", "first")]


async def test_a_tap_that_others_could_find_only_later_shows_no_call():
    """The first call may have come to a replica that did not find it: the second would be taken for it."""
    replicas, shown = Replicas(), Shown()
    replicas.loses = True
    async with replicas.owner.open(shown, "route") as (_, token):
        replicas.loses = False
        assert await replicas.other.find(token) is None  # the first call, which is not counted
        replicas.stored[token] = "route"  # the store was slow
        found = await replicas.other.find(token)
        assert found is not None
        second = await found.begin(b"b", ANY)
        second.add("of which stage?")
        await second.finish()

    assert shown.said == []


async def test_a_call_whose_number_is_not_known_is_not_shown():
    """The store is down: nobody can say how many calls other replicas had."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (tap, _):
        replicas.loses = True
        (await tap.begin(b"a", ANY)).add("first or second?")
        replicas.loses = False
        (await tap.begin(b"b", ANY)).add("second or third?")

    assert shown.said == []


async def test_a_call_waits_for_word_of_the_one_before_it():
    """Both were counted in order; what another replica says of the first may be on its way still."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (tap, token):
        found = await replicas.other.find(token)
        assert found is not None
        await found.begin(b"a", ANY)  # its message is gathered with others for a while
        (await tap.begin(b"b", ANY)).add("shown nowhere, as the route says")
        (await tap.begin(b"c", ANY)).add("third")

    assert shown.said == [("three", "third")]
