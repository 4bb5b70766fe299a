"""Rows of runs: what it costs to read a stream of tokens, log it, and send it to viewers as events.

The relay's rows cannot tell: a run parses what it gets. As there, three processes: a model that streams
tokens; Headgate, whose source `native` reads them, or nginx on a core of its own; and the viewers, here. Each
token carries the time when it was written, so that a delay is the whole way to a viewer's read. nginx passes
the same bytes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import uvloop

from tests.bench import cores, wrk
from tests.bench.cores import Gauge
from tests.bench.results import (
    Goal,
    Plan,
    Results,
    Row,
    Sample,
    Target,
    added_goal,
    at_most_goal,
    at_most_times_goal,
)
from tests.bench.rounds import settle
from tests.bench.run_clients import Viewing, start_runs, viewers_of
from tests.bench.run_measuring import KEPT_RUNS, Bench, Meter
from tests.bench.run_servers import FAST_HZ, HZ, TAPPED, model
from tests.bench.servers import NotStarted, Server

RELAYED_S = 2
RELAYED_CONNECTIONS = 32

SHARED_RUNS = 100
VIEWERS = 10
FEW_KEPT = 1
WARM_UP = 50
"""Runs opened and closed before, so that what is allocated once is not counted."""

RAMP = (50, 100, 150, 175, 200, 225, 250, 275, 300, 350, 400, 450, 500)
"""Fast runs at once."""
RAMP_P99_US = 100_000
"""Beyond it events come too late: what a person is to be shown waits no longer (design, section 7)."""
RAMP_DELIVERED = 0.95
"""Share of the events that must arrive while they are counted."""


P99_GOALS = (
    at_most_times_goal(Target.NGINX, 5, "≤ 5 × nginx"),
    at_most_goal(2_500, "≤ 2.5 ms", "{:,.0f} µs"),
)
ADDED_GOAL = added_goal(10_000, "≤ 10 ms added")
EVENT_GOAL = at_most_goal(30, "≤ 30 µs", "{:.0f} µs")
TOKEN_GOAL = at_most_goal(40, "≤ 40 µs", "{:.0f} µs")
TOP_GOAL = Goal(
    "≥ 20,000/s",
    "{:,.0f}/s",
    (Target.HEADGATE,),
    lambda row: row.value(Target.HEADGATE),
    at_least=20_000,
)
MEMORY_GOAL = at_most_goal(24, "≤ 24 KB", "{:.1f} KB")
SHARED_GOAL = at_most_goal(2.2, "≤ 2.2 × one viewer", "{:.2f} ×")
UNTAPPED_GOAL = at_most_goal(1.1, "≤ 1.1 ×", "{:.2f} ×")
KEPT_GOAL = at_most_goal(1.1, "≤ 1.1 ×", "{:.2f} ×")


def measure(directory: Path, plan: Plan, results: Results) -> Iterator[Row]:
    """All rows. Each part has processes of its own, so that none has another one's garbage."""
    with model(directory) as running:
        bench = Bench(directory, plan, running, Gauge(plan.watch_s))
        try:
            yield from _paced(bench)
            yield from _ramp(bench)
            yield from _memory(bench)
            yield from _shared(bench)
            yield from _kept(bench)
            yield from _tapped(bench)
        except NotStarted as exc:
            results.absent[Target.HEADGATE] = str(exc)


# The rows.


def _paced(bench: Bench) -> Iterator[Row]:
    viewing = Viewing("paced", bench.plan.open_runs)
    with bench.proxies() as proxies:
        proxied: dict[Target, list[Sample]] = {target: [] for target in proxies}
        samples = {Target.DIRECT: [], **proxied}
        for _ in range(bench.plan.run_rounds):
            for target, series in samples.items():
                server = proxies.get(target, Server(bench.model.port, None))
                series.append(bench.view(server, viewing))
    name = f"{viewing.runs:,} runs at {HZ}/s"
    yield Row(f"{name}, p50", "µs", "p50", samples)
    yield Row(f"{name}, p99", "µs", "p99", samples, goals=P99_GOALS)
    yield Row(f"{name}, added p99", "µs", "p99", samples, goals=(ADDED_GOAL,), added=True)
    yield Row(f"{name}, CPU of an event", "µs", "cpu_us", proxied, goals=(EVENT_GOAL,))


def _ramp(bench: Bench) -> Iterator[Row]:
    with bench.proxies() as proxies:
        samples = {target: [_top(bench, server)] for target, server in proxies.items()}
    name = f"runs at {FAST_HZ}/s, at most"
    yield Row(name, "events/s", "rate", samples, goals=(TOP_GOAL,), saturating=True)


def _top(bench: Bench, server: Server) -> Sample:
    """The last step of the ramp on which events still came in time; a step that fails has a second try."""
    best: Sample | None = None
    for runs in RAMP:
        for _ in range(2):
            taken = bench.view(server, Viewing("fast", runs))
            in_time = taken.figures["p99"] < RAMP_P99_US
            if in_time and taken.figures["rate"] >= RAMP_DELIVERED * runs * FAST_HZ:
                best = taken
                break
        if best is not taken:
            return best or taken
    assert best is not None
    return best


def _memory(bench: Bench) -> Iterator[Row]:
    runs = bench.plan.open_runs
    with bench.proxies() as proxies:
        samples = {target: [_held(server, runs)] for target, server in proxies.items()}
    yield Row(f"memory of one of {runs:,} idle runs", "KB", "kb", samples, goals=(MEMORY_GOAL,))


def _held(server: Server, runs: int) -> Sample:
    """Resident memory with idle runs, less what it was before, for each run with its viewer."""
    assert server.pid is not None
    pids = cores.tree(server.pid)
    uvloop.run(_held_kb(server, WARM_UP, pids))
    settle(pids)
    before_kb = cores.rss_kb(pids)
    with_kb = uvloop.run(_held_kb(server, runs, pids))
    return Sample(figures={"kb": (with_kb - before_kb) / runs, "before_kb": before_kb, "with_kb": with_kb})


async def _held_kb(server: Server, runs: int, pids: list[int]) -> int:
    async with viewers_of(server, Viewing("idle", runs)):
        return cores.rss_kb(pids)


def _shared(bench: Bench) -> Iterator[Row]:
    """Beside the same runs with one viewer, and beside as many viewers with a run each.

    An event costs more while there are few: each wakes the process. So the first comparison flatters.
    """
    bases = {
        "1, the same runs": (Viewing("paced", SHARED_RUNS), (SHARED_GOAL,)),
        "1, as many viewers": (Viewing("paced", SHARED_RUNS * VIEWERS), ()),
    }
    pairs: dict[str, list[Sample]] = {name: [] for name in bases}
    with bench.headgate() as server:
        for _ in range(bench.plan.run_rounds):
            many = bench.view(server, Viewing("paced", SHARED_RUNS, VIEWERS))
            for name, (base, _) in bases.items():
                pairs[name].append(_times(many, bench.view(server, base), VIEWERS))
    for name, (_, goals) in bases.items():
        samples = {Target.HEADGATE: pairs[name]}
        yield Row(f"CPU of an event, {VIEWERS} viewers : {name}", "×", "times", samples, goals=goals)


def _kept(bench: Bench) -> Iterator[Row]:
    with bench.headgate(kept=FEW_KEPT) as few, bench.headgate(kept=KEPT_RUNS) as many:
        for server in (few, many):
            uvloop.run(start_runs(server.port, KEPT_RUNS))
        whats: dict[str, Callable[[Server], Sample]] = {
            "an event": lambda server: bench.view(server, Viewing("paced", SHARED_RUNS)),
            "a whole run": bench.start_runs,
        }
        for what, measure_it in whats.items():
            pairs = [(measure_it(many), measure_it(few)) for _ in range(bench.plan.run_rounds)]
            samples = {Target.HEADGATE: [_times(*pair) for pair in pairs]}
            name = f"CPU of {what}, {KEPT_RUNS:,} runs kept : {FEW_KEPT}"
            yield Row(name, "×", "times", samples, goals=(KEPT_GOAL,))


def _tapped(bench: Bench) -> Iterator[Row]:
    """A token through the model port, and a call of no run beside the same one relayed."""
    viewing = Viewing(TAPPED, bench.plan.open_runs)
    with bench.headgate() as server:
        tokens = [bench.view(server, viewing) for _ in range(bench.plan.run_rounds)]
        pairs = [
            (_relayed(server, server.model_port, "/models/2k"), _relayed(server, server.port, "/2k"))
            for _ in range(bench.plan.run_rounds)
        ]
    samples = {Target.HEADGATE: tokens}
    name = f"{viewing.runs:,} tapped runs at {HZ}/s, CPU of a token"
    yield Row(name, "µs", "cpu_us", samples, goals=(TOKEN_GOAL,))
    samples = {Target.HEADGATE: [_times(*pair) for pair in pairs]}
    name = "CPU of a model call of no run : relayed request"
    yield Row(name, "×", "times", samples, goals=(UNTAPPED_GOAL,))


def _relayed(server: Server, port: int, path: str) -> Sample:
    """Send as many requests as possible, and measure the cost of each."""
    assert server.pid is not None
    pids = cores.tree(server.pid)
    settle(pids)
    meter = Meter(pids, [])
    done = wrk.post(port, path, connections=RELAYED_CONNECTIONS, run_s=RELAYED_S)
    return meter.sample(done.figures, done.operations, done.errors)


def _times(one: Sample, other: Sample, weight: int = 1) -> Sample:
    """Return the ratio of CPU time of two samples, as a sample as bad as the worse of both."""
    one_us, other_us = one.cpu_us * weight, other.cpu_us
    worse = max(one, other, key=lambda sample: (sample.disturbance, -sample.speed))
    figures = {"times": one_us / other_us, "one_us": one_us, "other_us": other_us}
    return replace(
        worse,
        figures=figures,
        errors=one.errors + other.errors,
        cpu_us=one_us,
        speed=min(one.speed, other.speed),
    )
