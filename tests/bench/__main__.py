"""`python -m tests.bench`: measures Headgate beside nginx and the naive proxy on this machine, and says so.

Linux with two cores, nginx and wrk; everything runs on 127.0.0.1. Trust the ratios, not the absolutes.
"""

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from tests.bench import decision, memory, relay, report, runs, servers, sse, start, tokens
from tests.bench.cores import LOAD_CORE, PROXY_CORE
from tests.bench.results import QUICK, Plan, Results, Row
from tests.bench.rounds import Rounds

PARTS = ("start", "relay", "sse", "memory", "decide", "tokens", "runs")
OPEN_FILES = 8192
"""Each of 1,000 streams is two sockets of a proxy."""


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rows and runs: under 90 seconds.")
@click.option("--only", type=click.Choice(PARTS), help="One part instead of all.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every sample."
)
@click.option("--pure", is_flag=True, help="Headgate without its machine code.")
@click.option("--check", is_flag=True, help="Exit with 1 if a goal is missed.")
def main(quick: bool, only: str | None, json_file: Path | None, pure: bool, check: bool) -> None:
    """Measure Headgate, nginx and the naive proxy side by side, and print one table."""
    _prepare()
    console = Console(width=max(report.WIDTH, shutil.get_terminal_size().columns))
    results = Results(replace(QUICK if quick else Plan(), pure=pure))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as directory:
        for row in _measure(Path(directory), (only,) if only else PARTS, results):
            click.echo(f"{time.monotonic() - started:4.0f} s  {row.name}", err=True)
            results.rows.append(row)
    report.print_table(results, console)
    if json_file is not None:
        report.write_json(results, json_file)
    sys.exit(1 if check and not report.all_met(results) else 0)


def _measure(directory: Path, parts: tuple[str, ...], results: Results) -> Iterator[Row]:
    if "start" in parts:
        yield from start.measure(directory, results.plan, results)
    if "decide" in parts:
        yield from decision.measure(directory, results.plan)
    if "tokens" in parts:
        yield from tokens.measure(results.plan)
    if "memory" in parts:
        yield from memory.measure(directory, results.plan, results)
    if "runs" in parts:
        yield from runs.measure(directory, results.plan, results)
    if "relay" in parts or "sse" in parts:
        rounds = Rounds(results.plan)
        with servers.everything(directory, pure=results.plan.pure) as (running, absent):
            results.absent |= absent
            if "relay" in parts:
                yield from relay.measure(running, rounds)
            if "sse" in parts:
                yield from sse.measure(running, rounds)


def _prepare() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
    for program in ("nginx", "wrk", "taskset"):
        if shutil.which(program) is None:
            raise click.ClickException(f"{program} is not installed; `make setup` installs it")
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise click.ClickException(f"cores {PROXY_CORE} and {LOAD_CORE} are needed")
    os.sched_setaffinity(0, {LOAD_CORE})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    # Leave through the `finally`s, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


if __name__ == "__main__":
    main()
