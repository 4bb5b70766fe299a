"""Rows of the batch relay: how many requests, and how much later their answers come."""

from collections.abc import Iterator, Mapping

from tests.bench import paced, wrk
from tests.bench.results import Goal, Row, Target, added_goal, share_goal, times_goal
from tests.bench.rounds import Rounds, only
from tests.bench.servers import Server

# Raw ASGI with a small client of its own was measured at 35 % of nginx, and at 70 times the naive proxy; at
# 64 KB at 1.3 times nginx, and 38 % of nginx with buffers. The goals leave what a proxy must add to that.
GOALS: dict[tuple[str, int], tuple[Goal, ...]] = {
    ("2k", 32): (
        share_goal(Target.NGINX, 0.28, "≥ 28 % of nginx"),
        times_goal(Target.NAIVE, 50, "≥ 50 × naive"),
    ),
    ("64k", 32): (
        share_goal(Target.NGINX, 1.0, "≥ nginx"),
        share_goal(Target.NGINX_BUFFERED, 0.35, "≥ 35 % of nginx, buffered"),
    ),
}
ADDED_GOAL = added_goal(3_000, "≤ 3 ms added")

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
                goals=(ADDED_GOAL,) if (figure, paced_by) == ("p99", Target.HEADGATE) else (),
                added=True,
            )
