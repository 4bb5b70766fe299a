"""The outcomes of requests: the same measure for all arms, however an answer travels."""

import asyncio
import gzip
from collections import deque
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.errors import UpstreamBusy
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.relay.answer_copy import SHORT_BYTES, AnswerCopy
from proxy.relay.outcomes import RelayedOutcomes, is_read
from proxy.relay.result import Outcome, RelayResult
from proxy.relay.sinks import PassingSink
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from proxy.upstream.client import Answer, Request
from tests.servers.streaming import answer, route

SENTENCE = "Error generating response: none"
JSON = [(b"content-type", b"application/json")]
STREAM = Decision(Mode.STREAM, Arm.STREAM, "batch", Reason.FLAG_ON)
ANN = Identity("ann's", "ann")


BODIES = {
    "good": answer(),
    "no extraction": answer(None),
    "no text": b"{}",
    "a sentence": answer(SENTENCE),
    "not JSON": b"<html>",
    "half": answer()[:-9],
    "empty": b"",
}


class Client(PassingSink):
    """Takes what goes out."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def answer(self, status: int, reason: bytes, headers: Any, body: bytes, *, last: bool) -> None:
        self.sent.append(body)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        self.sent.append(body)


async def relayed(status: int, body: bytes, headers: Any = (), max_bytes: int = 1 << 20) -> AnswerCopy:
    """A copy of an answer that went out in two pieces."""
    client = Client()
    copy = AnswerCopy(client, max_bytes)
    copy.answer(status, b"", [*JSON, *headers], body[:10], last=False)
    copy.answer_more(body[10:], last=True)
    assert client.sent == [body[:10], body[10:]]
    return copy


def a_run(asked_at: float | None = None) -> tuple[Run, CollectorRegistry]:
    settings = RouteSettings.model_validate(route())
    registry = CollectorRegistry()
    metrics = Metrics(registry, [settings]).by_route["start"]
    call = Call(Route.compile(settings), {}, Request("POST", b"/", [], b""), asked_at)
    run = Run(call, STREAM, ANN, metrics, deque())
    run.begun()
    return run, registry


async def test_a_run_has_taken_as_long_as_its_request() -> None:
    """A relayed answer's time has its request's body in it, so a run's has too."""
    run, registry = a_run(asked_at=asyncio.get_running_loop().time() - 7)

    await run.settle(Answer(200, JSON, answer()))

    found = registry.get_sample_value("headgate_settled_seconds_sum", {"route": "start", "arm": "stream"})
    assert found == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize("status", [200, 201, 204, 302, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("what", BODIES)
async def test_an_answer_comes_to_the_same_in_a_run_and_relayed(status: int, what: str) -> None:
    """Arms are compared by it: whatever the upstream says, it is as good or as bad however it travels."""
    body = BODIES[what]
    run, registry = a_run()

    await run.settle(Answer(status, JSON, body))
    copy = await relayed(status, body)
    outcome = await RelayedOutcomes(run.route).of(RelayResult(status=status), copy)

    assert counted(registry) == ([] if outcome is None else [outcome])
    assert (outcome is None) == (status in {401, 403})
    judged = RelayedOutcomes(run.route)
    if judged.needs_body(RelayResult(status=status), copy):
        assert judged.of_short(RelayResult(status=status), copy) == outcome, "read at once, it is the same"


@pytest.mark.parametrize(
    ("arm", "share", "left_out", "read"),
    [
        (Arm.STREAM, 5, False, True),
        (Arm.CONTROL, 5, False, True),
        (Arm.REST, 5, False, True),
        (Arm.REST, 5, True, False),
        (Arm.REST, 0, False, False),
        (Arm.REST, None, False, False),
    ],
)
def test_whoever_may_be_drawn_is_measured_alike(
    arm: Arm, share: int | None, left_out: bool, read: bool
) -> None:
    """Also the rest, while the flag draws: error sentences must not be seen only of those who were drawn."""
    decision = Decision(Mode.BATCH, arm, "batch", Reason.FLAG_OFF, share=share, left_out=left_out)

    assert is_read(decision) is read


def counted(registry: CollectorRegistry) -> list[str]:
    """Outcomes that one request was counted as, in any arm and bucket."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    counts = [sample for sample in samples if sample.name == "headgate_outcomes_total" and sample.value]
    assert all(sample.value == 1 for sample in counts)
    return [sample.labels["outcome"] for sample in counts]


async def test_a_bound_of_ours_counts_for_nobody() -> None:
    """Else a client that opens many connections could make an arm, and so a rollout, fail."""
    run, registry = a_run()
    run.fail(UpstreamBusy("all are in use"))
    result = RelayResult(Outcome.FAILED, 503, error=UpstreamBusy("all are in use"))

    assert counted(registry) == []
    assert await RelayedOutcomes(run.route).of(result, await relayed(503, b"")) is None


@pytest.mark.parametrize(("status", "users"), [(200, 1), (404, 1), (401, 0), (403, 0)])
async def test_who_is_not_let_in_is_no_user(status: int, users: int) -> None:
    """A rollout waits for so many different users: names that were made up are none."""
    run, registry = a_run()

    await run.settle(Answer(status, JSON, answer()))

    labels = {"route": "start", "arm": "stream"}
    assert registry.get_sample_value("headgate_users", labels) == users


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (RelayResult(Outcome.FAILED, 502), "failed"),
        (RelayResult(Outcome.FAILED, 504), "failed"),
        (RelayResult(Outcome.TRUNCATED, 200), "truncated"),
        (RelayResult(Outcome.CLIENT_LEFT, 200), "client_left"),
        (RelayResult(Outcome.REFUSED, 400), None),
        (RelayResult(Outcome.TRUNCATED, 401), None),
        (RelayResult(Outcome.CLIENT_LEFT, 403), None),
    ],
)
async def test_a_relay_that_did_not_end_well_says_how(result: RelayResult, outcome: str | None) -> None:
    """A part of a body is no answer, so it is not read."""
    judged = RelayedOutcomes(Route.compile(RouteSettings.model_validate(route())))

    assert await judged.of(result, await relayed(200, b"")) == outcome


@pytest.mark.parametrize(
    ("headers", "body", "outcome", "warnings"),
    [
        ([(b"content-encoding", b"gzip")], gzip.compress(answer(SENTENCE)), "failed", 0),
        ([(b"content-encoding", b"identity")], answer(SENTENCE), "failed", 0),
        ([(b"content-encoding", b"br")], answer(SENTENCE), "complete", 1),
        ([], answer(SENTENCE + "x" * 3000), "complete", 0),
    ],
    ids=["gzip", "identity", "br", "too long"],
)
async def test_what_cannot_be_read_counts_as_complete_and_is_said_once(
    caplog: pytest.LogCaptureFixture, headers: Any, body: bytes, outcome: str, warnings: int
) -> None:
    """In doubt the batch answer counts as good, so that streams may look worse beside it and never better."""
    judged = RelayedOutcomes(Route.compile(RouteSettings.model_validate(route())))

    for _ in range(3):
        assert (
            await judged.of(RelayResult(status=200), await relayed(200, body, headers, max_bytes=2000))
            == outcome
        )

    assert len(caplog.records) == warnings


@pytest.mark.parametrize(
    ("body", "coding", "is_short"),
    [
        pytest.param(answer(), b"identity", True, id="short"),
        pytest.param(gzip.compress(answer(SENTENCE)), b"gzip", True, id="gzip"),
        pytest.param(answer("a" * 2 * SHORT_BYTES), b"identity", False, id="long"),
        pytest.param(
            gzip.compress(answer("a" * 2 * SHORT_BYTES)), b"gzip", False, id="long once it is unpacked"
        ),
        pytest.param(b"?", b"gzip", False, id="no gzip"),
        pytest.param(answer(), b"br", False, id="br"),
    ],
)
async def test_an_answer_that_is_read_at_once_is_short_and_plain(
    body: bytes, coding: bytes, is_short: bool
) -> None:
    """A task looks at what takes longer, or cannot be read; where both can, the outcome is the same."""
    judged = RelayedOutcomes(Route.compile(RouteSettings.model_validate(route())))
    copy = await relayed(200, body, [(b"content-encoding", coding)])
    at_once = judged.of_short(RelayResult(status=200), copy)
    assert at_once == (await judged.of(RelayResult(status=200), copy) if is_short else None)


@pytest.mark.parametrize("size", [100, 5000])
async def test_any_path_is_looked_up_at_once_in_a_short_answer_alone(size: int) -> None:
    """One that may pass each of many values is another thread's."""
    settings = route() | {"sections": [{"stage": "answer", "at": "$..text"}]}
    judged = RelayedOutcomes(Route.compile(RouteSettings.model_validate(settings)))
    copy = await relayed(200, answer("a" * size))
    assert judged.of_short(RelayResult(status=200), copy) == ("complete" if size == 100 else None)
