"""Rows of event streams that are passed through as bytes."""

from collections.abc import Iterator, Mapping

from tests.bench import streams
from tests.bench.results import Row, Target, added_goal
from tests.bench.rounds import Rounds, only
from tests.bench.servers import Server

TARGETS = (Target.DIRECT, Target.NGINX, Target.HEADGATE, Target.NAIVE)
STREAMS = 50
FIRST_GOAL = added_goal(110, "≤ 110 µs added")


def measure(servers: Mapping[Target, Server], rounds: Rounds) -> Iterator[Row]:
    """The first event, every event, and as many events as can be."""
    targets = only(servers, *TARGETS)
    for server in targets.values():
        streams.paced(server.port, streams=STREAMS, run_s=0.2)  # warm up
    samples = rounds.interleaved(
        targets, lambda server: streams.first_events(server.port, times=rounds.plan.first_events)
    )
    for figure in ("p50", "p99"):
        goals = (FIRST_GOAL,) if figure == "p50" else ()
        yield Row(f"SSE first event, added {figure}", "µs", figure, samples, goals=goals, added=True)

    samples = rounds.interleaved(
        targets,
        lambda server: streams.paced(server.port, streams=STREAMS, run_s=rounds.plan.paced_s),
    )
    for figure in ("p50", "p99"):
        yield Row(f"SSE event, {STREAMS} streams, added {figure}", "µs", figure, samples, added=True)

    samples = rounds.interleaved(
        targets, lambda server: streams.flood(server.port, streams=STREAMS, run_s=rounds.plan.flood_s)
    )
    yield Row("SSE flood, at most", "events/s", "rate", samples, saturating=True)
