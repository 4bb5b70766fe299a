"""Where Valkey ends: its CPU for an event, its memory for a run; one, and two. `python -m tests.bench.store`.

Replicas copy runs to a real server, as they do in service. What counts is the processor time that the server
says it took, so that other work on the machine changes little.
"""

import asyncio
import tempfile
import uuid
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path

import click
from redis.asyncio import Redis

from proxy.identity import Identity
from proxy.runs.run import Run
from tests.replicas.shared_run import SAFE, new_run, say, stored, watch
from tests.replicas.sharing import Replica, claimed, replica, sharded
from tests.servers.client import eventually
from tests.servers.valkey_server import valkey

RUNS = 100
EVENTS = 300
"""Of a run: an answer of about as many words."""
TURN_S = 0.03
"""Between two events of a run, for each server."""
PATIENCE_S = 600.0


async def _spread(number: int) -> None:
    """Several servers, each with as many runs of as many users, and of a round trip as many events."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [await stack.enter_async_context(valkey(directory)) for _ in range(number)]
        clients = [await stack.enter_async_context(server.client()) for server in servers]
        places = {"shards": {f"store-{index}": server.url for index, server in enumerate(servers)}}
        one, _ = await stack.enter_async_context(sharded(places))
        other, _ = await stack.enter_async_context(sharded(places))
        of: list[list[Run]] = [[] for _ in servers]
        while min(map(len, of)) < RUNS:
            run = new_run(of=SAFE, identity=Identity(uuid.uuid4().hex, "ann"))
            shard = one.of(run.principal)
            runs = of[one.shards.index(shard)]
            if len(runs) < RUNS:
                assert await shard.claim(run, [run.id]) is None
                run.begun()
                runs.append(run)
        for what in ("copied", "copied and followed"):
            before = [await _cpu_s(client) for client in clients]
            for _ in range(EVENTS // 2):
                for run in chain(*of):
                    say(run)
                await asyncio.sleep(TURN_S * number)
            await asyncio.gather(*map(_all_stored_at_last, clients, of))
            costs = [
                (await _cpu_s(client) - before_s) / RUNS / (EVENTS // 2) * 1e6
                for client, before_s in zip(clients, before, strict=True)
            ]
            said = " and ".join(f"{cost_us:.1f}" for cost_us in costs)
            most = sum(1e6 / cost_us for cost_us in costs)
            click.echo(
                f"of {number}: an event, {what}: {said} µs of each one's core, so {most:,.0f}/s at most"
            )
            for run in chain(*of):
                copy = await other.of(run.principal).find(run.id)
                assert copy is not None
                watch(copy)


async def _said(client: Redis, runs: list[Run], each: int) -> tuple[float, int]:
    """The server's CPU time in seconds for so many more events of each run, one after the other, and their
    number."""
    before_s = await _cpu_s(client)
    events = 0
    for _ in range(each):
        for run in runs:
            say(run)
        events += len(runs)
        await _all_stored_at_last(client, runs)
    return await _cpu_s(client) - before_s, events


async def _all_stored_at_last(client: Redis, runs: list[Run]) -> None:
    await eventually(lambda: _all_stored(client, runs), PATIENCE_S)


async def _all_stored(client: Redis, runs: list[Run]) -> bool:
    """Of the first and the last one; a round carries those between, too."""
    return all([await stored(client, run) == len(run.log) for run in (runs[0], runs[-1])])


async def _cpu_s(client: Redis) -> float:
    info = await client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def _bytes(client: Redis) -> int:
    return int((await client.info("memory"))["used_memory"])


async def _idle_s(client: Redis) -> float:
    """CPU time of a second in which replicas only renew their leases."""
    before_s = await _cpu_s(client)
    await asyncio.sleep(5)
    return (await _cpu_s(client) - before_s) / 5


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            valkey(Path(directory)) as server,
            server.client() as client,
            replica(server) as one,
            replica(server) as other,
        ):
            before = await _bytes(client)
            runs = [await claimed(one) for _ in range(RUNS)]
            begun = await _bytes(client)
            idle_s = await _idle_s(client)
            alone_s, events = await _said(client, runs, EVENTS // 2)
            await _followed(other, runs)
            followed_s, more = await _said(client, runs, EVENTS // 2)
            full = await _bytes(client)
    click.echo(f"idle, two replicas: {idle_s * 1000:.1f} ms of CPU a second")
    for what, seconds, number in (("copied", alone_s, events), ("copied and followed", followed_s, more)):
        cost_us = seconds / number * 1e6
        click.echo(f"an event, {what}: {cost_us:.1f} µs of Valkey's core, so {1e6 / cost_us:,.0f}/s at most")
    click.echo(f"a run without text: {(begun - before) / RUNS / 1024:.1f} KB")
    click.echo(f"a run of {EVENTS} events: {(full - before) / RUNS / 1024:.1f} KB")
    for number in (1, 2):
        await _spread(number)


async def _followed(other: Replica, runs: list[Run]) -> None:
    for run in runs:
        watch(await other.followed(run.id))


if __name__ == "__main__":
    asyncio.run(main())
