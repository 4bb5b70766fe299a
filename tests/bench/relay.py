"""Rows of the batch relay: how many requests, and how much later their answers come."""

from collections.abc import Iterator, Mapping

from tests.bench import paced, wrk
from tests.bench.results import (
    Goal,
    Row,
    Target,
    added_goal,
    at_most_times_goal,
    cpu_goal,
    share_goal,
    times_goal,
)
from tests.bench.rounds import Rounds, only
from tests.bench.servers import Server

GOALS: dict[tuple[str, int], tuple[Goal, ...]] = {
    ("2k", 1): (share_goal(Target.NGINX, 0.85, "≥ 85 % of nginx"),),
    ("2k", 32): (
        share_goal(Target.NGINX, 0.55, "≥ 55 % of nginx"),
        cpu_goal(25, "≤ 25 µs"),
        times_goal(Target.NAIVE, 50, "≥ 50 × naive"),
    ),
    ("2k", 256): (share_goal(Target.NGINX, 0.50, "≥ 50 % of nginx"),),
    ("64k", 32): (
        share_goal(Target.NGINX, 1.0, "≥ nginx"),
        share_goal(Target.NGINX_BUFFERED, 0.90, "≥ 90 % of nginx, buffered"),
    ),
}
"""Two bare protocols that splice do 89 % of nginx, raw ASGI with a small client 35 %. The naive proxy is what
everyone would write instead."""

ADDED_GOALS = (added_goal(3_000, "≤ 3 ms added"), at_most_times_goal(Target.NGINX, 2, "≤ 2 × nginx"))

SIZES: dict[str, tuple[Target, ...]] = {
    "2k": (Target.DIRECT, Target.NGINX, Target.HEADGATE, Target.NAIVE),
    "64k": (Target.DIRECT, Target.NGINX, Target.NGINX_BUFFERED, Target.HEADGATE, Target.NAIVE),
}
LATENCY_CONNECTIONS = 32


def measure(servers: Mapping[Target, Server], rounds: Rounds) -> Iterator[Row]:
    """Top rates for each size and number of connections, then delays at half of them."""
    for server in servers.values():
        wrk.post(server.port, "/2k", connections=LATENCY_CONNECTIONS, run_s=1)  # warm up
    tops: dict[Target, float] = {}
    for size, targets in SIZES.items():
        for connections in rounds.plan.connections:
            row = _top(only(servers, *targets), rounds, size, connections)
            if (size, connections) == ("2k", LATENCY_CONNECTIONS):
                tops = {target: row.value(target) or 0.0 for target in row.samples}
            yield row
    yield from _delays(servers, rounds, tops)


def _top(servers: Mapping[Target, Server], rounds: Rounds, size: str, connections: int) -> Row:
    samples = rounds.interleaved(
        servers,
        lambda server: wrk.post(server.port, f"/{size}", connections=connections, run_s=rounds.plan.run_s),
    )
    return Row(
        name=f"relay {size.removesuffix('k')} KB, {connections} conn.",
        unit="requests/s",
        figure="rate",
        samples=samples,
        goals=GOALS.get((size, connections), ()),
        saturating=connections > 1,
    )


def _delays(servers: Mapping[Target, Server], rounds: Rounds, tops: Mapping[Target, float]) -> Iterator[Row]:
    """Each at half of Headgate's top rate; the naive proxy, which could not follow, at half of its own."""
    groups = {
        Target.HEADGATE: only(servers, Target.DIRECT, Target.NGINX, Target.HEADGATE),
        Target.NAIVE: only(servers, Target.DIRECT, Target.NAIVE) if rounds.plan.naive_delays else {},
    }
    for paced_by, targets in groups.items():
        if paced_by not in targets:
            continue
        rate = tops[paced_by] / 2
        samples = rounds.interleaved(
            targets,
            lambda server, rate=rate: paced.post(  # type: ignore[misc]
                server.port, "/2k", rate=rate, run_s=rounds.plan.paced_s, connections=LATENCY_CONNECTIONS
            ),
        )
        for figure in ("p50", "p99"):
            yield Row(
                name=f"added {figure}, 2 KB at {rate:,.0f}/s",
                unit="µs",
                figure=figure,
                samples=samples,
                goals=ADDED_GOALS if (figure, paced_by) == ("p99", Target.HEADGATE) else (),
                added=True,
            )
