"""One process while it serves: its listening ports, its supervisor's commands, and the drain at the end."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy import gateway
from proxy.downstream.admission import Connections
from proxy.downstream.admitting import admitting
from proxy.downstream.certificate import PortTls
from proxy.downstream.cross_origin import CrossOrigin
from proxy.downstream.handshake import secured
from proxy.gateway import Gateway
from proxy.http.forwarded import ByTrust, Named, TrustedProxies, last_named, peer_alone
from proxy.llm.port import ModelPort
from proxy.observe.admin import Admin
from proxy.observe.settling import Settling
from proxy.runs.runs import Runs
from proxy.settings.blocks.certificates import PortCertificate
from proxy.settings.settings import Settings
from proxy.upstream.tunnel import Upgrades
from proxy.workers.descriptors import ENOUGH, RESERVED, Descriptors
from proxy.workers.fair_share import FairShare
from proxy.workers.link import Command, SupervisorLink
from proxy.workers.servers import OwnedServer, Servers, server
from proxy.workers.sockets import Sockets

logger = logging.getLogger("headgate.app")

CUT_S = 5.0
"""Seconds after `drain_s` in which the remaining viewers get a goodbye. Then their connections are cut."""

STUCK_S = 5.0
"""Seconds after that. Then an orphaned process, which no supervisor can kill, ends itself."""

GC_THRESHOLDS = (10_000, 5, 20)
"""Events are kept and are no garbage. With Python's own threshold of 700 new objects, a fifteenth of the CPU
time went into looking at them again and again."""


@dataclass(frozen=True, slots=True)
class App:
    """The parts of one process that its ports and its drain need; `proxy.app` makes them."""

    gateway: Gateway
    admin: Admin
    runs: Runs
    settling: Settling
    upgrades: Upgrades
    model_port: ModelPort | None
    descriptors: Descriptors
    connections: Connections
    """Connections of clients."""
    model_connections: Connections
    """Connections to the model port."""
    admin_connections: Connections
    """Connections to the admin port."""

    def end_all(self) -> None:
        """End each run and cut each tunnel: the time to drain is over."""
        self.runs.end_all()
        self.upgrades.cut_all()


async def serve(app: App, settings: Settings, sockets: Sockets, supervisor: SupervisorLink) -> None:
    """Serve until the supervisor's command, then drain."""
    async with listening(app, settings, sockets, shares=supervisor.shares) as servers, supervisor.reporting():
        # The collector need not look again at what is here now; that takes milliseconds each time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        # Of what is loaded, whatever was installed.
        compiled = not str(gateway.__file__).endswith(".py")
        logger.info("ready", extra={"listen": settings.listen, "admin": settings.admin, "compiled": compiled})
        if app.descriptors.each < min(ENOUGH, settings.limits.connections):
            logger.warning("few file descriptors, and some are kept for the admin port: raise ulimit -n")
        logger.info(
            "descriptors",
            extra={"limit": app.descriptors.limit, "reserved": RESERVED, "connections": app.descriptors.each},
        )
        command = await supervisor.command()
        logger.info("draining", extra={"runs": len(app.runs.live_routes())})
        if command is Command.HAND_OVER:
            command = await _until_commanded(servers.hand_over(), supervisor)
        if command is Command.ORPHANED:
            logger.error("the parent process is gone")
            servers.stop_accepting()
            signal.alarm(int(servers.drain_s + CUT_S + STUCK_S))


@asynccontextmanager
async def listening(
    app: App,
    settings: Settings,
    sockets: Sockets,
    *,
    drain_s: float | None = None,
    shares: Sequence[FairShare] = (),
) -> AsyncIterator[Servers]:
    """The servers of one process, until the block is left. Then the process drains."""
    if drain_s is None:
        drain_s = settings.drain_s
    front, others = _servers(app, settings, sockets, drain_s + CUT_S, shares)
    servers = Servers(front, others, app.runs, drain_s)
    async with asyncio.TaskGroup() as group:
        serving_front = group.create_task(front.serve_here())
        serving_others = {group.create_task(other.serve_here()) for other in others}
        try:
            await servers.are_open()
            yield servers
        finally:
            app.runs.draining = True
            app.settling.close()  # while a scraper can still read the counts
            app.runs.say_goodbye()
            cut = asyncio.get_running_loop().call_later(servers.drain_s, app.end_all)
            front.config.timeout_graceful_shutdown = int(servers.drain_s + CUT_S)
            front.should_exit = True
            await asyncio.wait({serving_front, group.create_task(app.runs.settled(servers.drain_s))})
            cut.cancel()
            app.admin.page.close()
            # Until here, runs that end may call their models.
            for other in others:
                other.should_exit = True
            await asyncio.wait(serving_others)  # the group would cancel them if the block failed


def _servers(
    app: App, settings: Settings, sockets: Sockets, grace_s: float, shares: Sequence[FairShare]
) -> tuple[OwnedServer, list[OwnedServer]]:
    """The public port's server, and those of the admin port and the model port."""
    of_public, of_model = shares or (None, None)
    keep_alive_s, backlog = settings.client_keep_alive_s, app.descriptors.backlog

    def counted(
        served: object,
        listener: socket.socket,
        connections: Connections,
        chosen: PortCertificate | None,
        share: FairShare | None,
        named: Named = peer_alone,
        names_users: Callable[[str], bool] | None = None,
    ) -> OwnedServer:
        make_port = admitting(connections, named, names_users)
        if chosen is not None:
            make_port = secured(make_port, PortTls(chosen.cert, chosen.key, chosen.client_ca), connections)
        return server(
            served,
            listener,
            make_port,
            keep_alive_s=keep_alive_s,
            grace_s=grace_s,
            backlog=backlog,
            share=share,
        )

    origins = frozenset(origin.encode() for origin in settings.cors.origins)
    public = CrossOrigin(app.gateway, origins) if origins else app.gateway
    trusted = None if settings.trusted_proxies is None else TrustedProxies(settings.trusted_proxies)
    front = counted(
        public,
        sockets.public,
        app.connections,
        settings.tls.port,
        of_public,
        _named(settings, trusted),
        None if trusted is None else trusted.has,
    )
    operators = admitting(app.admin_connections, peer_alone)
    others = [server(app.admin.app(), sockets.admin, operators, keep_alive_s=5, grace_s=1)]
    if sockets.model is not None:
        # SDKs keep their connections for long, and no load balancer stands between them and this port.
        chosen = settings.llm.tls if settings.llm is not None else None
        others.append(counted(app.model_port, sockets.model, app.model_connections, chosen, of_model))
    return front, others


def _named(settings: Settings, trusted: TrustedProxies | None) -> Named:
    """How a request's client is found on the public port."""
    chosen = settings.upstream.forwarding
    appends = chosen.x_forwarded == "append"
    if trusted is None:
        return last_named if appends else peer_alone
    return ByTrust(trusted, appends=appends, announces=chosen.forwarded)


async def _until_commanded(work: Coroutine[None, None, None], supervisor: SupervisorLink) -> Command:
    """Do the work until it is done, or the supervisor commands something else."""
    working = asyncio.ensure_future(work)
    commanded = asyncio.ensure_future(supervisor.command())
    await asyncio.wait({working, commanded}, return_when=asyncio.FIRST_COMPLETED)
    command = commanded.result() if commanded.done() else Command.HAND_OVER
    for task in (working, commanded):
        task.cancel()
    await asyncio.gather(working, commanded, return_exceptions=True)
    return command
