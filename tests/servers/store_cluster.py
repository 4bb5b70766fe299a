"""A real cluster, with a password: three primaries, and a replica of the one that has Headgate's keys."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.servers.client import eventually
from tests.servers.ports import free_port
from tests.servers.valkey_server import STARTING_S, ValkeyServer, valkey

SLOTS = 16384
TAG = "headgate"
PASSWORD = "nodes-secret"


@dataclass
class Cluster:
    owner: ValkeyServer
    """The primary of the slot of our keys, at first."""
    replica: ValkeyServer
    """Of that one."""
    others: list[ValkeyServer]
    url: str
    """As the settings have it; it names the nodes that are not ours."""


@asynccontextmanager
async def clustered(directory: Path) -> AsyncIterator[Cluster]:
    """Started, whole, and the replica in step; gone at the end."""
    async with AsyncExitStack() as stack:
        nodes, buses = [], []
        for number in range(4):
            bus = free_port()
            options = (
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "2000",
                "--cluster-port",
                str(bus),
            )
            file = ("--cluster-config-file", str(directory / f"nodes{number}.conf"))
            nodes.append(
                await stack.enter_async_context(valkey(directory, *options, *file, password=PASSWORD))
            )
            buses.append(bus)
        *primaries, replica = nodes
        share = -(-SLOTS // len(primaries))
        for number, node in enumerate(primaries):
            last = min((number + 1) * share, SLOTS) - 1
            await said(node, "CLUSTER", "ADDSLOTSRANGE", number * share, last)
            await said(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        for node, bus in list(zip(nodes, buses, strict=True))[1:]:
            await said(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in nodes:
            await eventually(lambda node=node: _knows(node, len(nodes)), STARTING_S)
        owner = primaries[key_slot(TAG.encode()) // share]
        name = (await said(owner, "CLUSTER", "MYID")).decode()
        await said(replica, "CLUSTER", "REPLICATE", name)
        await eventually(lambda: is_in_step(replica), STARTING_S)
        others = [node for node in primaries if node is not owner]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in others)
        yield Cluster(owner, replica, others, f"redis+cluster://:{PASSWORD}@{hosts}")


async def said(node: ValkeyServer, *command: str | int) -> Any:
    async with node.client() as client:
        client.response_callbacks.clear()
        return await client.execute_command(*command)


async def _knows(node: ValkeyServer, number: int) -> bool:
    """It has shaken hands with all, and all slots are served."""
    found = (await said(node, "CLUSTER", "INFO")).decode()
    nodes = (await said(node, "CLUSTER", "NODES")).decode()
    is_whole = "cluster_state:ok" in found and f"cluster_slots_assigned:{SLOTS}" in found
    return is_whole and f"cluster_known_nodes:{number}" in found and "handshake" not in nodes


async def is_in_step(replica: ValkeyServer) -> bool:
    return b"master_link_status:up" in await said(replica, "INFO", "replication")
