"""The row of memory: what one open stream costs the proxy. Fresh processes, since none gives memory back."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tests.bench import cores, servers, streams
from tests.bench.results import Plan, Results, Row, Sample, Target
from tests.bench.servers import NotStarted, Server

WARM_UP = 50
"""Streams opened and closed before, so that what is allocated once is not counted."""


def measure(directory: Path, plan: Plan, results: Results) -> Iterator[Row]:
    """Resident memory with `plan.open_streams` idle streams, less what it was before, for each stream."""
    samples: dict[Target, list[Sample]] = {}
    with servers.upstream(directory) as origin:
        proxies: dict[Target, AbstractContextManager[Server | dict[Target, Server]]] = {
            Target.HEADGATE: servers.headgate(directory, origin.port, pure=plan.pure),
            Target.NGINX: servers.nginx(directory, origin.port),
            Target.NAIVE: servers.naive(directory, origin.port, connections=plan.open_streams + WARM_UP),
        }
        for target, proxy in proxies.items():
            try:
                with proxy as started:
                    server = started[target] if isinstance(started, dict) else started
                    samples[target] = [_measure(server, plan.open_streams)]
            except (NotStarted, OSError) as exc:
                results.absent[target] = str(exc)
    yield Row(f"memory of one of {plan.open_streams:,} streams", "KB", "kb", samples)


def _measure(server: Server, count: int) -> Sample:
    assert server.pid is not None
    with streams.open_streams(server.port, WARM_UP):
        pass
    pids = cores.tree(server.pid)
    before_kb = cores.rss_kb(pids)
    with streams.open_streams(server.port, count):
        with_kb = cores.rss_kb(pids)
    return Sample(figures={"kb": (with_kb - before_kb) / count, "before_kb": before_kb, "with_kb": with_kb})
