"""The long run: `python -m tests.faults --seed 1 --rounds 1000`. Prints a table; 1 if a promise is broken.

The same seed gives the same rounds in the same order. How they overlap is the machine's.
"""

import asyncio
import logging
import random
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from proxy.observe.labels import FaultPhase
from tests.faults import provider, ways
from tests.faults.clients import mixture
from tests.faults.loop import PatientLoop
from tests.faults.rounds import AT_ONCE, Result, at_once, house, warm

FLOOR = 0.99
BEFORE_CONTENT = 1.0
"""Of the runs whose first fault came before the first text."""

console = Console(width=110, soft_wrap=True)


@dataclass(frozen=True)
class Report:
    """The findings of a long run."""

    results: Sequence[Result]
    miscounted: Sequence[str]
    left_over: dict[str, int]
    took_s: float
    stood_still_s: float
    """Of this, what the loop was halted for, which no round has noticed."""

    @property
    def problems(self) -> list[str]:
        """Every promise that was broken."""
        found = [f"{what} too many: {count}" for what, count in self.left_over.items()] + list(
            self.miscounted
        )
        found += [str(result) for result in self.results if result.problems]
        if rate(self.results) < FLOOR:
            found.append(f"recovery success is {rate(self.results):.2%}, and the floor {FLOOR:.0%}")
        early = [result for result in self.results if result.phase != FaultPhase.CONTENT]
        if rate(early) < BEFORE_CONTENT:
            found.append(f"before the first text it is {rate(early):.2%}, and has to be {BEFORE_CONTENT:.0%}")
        return found


def rate(results: Sequence[Result]) -> float:
    """Recovery success, as the design defines it; 1 where no answer existed."""
    existed = [result.delivered for result in results if result.answer_existed]
    return sum(existed) / len(existed) if existed else 1.0


def table(results: Sequence[Result]) -> Table:
    """Class and phase, summed over sources."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.kind, result.phase].append(result)
    made = Table("class", "phase", title="Recovery by class and phase")
    for column in ("runs", "answer existed", "recovered", "rate"):
        made.add_column(column, justify="right")
    for (kind, phase), group in sorted(groups.items()):
        made.add_row(kind, phase, *_numbers(group))
    made.add_section()
    for phase in FaultPhase:
        made.add_row("all", phase, *_numbers([result for result in results if result.phase == phase]))
    made.add_row("all", "", *_numbers(results), style="bold")
    return made


def _numbers(results: Sequence[Result]) -> list[str]:
    existed = sum(result.answer_existed for result in results)
    delivered = sum(result.answer_existed and result.delivered for result in results)
    return [str(len(results)), str(existed), str(delivered), f"{rate(results):.2%}" if existed else "–"]


async def run(loop: PatientLoop, seed: int, rounds: int, bound: int) -> Report:
    """Play them all, and look at what is left."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        async with house(Path(directory)) as found:
            baseline = await warm(found)
            results = await at_once(mixture(found, random.Random(seed), rounds), bound)
            left_over = await found.left_over(baseline)
            miscounted = await found.miscounted()
    with tempfile.TemporaryDirectory() as directory:
        async with provider.house(Path(directory)) as tapped:
            chosen = provider.mixture(random.Random(seed), rounds)
            results += await at_once((partial(tapped.play, plan) for plan in chosen), bound)
    with tempfile.TemporaryDirectory() as directory:
        async with ways.house(Path(directory)) as three:
            unlike = ways.mixture(random.Random(seed), rounds // 2)
            results += await at_once((partial(three.play, *each) for each in unlike), bound)
    return Report(results, miscounted, left_over, time.monotonic() - began, loop.stood_still_s)


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    arguments = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())
    loop = PatientLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        report = runner.run(run(loop, arguments.seed, arguments.rounds, arguments.at_once))
    console.print(table(report.results))
    took = f"{report.took_s:.0f} s, {report.stood_still_s:.0f} of them halted"
    runs = f"{len(report.results)} runs, seed {arguments.seed}, {took}"
    for problem, times in Counter(report.problems).most_common():
        console.print(f"{problem} (×{times})" if times > 1 else problem, style="red", highlight=False)
    console.print(f"{runs}: {'every promise held' if not report.problems else 'BROKEN'}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
