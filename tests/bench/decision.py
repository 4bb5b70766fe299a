"""The row of `decide()`: one flag, one user after the other, from a flag file. In this process."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

from flags.decision import Accept, Question, Reason, decide
from flags.sources.flag_file import FlagFile
from tests.bench.results import Plan, Row, Sample, Target

USERS = 1000
SHARE_PCT = 50
FLAG = "headgate.streaming"
STRATEGY = {
    "name": "flexibleRollout",
    "parameters": {"rollout": str(SHARE_PCT), "stickiness": "userId", "groupId": FLAG},
}
DOCUMENT = {"version": 2, "features": [{"name": FLAG, "enabled": True, "strategies": [STRATEGY]}]}


def measure(directory: Path, plan: Plan) -> Iterator[Row]:
    """The mean of `plan.decisions` decisions, the median of `plan.repeats` means."""
    path = directory / "decide.json"
    path.write_text(json.dumps(DOCUMENT))
    samples = asyncio.run(_decide(path, plan))
    yield Row(f"decide(), flag at {SHARE_PCT} %", "µs", "us", {Target.HEADGATE: samples})


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


def _question(user: str) -> Question:
    return Question(
        flag=FLAG,
        source="tap",
        sources=frozenset({"tap", "batch"}),
        context={"userId": user},
        accept=Accept.EITHER,
    )
