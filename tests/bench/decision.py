"""The row of `decide()`: one flag, one user after the other, from a flag file. In this process.

And what a request costs whose user is in neither arm, by CPU time: it is decided, and while the flag draws
users, its batch answer is copied and read.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from flags.decision import Accept, Arm, Question, Reason, decide
from flags.sources.flag_file import FlagFile
from proxy.downstream.bodies import ByteBudget
from proxy.http.headers import Headers
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.outcomes import RelayedOutcomes, is_read
from proxy.relay.result import RelayResult
from proxy.relay.sinks import Sink
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.routes import Route
from tests.bench.results import Plan, Row, Sample, Target

USERS = 1000
SHARE_PCT = 50
FLAG = "headgate.streaming"
DRAWING_PCT = 10
"""While the rest is measured; a tenth of the users each is in the other arms."""
REQUESTS = 2000
ROUTE = {
    "name": "answer",
    "match": "POST /answer",
    "source": "batch",
    "sections": [{"stage": "text", "at": "$.text"}],
}
ANSWER = json.dumps({"id": 1, "text": "fever and cough " * 122}).encode()


def measure(directory: Path, plan: Plan) -> Iterator[Row]:
    """The mean of `plan.decisions` decisions, the median of `plan.repeats` means."""
    path = directory / "decide.json"
    path.write_text(_document(SHARE_PCT))
    samples = asyncio.run(_decide(path, plan))
    yield Row(f"decide(), flag at {SHARE_PCT} %", "µs", "us", {Target.HEADGATE: samples})
    for share in (0, DRAWING_PCT):
        path.write_text(_document(share))
        samples = asyncio.run(_rest(path, plan, reads=share > 0))
        name = f"the rest's batch answer, flag at {share} %"
        yield Row(name, "µs", "us", {Target.HEADGATE: samples})


def _document(share: int) -> str:
    """Flags with one flag, at this share of the users."""
    parameters = {"rollout": str(share), "stickiness": "userId", "groupId": FLAG}
    strategies = [{"name": "flexibleRollout", "parameters": parameters}]
    return json.dumps({"version": 2, "features": [{"name": FLAG, "enabled": True, "strategies": strategies}]})


async def _decide(path: Path, plan: Plan) -> list[Sample]:
    questions = [_question(f"user-{number}") for number in range(USERS)]
    samples = []
    async with FlagFile(path) as flags:
        for _ in range(plan.repeats):
            streamed = 0
            start = time.perf_counter()
            for number in range(plan.decisions):
                streamed += decide(questions[number % USERS], flags).reason is Reason.FLAG_ON
            took_s = time.perf_counter() - start
            # Users whom a broken flag sends to batch would be decided quickly, and wrongly.
            wrong = 0 if 0.4 < streamed / plan.decisions < 0.6 else plan.decisions
            samples.append(Sample(figures={"us": took_s * 1e6 / plan.decisions}, errors=wrong))
    return samples


class _Client:
    """Takes an answer."""

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None: ...


async def _rest(path: Path, plan: Plan, *, reads: bool) -> list[Sample]:
    """As the path of batch answers does it, without the sockets."""
    outcomes = RelayedOutcomes(Route.compile(RouteSettings.model_validate(ROUTE)))
    budget, client = ByteBudget(2 * len(ANSWER), lambda _: None), cast(Sink, _Client())
    headers, result, samples = [(b"content-type", b"application/json")], RelayResult(status=200), []
    async with FlagFile(path) as flags:
        questions = [_question(f"user-{number}") for number in range(USERS)]
        rest = [question for question in questions if decide(question, flags).arm is Arm.REST]
        for _ in range(plan.repeats):
            read = 0
            start = time.process_time()
            for number in range(REQUESTS):
                decision = decide(rest[number % len(rest)], flags)
                with budget.reserve(FLAG) as reservation:
                    if is_read(decision):
                        copy = AnswerCopy(client, len(ANSWER), reservation)
                        copy.answer(200, b"OK", headers, ANSWER, last=True)
                        read += outcomes.of_short(result, copy) == "complete"
                    else:
                        client.answer(200, b"OK", headers, ANSWER, last=True)
            took_s = time.process_time() - start
            samples.append(
                Sample(figures={"us": took_s * 1e6 / REQUESTS}, errors=abs(read - REQUESTS * reads))
            )
    return samples


def _question(user: str) -> Question:
    return Question(
        flag=FLAG,
        source="tap",
        sources=frozenset({"tap", "batch"}),
        context={"userId": user},
        accept=Accept.EITHER,
    )
