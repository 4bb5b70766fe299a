"""Rows of the start: how long the command takes that does nothing, and `serve` until it is ready; its memory
at rest.
"""

import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import cores, servers
from tests.bench.results import Plan, Results, Row, Sample, Target, at_most_goal
from tests.bench.servers import HEADGATE, NotStarted
from tests.servers.ports import free_port

VERSION_GOAL = at_most_goal(0.15, "≤ 0.15 s", "{:.2f} s")
READY_GOAL = at_most_goal(0.5, "≤ 0.5 s", "{:.2f} s")
REST_GOAL = at_most_goal(60, "≤ 60 MB", "{:.0f} MB")


def measure(directory: Path, plan: Plan, results: Results) -> Iterator[Row]:
    """The medians of `plan.starts` starts. Nothing need be running behind a proxy that starts."""
    samples = [_version(pure=plan.pure) for _ in range(plan.starts)]
    yield Row("headgate --version", "s", "took_s", {Target.HEADGATE: samples}, goals=(VERSION_GOAL,))
    try:
        samples = [_serve(directory, pure=plan.pure) for _ in range(plan.starts)]
    except NotStarted as exc:
        results.absent[Target.HEADGATE] = str(exc)
        return
    yield Row("start until ready", "s", "took_s", {Target.HEADGATE: samples}, goals=(READY_GOAL,))
    of_all = {Target.HEADGATE: samples}
    yield Row("memory at rest, the largest process", "MB", "largest_mb", of_all, goals=(REST_GOAL,))
    yield Row("memory at rest, all together", "MB", "mb", of_all)


def _version(*, pure: bool) -> Sample:
    argv = ["taskset", "-c", str(cores.PROXY_CORE), str(HEADGATE), "--version"]
    started, spent_s = time.monotonic(), _ended_s()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=servers.environment(pure=pure))
    return Sample({"took_s": time.monotonic() - started}, cpu_us=(_ended_s() - spent_s) * 1e6)


def _ended_s() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _serve(directory: Path, *, pure: bool) -> Sample:
    started = time.monotonic()
    with servers.headgate(directory, free_port(), pure=pure) as server:
        took_s = time.monotonic() - started
        assert server.pid is not None
        pids = cores.tree(server.pid)
        largest_kb = max(cores.rss_kb([pid]) for pid in pids)
        figures = {"took_s": took_s, "largest_mb": largest_kb / 1024, "mb": cores.pss_kb(pids) / 1024}
        return Sample(figures, cpu_us=cores.cpu_s(pids) * 1e6)
