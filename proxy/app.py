"""The only file that wires: from settings to the listening servers of one process."""

import asyncio
import gc
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from flags.decision import generation_of
from flags.source import FlagFile, Flags, FlagSource, KillSwitch
from flags.tls import strictly
from flags.unleash import UnleashFlags, UnleashServer
from proxy.downstream.admission import Connections
from proxy.downstream.admitting import admitting
from proxy.downstream.bodies import ByteBudget
from proxy.downstream.descriptors import ENOUGH, RESERVED, Descriptors, in_use, raise_limit, share
from proxy.errors import Fault
from proxy.gateway import Gateway
from proxy.http.headers import Forwarding
from proxy.identity import Identifier, is_verified
from proxy.llm.dialects.gemini import Gemini
from proxy.llm.dialects.openai import OpenAI
from proxy.llm.learned import Learned
from proxy.llm.lesson_file import FileLessonStore
from proxy.llm.places import compile_calls
from proxy.llm.port import ModelPort, Provider
from proxy.llm.taps import Taps
from proxy.observe.admin import Admin
from proxy.observe.labels import Budget
from proxy.observe.metrics import Metrics
from proxy.observe.settling import Settling
from proxy.relay.outcomes import RelayedOutcomes
from proxy.relay.relay import Relay
from proxy.replicas.followed_run import FollowedRun
from proxy.replicas.sealing import Sealing
from proxy.replicas.shared_runs import ValkeyRuns
from proxy.replicas.takeover import TakenOverRun
from proxy.runs.run import Run
from proxy.runs.runs import Runs
from proxy.runs.source import Source
from proxy.runs.start import RunSpec
from proxy.settings.routes import Route, Routes
from proxy.settings.settings import IdentitySettings, ProviderSettings, Settings, UpstreamSettings
from proxy.sources.batch import BatchSource
from proxy.sources.native import NativeSource
from proxy.sources.poll import PollSource
from proxy.sources.stages import StagesSource
from proxy.sources.tap import TapSource
from proxy.upstream.breaker import Breaker
from proxy.upstream.client import Origin, Upstream
from proxy.upstream.connection import Timeouts
from proxy.upstream.tunnel import Upgrades
from proxy.viewers.api import RunApi
from proxy.viewers.tickets import Tickets
from proxy.workers.link import Command, Report, SupervisorLink
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.servers import Servers, server
from proxy.workers.sockets import Sockets

logger = logging.getLogger("headgate.app")

CUT_S = 5.0
"""Seconds beyond `drain_s` to tell the viewers that are left, before they are cut."""

STUCK_S = 5.0
"""Seconds beyond that until a process that nobody else could end ends at once."""

GC_THRESHOLDS = (10_000, 5, 20)
"""Events are kept, and are no garbage: at Python's 700 new objects, a fifteenth of the time went into looking
at them again and again."""


@dataclass(frozen=True, slots=True)
class App:
    """Everything of one process."""

    gateway: Gateway
    admin: Admin
    runs: Runs
    settling: Settling
    upgrades: Upgrades
    model_port: ModelPort | None
    descriptors: Descriptors
    connections: Connections
    """Of clients."""
    model_connections: Connections
    """Those of the model port."""

    def end_all(self) -> None:
        """The time to drain is over."""
        self.runs.end_all()
        self.upgrades.cut_all()


def origin(settings: UpstreamSettings | ProviderSettings, *, strict_tls: bool) -> Origin:
    """The settings of the upstream, or of a provider, as the client wants them."""
    url = urlsplit(settings.url)
    tls: ssl.SSLContext | None = None
    if url.scheme == "https":
        tls = strictly(ssl.create_default_context(cafile=settings.tls.ca_file), strict_tls)
        tls.set_alpn_protocols(["http/1.1"])
        if not settings.tls.verify:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    assert url.hostname is not None
    bounds = settings.timeouts.model_dump()
    bounds["first_byte_s"] = bounds["first_byte_s"] or bounds["total_s"]  # queueing is not failing
    return Origin(
        url.hostname,
        url.port or (443 if tls else 80),
        tls,
        Timeouts(**bounds),
        **settings.pool.model_dump(),
    )


def within(to: Origin, most: int) -> Origin:
    """The same with no more than so many connections, idle ones included."""
    idle = min(to.max_idle, most // 4)
    return replace(to, max_connections=min(to.max_connections, max(1, most - idle)), max_idle=idle)


def flags_from(settings: Settings) -> FlagFile | UnleashFlags:
    """The source of flags that the settings name."""
    chosen = settings.flags
    if chosen.unleash is None:
        assert chosen.file is not None  # the settings have one of them
        # A worker that takes a dead one's place while the file is broken relays: that is better than nothing.
        return FlagFile(chosen.file, must_be_good=False, kill_flag=chosen.kill_flag, stale_s=chosen.stale_s)
    token = chosen.unleash.token.get_secret_value()
    server = UnleashServer(**{**dict(chosen.unleash), "token": token, "strict_tls": settings.tls.strict})
    flags = frozenset(route.flag for route in settings.routes)
    return UnleashFlags(server, flags, kill_flag=chosen.kill_flag, stale_s=chosen.stale_s)


def kill_file(settings: Settings, state_dir: Path) -> Path:
    """The local kill switch."""
    return settings.flags.kill_file or state_dir / "kill"


def forwarding(settings: UpstreamSettings, identity: IdentitySettings, to: Origin) -> Forwarding:
    """The forwarding settings as the header tables want them."""
    chosen = settings.forwarding
    of_identity = (identity.header, identity.tenant.header if identity.tenant else None)
    kept = frozenset(name.lower().encode() for name in of_identity if name)
    upstream_host = to.authority if chosen.host == "upstream" else None
    return Forwarding(chosen.x_forwarded, chosen.forwarded, chosen.via, upstream_host, kept)


def sources(routes: Routes, upstream: Upstream, taps: Taps) -> dict[tuple[str, str], Source]:
    """Every source of every route."""
    found: dict[tuple[str, str], Source] = {}
    for compiled in routes.all:
        route = compiled.settings
        found[route.name, "batch"] = BatchSource(upstream)
        if route.poll is not None:
            found[route.name, "poll"] = PollSource(upstream, route)
        if route.stages is not None:
            found[route.name, "stages"] = StagesSource(upstream, route)
        if route.native is not None:
            found[route.name, "native"] = NativeSource(upstream, route, compiled.sections)
        if route.tap is not None:
            found[route.name, "tap"] = TapSource(upstream, taps)
    return found


class TakeoverExecutor:
    """Goes on with the runs of replicas that are gone; a `take_over.Heir`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._runs: Runs | None = None
        self._sources: Mapping[tuple[str, str], Source] = {}

    def begin(self, runs: Runs, sources: Mapping[tuple[str, str], Source]) -> None:
        """There is somebody to execute runs from now on."""
        self._runs = runs
        self._sources = sources

    def may_take(self, route: Route, source: str) -> bool:
        runs = self._runs
        if runs is None or runs.is_handing_over or (route.name, source) not in self._sources:
            return False
        return runs.has_room(route)

    def take(self, taken: TakenOverRun) -> Run:
        assert self._runs is not None
        name, decision = taken.route.name, taken.order.decision
        start = RunSpec(
            taken.call,
            decision,
            taken.identity,
            self._metrics.by_route[name],
            self._sources[name, decision.source],
            taken.run_id,
        )
        return self._runs.take_over(start, taken.beginning)

    def lost(self, run: FollowedRun) -> None:
        counted = self._metrics.by_route[run.route.name]
        counted.faults[Fault.RESET, run.phase].inc()
        counted.recoveries[Fault.RESET, "failed"].inc()


def _provider(
    settings: ProviderSettings, stack: AsyncExitStack, upgrades: Upgrades, *, strict_tls: bool, most: int
) -> Provider:
    """A provider, and its connections, which `stack` closes."""
    to = within(origin(settings, strict_tls=strict_tls), most)
    upstream = Upstream(to)
    stack.push_async_callback(upstream.aclose)
    as_it_is = Forwarding(x_forwarded="off", upstream_host=to.authority)
    relay = Relay(upstream, as_it_is, upgrades, repeats=True)
    dialect = OpenAI() if settings.api == "openai" else Gemini()
    return Provider(settings.name, settings.mount.encode(), dialect, upstream, relay)


@asynccontextmanager
async def running(
    settings: Settings, state_dir: Path, figures: ProcessMetrics | None = None
) -> AsyncIterator[App]:
    """Everything of one process, opened and closed in order. The workers share `state_dir` and `figures`."""
    descriptors = share(raise_limit(), in_use(), _sides(settings))
    async with AsyncExitStack() as stack:
        flag_source: FlagSource = await stack.enter_async_context(flags_from(settings))
        switch = await stack.enter_async_context(KillSwitch(kill_file(settings, state_dir)))
        to = within(origin(settings.upstream, strict_tls=settings.tls.strict), descriptors.each)
        upstream = Upstream(to, wary=True)
        stack.push_async_callback(upstream.aclose)
        routes = Routes(settings.routes)
        store = settings.event_log.valkey
        shared = None
        registry = CollectorRegistry()
        metrics = Metrics(registry, settings.routes, settings.flags.settle_s)
        stack.callback(metrics.settling.close)
        for counted in metrics.by_route.values():
            counted.identity_verified.set(is_verified(settings.identity))
        bounds = settings.upstream.upgrades
        bounds = bounds.model_copy(update={"max_open": min(bounds.max_open, descriptors.each)})
        upgrades = Upgrades(bounds, metrics.unmatched.upgrades, metrics.upgrades_open)
        heir = TakeoverExecutor(metrics)
        if store is not None:
            shared = await stack.enter_async_context(
                ValkeyRuns(
                    store,
                    {route.name: route for route in routes.all},
                    heir=heir,
                    on_cancel=lambda run_id: runs.cancel_here(run_id),
                    on_taken=lambda run: runs.part_with(run),
                    on_fault=lambda run: run.note(Fault.LOG_STORE),
                    on_tap=lambda items: taps.hear(items),
                    strict_tls=settings.tls.strict,
                )
            )
        breaker = Breaker(**settings.upstream.breaker.model_dump())
        runs = Runs(settings.event_log.memory, shared, breaker)
        stack.push_async_callback(runs.aclose)
        # Replicas must agree on who owns a run.
        secret = None if store is None else Sealing(store.key.get_secret_value()).secret("principals")
        identifier = Identifier(settings.identity, secret, strict_tls=settings.tls.strict)
        calls = {
            route.name: compile_calls(route.settings.tap, route.sections)
            for route in routes.all
            if route.settings.tap is not None
        }
        taps = Taps(calls, settings.upstream.timeouts.total_s, shared)
        stack.push_async_callback(taps.aclose)
        found = sources(routes, upstream, taps)
        heir.begin(runs, found)
        forward = forwarding(settings.upstream, settings.identity, to)
        flags = Flags(flag_source, switch)
        stack.enter_context(_repeating(_every_second(metrics, flag_source, flags, routes, runs, shared)))
        stack.enter_context(_repeating(identifier.keep_keys()))
        gateway = Gateway(
            routes,
            identifier,
            flags,
            Relay(upstream, forward, upgrades),
            runs,
            RunApi(runs, identifier, Tickets(shared), metrics, settings.attach_wait_s),
            taps,
            found,
            breaker,
            metrics,
            {route.name: RelayedOutcomes(route) for route in routes.all},
            forward,
            to.authority,
            ByteBudget(int(settings.limits.bodies), metrics.count_over),
            ByteBudget(int(settings.limits.answers), metrics.count_over, Budget.ANSWERS),
        )
        port = learned = None
        if settings.llm is not None:
            strict_tls = settings.tls.strict
            most = max(1, descriptors.each // len(settings.llm.providers))
            providers = [
                _provider(provider, stack, upgrades, strict_tls=strict_tls, most=most)
                for provider in settings.llm.providers
            ]
            shelf = FileLessonStore(state_dir / "learned") if shared is None else shared
            learned = Learned(settings.llm.learned_s, shelf)
            bodies = ByteBudget(int(settings.limits.bodies), metrics.count_over)
            port = ModelPort(providers, settings.llm, taps, metrics, learned, bodies)
        admin = Admin(registry, runs, flag_source, switch, settings.admin_token, learned, figures)
        yield App(
            gateway,
            admin,
            runs,
            metrics.settling,
            upgrades,
            port,
            descriptors,
            *_connections(settings, descriptors, metrics),
        )


def _sides(settings: Settings) -> int:
    """Of which each may have as many connections: clients, the upstream, upgraded ones, the model port's."""
    return 2 + bool(settings.upstream.upgrades.max_open) + (2 if settings.llm is not None else 0)


def _connections(
    settings: Settings, descriptors: Descriptors, metrics: Metrics
) -> tuple[Connections, Connections]:
    """Of clients, and of the model port, whose clients are the upstream's own."""
    most = min(settings.limits.connections, descriptors.each)
    of_client = settings.limits.connections_of_client
    names_clients = settings.upstream.forwarding.x_forwarded == "append"
    return (
        Connections(most, of_client, names_clients=names_clients, over=metrics.count_over),
        Connections(most, most, names_clients=False, over=metrics.count_over),
    )


async def _every_second(
    metrics: Metrics,
    flag_source: FlagSource,
    flags: Flags,
    routes: Routes,
    runs: Runs,
    shared: ValkeyRuns | None,
) -> None:
    while True:
        metrics.flag_age.set(flag_source.age_s)
        metrics.kill_switch.set(flags.killed)
        metrics.event_log_up.set(shared is None or shared.is_up)
        metrics.viewer_lag.set(runs.lag_events)
        for route in routes.all:
            # Also when nobody asks: the users of before are not the arms of now.
            if (generation := generation_of(route.settings.flag, flags)) is not None:
                metrics.by_route[route.name].users.turn_to(generation)
        runs.evict()  # also when nobody asks: texts are kept no longer than the settings say
        await asyncio.sleep(1)


@contextmanager
def _repeating(work: Coroutine[None, None, None]) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def listening(
    app: App, settings: Settings, sockets: Sockets, *, drain_s: float | None = None
) -> AsyncIterator[Servers]:
    """The servers of one process, until the block is left; then the drain."""
    if drain_s is None:
        drain_s = settings.drain_s
    keep_alive_s, grace_s = settings.client_keep_alive_s, drain_s + CUT_S
    counted, backlog = admitting(app.connections), app.descriptors.backlog
    front = server(
        app.gateway, sockets.public, counted, keep_alive_s=keep_alive_s, grace_s=grace_s, backlog=backlog
    )
    others = [server(app.admin.app(), sockets.admin, keep_alive_s=5, grace_s=1)]
    if sockets.model is not None:
        # A client of an SDK keeps its connections for long, and nothing is between it and this port.
        counted = admitting(app.model_connections)
        others.append(
            server(
                app.model_port,
                sockets.model,
                counted,
                keep_alive_s=keep_alive_s,
                grace_s=grace_s,
                backlog=backlog,
            )
        )
    ports = Servers(front, others, app.runs, drain_s)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(front.serve_here())
        serving_too = {group.create_task(other.serve_here()) for other in others}
        try:
            await ports.are_open()
            yield ports
        finally:
            app.runs.draining = True
            app.settling.close()  # while there is still somebody to read the counts
            app.runs.say_goodbye()
            cut = asyncio.get_running_loop().call_later(ports.drain_s, app.end_all)
            front.config.timeout_graceful_shutdown = int(ports.drain_s + CUT_S)
            front.should_exit = True
            await asyncio.wait({serving, group.create_task(app.runs.settled(ports.drain_s))})
            cut.cancel()
            # Runs that end may call their models until then.
            for other in others:
                other.should_exit = True
            await asyncio.wait(serving_too)  # the group would cancel them if the block failed


async def serve(
    settings: Settings,
    sockets: Sockets,
    state_dir: Path,
    parent: SupervisorLink,
    figures: ProcessMetrics | None = None,
) -> None:
    """Serve until the parent orders something else, then drain."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, parent.say, Report.LEAVING)
    async with (
        running(settings, state_dir, figures) as app,
        listening(app, settings, sockets) as ports,
        parent.hears(),
    ):
        # What is here now stays; the collector need not look at it again, which takes milliseconds each time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        logger.info("ready", extra={"listen": settings.listen, "admin": settings.admin})
        if app.descriptors.each < min(ENOUGH, settings.limits.connections):
            logger.warning("few file descriptors, and some are kept for the admin port: raise ulimit -n")
        logger.info(
            "descriptors",
            extra={"limit": app.descriptors.limit, "reserved": RESERVED, "connections": app.descriptors.each},
        )
        order = await parent.order()
        logger.info("draining", extra={"runs": len(app.runs.live_routes())})
        if order is Command.HAND_OVER:
            order = await _until_ordered(ports.hand_over(), parent)
        if order is Command.ORPHANED:
            logger.error("the parent process is gone")
            ports.let_go()
            # Nobody is left to end this process, should it not come to its end.
            signal.alarm(int(ports.drain_s + CUT_S + STUCK_S))
    logger.info("stopped")


async def _until_ordered(work: Coroutine[None, None, None], parent: SupervisorLink) -> Command:
    """Do it until it is done, or the parent wants something else."""
    working = asyncio.ensure_future(work)
    ordered = asyncio.ensure_future(parent.order())
    await asyncio.wait({working, ordered}, return_when=asyncio.FIRST_COMPLETED)
    order = ordered.result() if ordered.done() else Command.HAND_OVER
    for task in (working, ordered):
        task.cancel()
    await asyncio.gather(working, ordered, return_exceptions=True)
    return order
