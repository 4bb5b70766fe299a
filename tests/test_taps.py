"""Which model call shows its text where: in order, by patterns, once more, and no more."""

import json
from typing import Any

import pytest

from proxy.llm.dialect import Prompt
from proxy.llm.places import CallPlace, compile_calls
from proxy.remote_taps import StoreSilent
from proxy.sections import Section
from proxy.settings import TapSettings
from proxy.taps import MAX_CALLS, OpenTap, Tap, Taps

pytestmark = pytest.mark.anyio

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


def places(*calls: dict[str, Any]) -> tuple[CallPlace, ...]:
    return compile_calls(TapSettings.model_validate({"calls": list(calls)}), SECTIONS)


IN_ORDER = places({"stage": "one"}, {}, {"stage": "three"})


async def test_calls_take_their_places_in_order():
    """One that the route names without a stage is shown nowhere, and counts."""
    shown = Shown()
    tap = Tap(shown, IN_ORDER)
    for number in range(4):
        call = tap.begin(b"%d" % number, ANY)
        call.add(f"text {number}")
        await call.finish()

    assert shown.said == [
        ("one", "text 0"),
        ("one", "finish", ""),
        ("three", "text 2"),
        ("three", "finish", ""),
    ]
    assert tap.calls == 4


async def test_the_same_call_again_keeps_its_place():
    """An SDK repeats what failed with the same body: what was shown is withdrawn, no place shifts."""
    shown = Shown()
    tap = Tap(shown, IN_ORDER)
    first = tap.begin(b"a", ANY)
    first.add("half ")
    await first.fail()
    again = tap.begin(b"a", ANY)
    again.add("whole")
    await again.finish()
    tap.begin(b"b", ANY)
    tap.begin(b"c", ANY).add("third")

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
    slow = tap.begin(b"a", ANY)
    slow.add("slow")
    quick = tap.begin(b"a", ANY)
    slow.add(" late")
    quick.add("quick")
    await slow.fail()

    assert shown.said == [("one", "slow"), ("one", "withdraw", ""), ("one", "quick")]


async def test_patterns_name_calls_that_come_in_no_order():
    """By the model and by the system prompt; each place is taken once."""
    tap = Tap(
        shown := Shown(),
        places(
            {"stage": "one", "model": "^small"},
            {"stage": "two", "system": "summar(y|ise)"},
            {"stage": "three", "model": "^small", "system": "plan"},
        ),
    )
    tap.begin(b"1", Prompt("large", "You summarise.")).add("two")
    tap.begin(b"2", Prompt("small-1", "You plan.")).add("one: it is the first that fits")
    tap.begin(b"3", Prompt("small-1", "You plan.")).add("three")
    tap.begin(b"4", Prompt("large", "You plan.")).add("nowhere")

    assert [stage for stage, *_ in shown.said] == ["two", "one", "three"]


async def test_more_different_calls_than_the_bound_are_shown_nowhere():
    """Nothing grows with what an upstream calls."""
    tap = Tap(shown := Shown(), IN_ORDER)
    for number in range(MAX_CALLS + 10):
        tap.begin(b"%d" % number, ANY)
    tap.begin(b"0", ANY).add("the first one is still known")

    assert shown.said == [("one", "withdraw", ""), ("one", "the first one is still known")]


async def test_a_token_is_good_for_as_long_as_the_upstream_works():
    """Forged, replayed or finished it finds nothing, and what a call still has to say then is not shown."""
    taps = Taps({"route": IN_ORDER}, 60)
    shown = Shown()
    async with taps.open(shown, "route") as (tap, token):
        assert await taps.find(token) is tap
        assert await taps.find(token[:-1] + ("a" if token[-1] != "a" else "b")) is None
        call = tap.begin(b"a", ANY)
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

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}
        self.owner = Taps({"route": IN_ORDER}, 60, self)
        self.other = Taps({"route": IN_ORDER}, 60, self)
        self.loses = False
        self.silences = 0
        self.messages = 0

    async def put_tap(self, token: str, route: str, ttl_s: float) -> bool:
        self.stored[token] = route
        return not self.loses

    async def drop_tap(self, token: str) -> None:
        del self.stored[token]

    async def find_tap(self, token: str) -> tuple[str, str] | None:
        if self.loses:
            raise StoreSilent
        return ("owner", self.stored[token]) if token in self.stored else None

    async def tell(self, replica: str, said: dict[str, Any]) -> bool:
        self.messages += 1
        if not self.loses:
            self.owner.hear(json.loads(json.dumps(said))["taps"])
        return not self.loses

    async def found(self, token: str) -> OpenTap:
        found = await self.other.find(token)
        assert found is not None
        return found

    async def heard_once(self) -> None:
        """The model port of the other one has had a call of a run before."""
        async with self.owner.open(Shown(), "route") as (_, token):
            await (await self.found(token)).begin(b"", ANY).finish()


async def test_a_call_at_another_replica_is_shown_at_the_runs_own():
    """In order, in few messages, and all of it is there before the call has its answer."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        found = await replicas.other.find(token)
        assert found is not None
        call = found.begin(b"a", ANY)
        for word in ("a ", "few ", "words"):
            call.add(word)
        await call.finish()
        half = found.begin(b"b", ANY)
        await half.fail()

    assert shown.said == [("one", "a "), ("one", "few "), ("one", "words"), ("one", "finish", "")]
    assert replicas.messages == 2
    assert replicas.stored == {}
    assert await replicas.other.find(token) is None


async def test_text_after_a_gap_is_not_shown():
    """What is shown stays a beginning of the text: the batch answer has the rest."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        found = await replicas.other.find(token)
        assert found is not None
        call = found.begin(b"a", ANY)
        await call.say("text", "one ").wait()
        replicas.loses = True
        await call.say("text", "two ").wait()
        replicas.loses = False
        call.add("three")
        await call.finish()

    assert shown.said == [("one", "one ")]


async def test_after_a_call_that_its_run_never_heard_of_no_text_comes_to_another_stage():
    """Its message is lost: the next call, wherever it comes, would take its place."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (tap, token):
        found = await replicas.found(token)
        replicas.loses = True
        await found.begin(b"a", ANY).finish()
        replicas.loses = False
        second = (await replicas.found(token)).begin(b"b", ANY)
        second.add("of another stage")
        await second.finish()
        tap.begin(b"c", ANY).add("nor here")

    assert shown.said == []


async def test_after_a_call_whose_run_could_not_be_found_no_text_comes_to_another_stage():
    """It was passed on untouched, and the store is back."""
    replicas, shown = Replicas(), Shown()
    async with replicas.owner.open(shown, "route") as (_, token):
        replicas.loses = True
        assert await replicas.other.find(token) is None
        replicas.loses = False
        second = (await replicas.found(token)).begin(b"b", ANY)
        second.add("of another stage")
        await second.finish()

    assert shown.said == []


async def test_while_the_store_is_silent_calls_keep_the_place_they_have_and_get_none():
    """Others may have come to other replicas meanwhile."""
    replicas, shown = Replicas(), Shown()
    await replicas.heard_once()
    async with replicas.owner.open(shown, "route") as (tap, token):
        first = tap.begin(b"a", ANY)
        replicas.silences += 1
        first.add("goes on")
        found = await replicas.owner.find(token)
        assert found is tap
        tap.begin(b"c", ANY).add("of a later stage")
        tap.begin(b"a", ANY).add("once more")

    assert shown.said == [("one", "goes on"), ("one", "withdraw", ""), ("one", "once more")]


async def test_a_run_that_begins_while_the_store_is_silent_is_shown_by_none():
    replicas, shown = Replicas(), Shown()
    await replicas.heard_once()
    replicas.loses = True
    async with replicas.owner.open(shown, "route") as (_, token):
        found = await replicas.owner.find(token)
        assert found is not None
        found.begin(b"b", ANY)
        await found.begin(b"b", ANY).finish()

    assert shown.said == []


async def test_who_has_all_calls_is_not_troubled_by_a_silent_store():
    """As far as is known: no call of its runs ever came to another replica."""
    replicas, shown = Replicas(), Shown()
    replicas.loses = True
    async with replicas.owner.open(shown, "route") as (tap, token):
        replicas.silences += 1
        assert await replicas.owner.find(token) is tap
        tap.begin(b"a", ANY).add("shown")

    assert shown.said == [("one", "shown")]
