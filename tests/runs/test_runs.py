"""Runs: what may be said in which order, how a run ends, and how long it is kept. No sockets."""

import asyncio
import gc
import json
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.errors import UpstreamBroke, UpstreamError, UpstreamSilent
from proxy.identity import Identity
from proxy.observe.metrics import Metrics, RouteMetrics
from proxy.runs.call import Call, Continuation
from proxy.runs.run import Run
from proxy.runs.runs import Runs
from proxy.runs.start import RunSpec
from proxy.runs.texts import MAX_SECTION_EVENTS
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.settings.settings import MemoryLogSettings
from proxy.text.events import EventType
from proxy.text.sse import Decoder
from proxy.upstream.client import Answer, Request
from proxy.viewers.batch_viewer import PIECE_BYTES, send_answer
from tests.servers.client import eventually, texts
from tests.servers.streaming import EXTRACTION, SUMMARY, answer, logged, route

ANN = Identity("ann's", "ann")
BOB = Identity("bob's", "bob")
STREAM = Decision(Mode.STREAM, Arm.STREAM, "batch", Reason.FLAG_ON)
SENTENCE = "Error generating response: none"
JSON = [(b"content-type", b"application/json")]
numbers = count()


class Bench:
    """The parts of which a run is made."""

    def __init__(self, **more: Any) -> None:
        self.settings = RouteSettings.model_validate(route(**more))
        self.route = Route.compile(self.settings)
        self.registry = CollectorRegistry()
        self.metrics: RouteMetrics = Metrics(self.registry, [self.settings]).by_route["start"]

    def call(self, target: bytes = b"/api/cases/7/start", body: bytes = b"") -> Call:
        return Call(self.route, {"case_id": "7"}, Request("POST", target, [], body))

    def run(self, durations: tuple[float, ...] = (), decision: Decision = STREAM) -> Run:
        run = Run(self.call(), decision, ANN, self.metrics, deque(durations))
        run.begun()
        return run

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"headgate_{name}", {"route": "start", **labels}) or 0.0


def said(run: Run) -> list[dict[str, Any]]:
    wire = b""
    seen = 0
    while entries := run.log.after(seen):
        wire += b"".join(entry.wire for entry in entries)
        seen = entries[-1].seq
    return [
        {"id": event.id, **json.loads(event.data)} for event in Decoder(max_event_bytes=1 << 22).feed(wire)
    ]


def good(body: bytes) -> Answer:
    return Answer(200, JSON, body)


# Any order of calls


class AnyOrder(RuleBasedStateMachine):
    """Sources, the settling and the shutdown may call a run in any order; its log is always legal."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = Bench()
        self.run = self.within(self.bench.run)
        self.ended_with: list[dict[str, Any]] | None = None

    def within(self, call: Callable[[], Any]) -> Any:
        async def calling() -> Any:
            got = call()
            return await got if isinstance(got, Awaitable) else got

        return self.loop.run_until_complete(calling())

    section = st.integers(0, 1)
    text = st.sampled_from(["", "one", "one two three four", SENTENCE])

    @rule(index=section)
    def begin(self, index: int) -> None:
        self.within(lambda: self.run.begin(self.run.sections[index]))

    @rule(index=section, text=text)
    def show(self, index: int, text: str) -> None:
        shown = self.within(lambda: self.run.show(self.run.sections[index], text))
        assert shown is (text != SENTENCE)

    @rule()
    def lose_source(self) -> None:
        self.within(lambda: self.run.lose_source("a test"))

    @rule(
        status=st.sampled_from([200, 201, 302, 404, 500, 999]),
        extraction=text | st.none(),
        summary=text | st.none(),
        broken=st.booleans(),
    )
    def settle(self, status: int, extraction: str | None, summary: str | None, broken: bool) -> None:
        body = answer(extraction, summary)[: 5 if broken else None]
        self.within(lambda: self.run.settle(Answer(status, JSON, body)))
        assert self.run.ended

    @rule(error=st.sampled_from([UpstreamBroke("x"), UpstreamSilent("x")]))
    def fail(self, error: UpstreamError) -> None:
        self.within(lambda: self.run.fail(error))
        assert self.run.ended

    @rule()
    def shut_down(self) -> None:
        self.within(self.run.shut_down)
        assert self.run.ended

    @invariant()
    def legal(self) -> None:
        events = said(self.run)
        assert [event["id"] for event in events] == [f"{self.run.id}:{n + 1}" for n in range(len(events))]
        terminal = [event for event in events if event["type"] in {"stream_done", "error"}]
        assert terminal == (events[-1:] if self.run.ended else [])
        begun: set[str] = set()
        complete: set[str] = set()
        for event in events:
            stage = event["stage"]
            match event["type"]:
                case "stage_start":
                    assert stage not in begun
                    begun.add(stage)
                case "content_chunk":
                    assert stage in begun - complete
                    assert event["content"]
                case "content_replace":
                    assert stage in begun
                case "stage_complete":
                    assert stage in begun - complete
                    complete.add(stage)
                case "stream_done":
                    assert begun == complete
        assert SENTENCE not in texts(events).values()
        assert self.ended_with in (None, events)
        if self.run.ended:
            self.ended_with = events
            assert sum(self.outcomes().values()) == 1

    @invariant()
    def complete_from_the_authority(self) -> None:
        last = said(self.run)[-1:]
        if last and last[0]["type"] == "stream_done":
            result = json.loads(last[0]["metadata"]["result"])["result"]
            assert {k: v for k, v in texts(said(self.run)).items() if v or k in result} == result

    def outcomes(self) -> dict[str, float]:
        return {
            outcome: self.bench.sample("runs_total", arm="stream", source="batch", outcome=outcome)
            for outcome in ("complete", "recovered", "fell_back", "failed", "shutdown")
        }

    def teardown(self) -> None:
        self.loop.close()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=50, stateful_step_count=12, deadline=None)


# The authority


async def test_text_that_is_the_beginning_is_completed() -> None:
    """A section that was begun and not finished gets the rest from the batch answer."""
    bench = Bench()
    run = bench.run()
    run.begin(run.sections[0])

    await run.settle(good(answer()))

    assert texts(said(run)) == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert "content_replace" not in [event["type"] for event in said(run)]


async def test_text_that_differs_is_replaced_once() -> None:
    """The shown text is compared with the batch answer; a difference is one `content_replace`."""
    bench = Bench()
    run = bench.run()
    await run.show(run.sections[0], "an earlier draft")

    await run.settle(good(answer()))

    replaced = [event for event in said(run) if event["type"] == "content_replace"]
    assert [event["content"] for event in replaced] == [EXTRACTION]
    assert texts(said(run)) == {"extraction": EXTRACTION, "summary": SUMMARY}
    assert bench.sample("parity_total", result="replaced") == 1


async def test_text_that_the_answer_does_not_have_is_taken_back() -> None:
    """Nothing stays on the screen that the upstream did not store."""
    run = Bench().run()
    await run.show(run.sections[0], "gone")

    await run.settle(good(answer(extraction=None)))

    assert texts(said(run)) == {"extraction": "", "summary": SUMMARY}
    assert said(run)[-1]["type"] == "stream_done"


async def test_a_text_that_the_answer_lacks_is_counted_and_told_in_the_log() -> None:
    """Shown or not: the route promises it."""
    for shown in (False, True):
        bench = Bench()
        run = bench.run()
        if shown:
            run.begin(run.sections[0])
        with logged() as lines:
            await run.settle(good(answer(extraction=None)))

        assert bench.sample("parity_total", result="missing") == 1
        assert bench.sample("parity_total", result="equal") == 0
        [line] = lines("no text")
        assert (line["route"], line["stage"]) == ("start", "extraction")


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "needs_more_info"}',
        b'{"x": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"result": {"extraction": null, "summary": 7}}',
        rb'{"result": {"extraction": "\ud800", "summary": ["x"]}}',
        b'{"confidence": NaN}',
        b'{"confidence": 1e999}',
        b'{"id": %b}' % (b"7" * 5000),
        b"null",
        b"",
    ],
    ids=range(9),
)
async def test_an_answer_without_texts_is_an_answer(body: bytes) -> None:
    """It may ask for something: it ends as it came, and says which texts are absent. What was shown goes."""
    bench = Bench()
    run = bench.run()
    await run.show(run.sections[0], "gone")

    await run.settle(Answer(200, [(b"content-length", b"%d" % len(body))], body))

    end = said(run)[-1]
    assert texts(said(run)) == {"extraction": ""}
    assert end["type"] == "stream_done"
    assert end["metadata"]["result"] == body.decode()
    assert end["metadata"]["absent"] == ["extraction", "summary"]
    assert run.failure is None
    assert bench.sample("parity_total", result="missing") == 2


async def test_a_text_that_stands_nowhere_in_the_answer_stays() -> None:
    """A note whose answer is the id of a file: what was shown of it is all there is, and it is compared with
    nothing."""
    note = {"stage": "note", "panel": "chat"}
    bench = Bench(sections=[note], source="tap", tap={"calls": [note]})
    run = bench.run()
    run.stream(run.sections[0], "Seen today, and we")

    await run.settle(good(b'{"file": 7}'))

    assert texts(said(run)) == {"note": "Seen today, and we"}
    assert [event["type"] for event in said(run)[-2:]] == ["stage_complete", "stream_done"]
    assert "absent" not in said(run)[-1]["metadata"]
    assert bench.sample("parity_total", result="missing") == 0


async def test_json_that_ends_with_its_connection_too_early_is_no_answer() -> None:
    """Only its length could say that it is whole; passed on with a length it would look whole."""
    cut = answer()[:-3]
    framed = [(b"content-length", b"%d" % len(cut))]
    for headers, code in ((JSON, "truncated"), (JSON + framed, "malformed")):
        run = Bench().run()
        await run.settle(Answer(200, headers, cut))

        assert run.failure is not None
        assert run.failure.code == code
        assert (run.answer is None) == (code == "truncated")


async def test_a_byte_order_mark_is_ignored() -> None:
    """RFC 8259 8.1 lets a reader."""
    run = Bench().run()
    await run.settle(good(b"\xef\xbb\xbf" + answer()))

    assert texts(said(run)) == {"extraction": EXTRACTION, "summary": SUMMARY}


async def test_a_very_long_text_is_said_in_larger_chunks() -> None:
    """A megabyte in words of ten characters would hold up everybody; it is still the same text."""
    text = "fever and chills " * 60_000
    run = Bench().run()
    await run.settle(good(answer(text)))

    assert texts(said(run))["extraction"] == text
    assert len(run.log) < 1.5 * MAX_SECTION_EVENTS


async def test_equal_text_is_not_said_twice() -> None:
    """A section that was shown as the upstream stored it is left alone."""
    bench = Bench()
    run = bench.run()
    await run.show(run.sections[0], EXTRACTION)
    before = said(run)

    await run.settle(good(answer()))

    assert said(run)[: len(before)] == before
    assert {event["stage"] for event in said(run)[len(before) : -1]} == {"summary"}
    assert bench.sample("parity_total", result="equal") == 1


async def test_an_error_sentence_in_the_answer_keeps_what_was_shown() -> None:
    """The sentence is never shown, the other sections are, and the end says what happened."""
    run = Bench().run()
    run.begin(run.sections[0])

    await run.settle(good(answer(SENTENCE)))

    assert texts(said(run)) == {"extraction": "", "summary": SUMMARY}
    assert said(run)[-1]["metadata"]["error_code"] == "failure_text"


async def test_a_run_that_lost_its_source_is_recovered_or_fell_back() -> None:
    """With text on the screen it is recovered, without it fell back; both are complete."""
    for shown, outcome in ((True, "recovered"), (False, "fell_back")):
        bench = Bench()
        run = bench.run()
        if shown:
            await run.show(run.sections[0], EXTRACTION)
        run.lose_source("a test")

        await run.settle(good(answer()))

        assert said(run)[-1]["metadata"]["recovered"] is True
        assert bench.sample("runs_total", arm="stream", source="batch", outcome=outcome) == 1
        assert bench.sample("recoveries_total", fault="source_lost", result=outcome) == 1


async def test_what_comes_after_the_end_is_not_said() -> None:
    """A run that was ended for its viewers ignores what its call still brings, and counts nothing of it."""
    bench = Bench()
    run = bench.run()
    run.shut_down()
    before = said(run)

    await run.settle(good(answer("x", "y")))
    run.fail(UpstreamBroke("late"))
    run.lose_source("late")

    assert said(run) == before
    assert before[-1]["metadata"]["error_code"] == "shutdown"
    assert bench.sample("faults_total", fault="reset", phase="nothing") == 0
    assert bench.sample("parity_total", result="unshown") == 0


@pytest.mark.parametrize(
    ("reply", "settled"),
    [
        (good(answer()), "complete"),
        (Answer(404, JSON, b"{}"), "complete"),
        (good(answer(SENTENCE)), "failed"),
        (Answer(500, JSON, b"{}"), "failed"),
        (good(b"{"), "failed"),
    ],
)
async def test_arms_are_compared_by_the_same_measure(reply: Answer, settled: str) -> None:
    """A refusal is an answer for the relay, so it counts as one in the stream arm."""
    bench = Bench()
    run = bench.run()

    await run.settle(reply)

    bucket = str(ANN.bucket)
    assert bench.sample("outcomes_total", arm="stream", bucket=bucket, outcome=settled) == 1


async def test_a_run_of_the_batch_arm_is_said_in_one_piece() -> None:
    """Decided to get batch, a viewer that takes only events gets each section in one content event."""
    run = Bench().run(decision=Decision(Mode.BATCH, Arm.REST, "batch", Reason.FLAG_OFF))

    await run.settle(good(answer()))

    chunks = [event["content"] for event in said(run) if event["type"] == "content_chunk"]
    assert chunks == [EXTRACTION, SUMMARY]


# Progress


async def test_progress_is_honest() -> None:
    """From second 0: elapsed time and stages. No ETA without past runs, and none when it has run out."""
    for durations, eta in (((), None), ((0.0,), None), ((60.0, 50.0, 70.0), 60.0)):
        run = Bench(progress=True).run(durations)
        [first] = said(run)
        run.shut_down()

        assert first["type"] == "progress"
        assert first["metadata"].pop("eta_s", None) == eta
        assert first["metadata"] == {"elapsed_s": 0.0, "total_expected": 2}


async def test_progress_names_the_stage_and_goes_on_while_there_is_no_text() -> None:
    """It repeats within `progress_s` of silence, and stops at the end."""
    run = Bench(progress=True, progress_s=0.03).run()
    run.begin(run.sections[1])
    await eventually(lambda: len(run.log) >= 5)
    run.shut_down()
    events = said(run)
    loop = asyncio.get_running_loop()
    entries = run.log.after(0)

    assert [event["type"] for event in events[2:-1]] == ["progress"] * (len(events) - 3)
    assert {event["metadata"]["stage_index"] for event in events[2:-1]} == {1}
    assert loop.time() >= entries[-1].known_at
    ended = len(run.log)
    await asyncio.sleep(0.08)  # longer than two ticks: nothing may come
    assert len(run.log) == ended


async def test_no_progress_unless_the_route_asks_for_it() -> None:
    """An unchanged frontend is not surprised by events it does not know."""
    run = Bench().run()
    assert said(run) == []


# Those that another replica began


def begun_elsewhere(bench: Bench, *shown: str, complete: bool = False) -> Run:
    """A run whose first text was shown so far by another replica, in these pieces."""
    first = bench.run()
    for piece in shown:
        first.stream(first.sections[0], piece)
    if complete:
        first.finish(first.sections[0])
    first.shown.live._held_long_enough(first.shown)
    first.leave()
    run = Run(bench.call(), STREAM, ANN, bench.metrics, deque(), run_id=first.id)
    run.continue_from(Continuation(first.log, 1, 1, first.started_at, headers_sent=True))
    run.begun()
    return run


SAME = ["Fever ", "of ", "38.9 ", "and ", "a ", "cough "]


def replaced(run: Run) -> list[str]:
    return [event["content"] for event in said(run) if event["type"] == "content_replace"]


@pytest.mark.parametrize("complete", [False, True])
async def test_the_same_text_made_once_more_is_not_said_twice(complete: bool) -> None:
    """Its model says the same again: nothing until the place that was reached, then the rest."""
    bench = Bench()
    run = begun_elsewhere(bench, *SAME[:4], complete=complete)
    before = said(run)
    section = run.sections[0]
    run.withdraw(section)  # as before each attempt
    for piece in SAME[:3]:
        run.stream(section, piece)
    assert said(run) == before
    text = "".join(SAME[:4] if complete else SAME)
    for piece in SAME[3:]:
        run.stream(section, piece)
    run.finish(section)
    await run.settle(good(answer(text)))

    assert texts(said(run)) == {"extraction": text, "summary": SUMMARY}
    assert replaced(run) == []
    assert [event["id"].removeprefix(run.id) for event in said(run)] == [
        f"{'' if number <= len(before) else '.1'}:{number}" for number in range(1, len(said(run)) + 1)
    ]
    assert said(run)[-1]["metadata"]["recovered"]
    assert bench.sample("runs_total", arm="stream", source="batch", outcome="recovered") == 1
    assert bench.sample("faults_total", fault="reset", phase="content") == 1
    assert bench.sample("recoveries_total", fault="reset", result="recovered") == 1
    assert bench.sample("first_content_seconds_count", source="batch") == 1  # that of the other replica


async def test_a_text_that_is_another_one_now_is_replaced_once_and_then_goes_on() -> None:
    """At the word that differs; and an attempt that fails and is repeated begins from there."""
    bench = Bench()
    run = begun_elsewhere(bench, *SAME)
    section = run.sections[0]
    for piece in ("Fever ", "of "):
        run.stream(section, piece)
    run.withdraw(section)
    for piece in ("Fever ", "of 40 ", "and chills ", "since Monday. "):
        run.stream(section, piece)
    run.finish(section)
    await run.settle(good(answer("Fever of 40 and chills since Monday. ")))

    assert texts(said(run))["extraction"] == "Fever of 40 and chills since Monday. "
    assert replaced(run) == ["Fever of 40 "]
    assert bench.sample("parity_total", result="replaced") == 1


async def test_a_text_that_is_shorter_now_takes_the_place_of_the_longer() -> None:
    """Its source or the batch answer has to say that it is whole."""
    for by_source in (True, False):
        run = begun_elsewhere(Bench(), *SAME)
        for piece in SAME[:2]:
            run.stream(run.sections[0], piece)
        if by_source:
            run.finish(run.sections[0])
        await run.settle(good(answer("Fever of ")))

        assert texts(said(run))["extraction"] == "Fever of "
        assert replaced(run) == ["Fever of "]


async def test_a_run_that_is_another_replicas_says_and_counts_nothing() -> None:
    """The answer that its own upstream still gives is not used."""
    bench = Bench()
    run = bench.run()
    run.stream(run.sections[0], "Fever ")
    run.leave()
    before = said(run)
    run.stream(run.sections[0], "of 38.9 ")
    await run.show(run.sections[1], SUMMARY)
    await run.settle(good(answer()))
    run.shut_down()
    run.cancel()

    assert said(run) == before
    assert not bench.sample("runs_total", arm="stream", source="batch", outcome="complete")


# Those that are kept


class Gated:
    """A source that answers when told."""

    def __init__(self, reply: Answer | Exception) -> None:
        self.reply = reply
        self.go = asyncio.Event()
        self.calls = 0

    async def answer(self, run: Run) -> Answer:
        self.calls += 1
        await self.go.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


async def started(
    runs: Runs, bench: Bench, source: Gated, identity: Identity | None = ANN, **more: Any
) -> Run:
    """A run of its own: the target differs from that of any other."""
    call = more.pop("call", None) or bench.call(f"/api/cases/7/start?{next(numbers)}".encode())
    run = await runs.start(RunSpec(call, STREAM, identity, bench.metrics, source, **more))
    assert isinstance(run, Run)
    return run


async def finished(runs: Runs, bench: Bench, reply: bytes = answer()) -> Run:
    source = Gated(good(reply))
    source.go.set()
    before = len(runs.live_routes())
    run = await started(runs, bench, source)
    await eventually(lambda: run.ended and len(runs.live_routes()) == before)
    return run


async def test_kept_runs_have_a_bound_in_number() -> None:
    """The oldest finished run goes first; runs in flight do not count."""
    runs, bench = Runs(MemoryLogSettings(runs=2)), Bench()
    live = await started(runs, bench, Gated(good(b"{}")))
    kept = [await finished(runs, bench) for _ in range(4)]

    assert [runs.find(run.id, ANN) for run in kept] == [None, None, *kept[2:]]
    assert runs.find(live.id, ANN) is live
    assert runs.kept == 2
    await runs.aclose()


async def test_kept_runs_have_a_bound_in_bytes() -> None:
    """A run's log counts, and an answer that is kept for its own status."""
    bench = Bench(result=False)
    for reply in (answer("x" * 3000), b"[]" + b" " * 3000):
        runs = Runs(MemoryLogSettings.model_validate({"bytes": 1024}))
        run = await finished(runs, bench, reply)
        assert run.size_bytes > 1024
        assert runs.kept == 0
        assert runs.find(run.id, ANN) is None
    runs = Runs(MemoryLogSettings.model_validate({"bytes": 1024 * 1024}))
    run = await finished(runs, bench, answer())
    assert runs.find(run.id, ANN) is run


async def test_a_kept_run_takes_as_much_memory_as_it_counts_for() -> None:
    """Its text is there as the log has it, and in the answer, and in no third place."""
    runs, text = Runs(MemoryLogSettings()), "word " * 200_000
    await finished(runs, Bench())  # what is made once is made now
    bench, reply = Bench(result=False), answer(text)
    gc.collect()
    tracemalloc.start()
    try:
        run = await finished(runs, bench, reply)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # The answer's bytes are the test's own, and were there before.
    counted = run.size_bytes - len(reply)
    assert len(text) < counted < taken < counted + len(text) / 2


async def test_kept_runs_have_a_bound_in_time() -> None:
    """After `ttl_s` a run is forgotten."""
    runs = Runs(MemoryLogSettings(ttl_s=0.05))
    run = await finished(runs, Bench())
    assert runs.find(run.id, ANN) is run

    def forgotten() -> bool:
        runs.evict()
        return runs.kept == 0

    await eventually(forgotten)
    assert runs.find(run.id, ANN) is None


async def test_a_run_belongs_to_its_principal() -> None:
    """For anybody else, and for nobody in particular, there is no such run."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    source = Gated(good(b"{}"))
    run = await started(runs, bench, source, call=bench.call())

    assert runs.find(run.id, ANN) is run
    assert runs.find(run.id, BOB) is None
    assert runs.find(run.id, None) is None
    assert runs.live_one(bench.call(), ANN) is run
    assert runs.live_one(bench.call(), BOB) is None
    assert runs.live_one(bench.call(target=b"/api/cases/8/start"), ANN) is None
    run.shut_down()
    assert runs.live_one(bench.call(), ANN) is None
    await runs.aclose()


async def test_an_unexpected_error_still_ends_the_run() -> None:
    """A mistake of ours is logged without what the user wrote, and the viewers are told."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    source = Gated(ZeroDivisionError("oh"))
    with logged() as lines:
        run = await started(runs, bench, source)
        source.go.set()
        await eventually(lambda: run.ended)

    assert said(run)[-1]["metadata"]["error_code"] == "internal"
    [line] = lines("run failed")
    assert line["level"] == "error"


async def test_a_finished_run_keeps_nothing_of_its_client() -> None:
    """Its text is kept for reconnects: not the credentials, nor the body, that it was asked with."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    source = Gated(good(answer()))
    call = replace(
        bench.call(body=b"secret"), request=Request("POST", b"/x", [(b"cookie", b"s=1")], b"secret")
    )
    run = await started(runs, bench, source, call=call)
    assert run.size_bytes >= len(b"secret")
    source.go.set()
    await eventually(lambda: runs.kept == 1)

    assert run.call.request == Request("POST", b"/x", [])


async def test_a_run_of_nobody_is_found_by_nobody() -> None:
    """All that are nobody in particular would share it."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    run = await started(runs, bench, Gated(good(answer())), identity=None)

    assert runs.find(run.id, None) is None
    await runs.aclose()


async def test_settling_waits_for_runs_that_nobody_watches() -> None:
    """The upstream's work has effects; but no longer than it is told to."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    source = Gated(good(answer()))
    run = await started(runs, bench, source)
    await runs.settled(0.01)
    assert not run.ended
    asyncio.get_running_loop().call_later(0.02, source.go.set)

    await runs.settled(5)

    assert said(run)[-1]["type"] == "stream_done"


async def test_closing_ends_every_run_truthfully() -> None:
    """Viewers that still read are told `shutdown`, and the call is given up."""
    runs, bench = Runs(MemoryLogSettings()), Bench()
    ours = [await started(runs, bench, Gated(good(b"{}"))) for _ in range(3)]
    await asyncio.sleep(0)

    with logged() as lines:
        await runs.aclose()

    for run in ours:
        assert [event["type"] for event in said(run)] == ["error"]
        assert said(run)[-1]["metadata"]["error_code"] == "shutdown"
        assert said(run)[-1]["metadata"]["retry_available"] is True
    assert runs.live_routes() == []
    assert bench.sample("runs_total", arm="stream", source="batch", outcome="shutdown") == 3
    assert not [line for line in lines.lines if line["level"] == "error"]


async def test_an_eta_comes_from_past_runs_of_the_route() -> None:
    """The second run of a route knows how long the first took; a failed one teaches nothing."""
    runs, bench = Runs(MemoryLogSettings()), Bench(progress=True)
    broken = Gated(UpstreamBroke("x"))
    broken.go.set()
    failed = await started(runs, bench, broken)
    await eventually(lambda: failed.ended)
    slow = Gated(good(answer()))
    first = await started(runs, bench, slow)
    assert "eta_s" not in said(first)[0]["metadata"]
    await asyncio.sleep(0.16)  # a run of that length
    slow.go.set()
    await eventually(lambda: first.ended)
    second = await started(runs, bench, Gated(good(answer())))

    assert said(second)[0]["metadata"]["eta_s"] >= 0.1
    assert said(second)[0]["type"] == EventType.PROGRESS
    await runs.aclose()


async def test_a_large_answer_goes_out_in_pieces() -> None:
    """A client that takes its time takes one after the other; of one piece it would seem to take nothing."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    for size in (0, PIECE_BYTES, 3 * PIECE_BYTES + 1):
        sent.clear()
        ended = cast(Run, SimpleNamespace(id="r", answer=Answer(200, [], bytes(size)), failure=None))
        assert await send_answer(ended, send) == 200
        bodies = [message for message in sent if message["type"] == "http.response.body"]

        assert sum(len(message["body"]) for message in bodies) == size
        assert max(len(message["body"]) for message in bodies) <= PIECE_BYTES
        assert [message["more_body"] for message in bodies] == [True] * (len(bodies) - 1) + [False]
