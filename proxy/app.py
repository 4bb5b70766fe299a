"""The only file that wires: from settings to the parts of one process."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from flags.sources.flag_file import FlagFile
from flags.sources.kill_switch import KillSwitch
from flags.sources.source import Flags, FlagSource
from proxy import serving
from proxy.downstream.admission import Connections
from proxy.downstream.bodies import ByteBudget
from proxy.errors import Fault
from proxy.gateway import CountUnmatched, Gateway
from proxy.gateway import logger as gateway_logger
from proxy.http.headers import Forwarding
from proxy.identity import Identifier, is_verified
from proxy.llm.aws.signing import Signer
from proxy.llm.cautious import CautiousDialect
from proxy.llm.counted_calls import CallCounts
from proxy.llm.denylist import StreamDenylist
from proxy.llm.denylist_file import FileDenylistStore
from proxy.llm.dialects.apis import APIS
from proxy.llm.port import ModelPort
from proxy.llm.provider import Provider
from proxy.llm.taps.expected_calls import compile_calls
from proxy.llm.taps.open_taps import Taps
from proxy.llm.untapped import UntappedCalls
from proxy.observe.admin import Admin
from proxy.observe.labels import Budget
from proxy.observe.metrics import Metrics
from proxy.observe.page.board import Board
from proxy.observe.page.recent_counts import RecentCounts
from proxy.observe.page.served import OperatorsPage
from proxy.observe.page.state import PageState
from proxy.observe.recent_warnings import RecentWarnings
from proxy.observe.shown_counts import totals, viewers
from proxy.observe.spans.ports import ModelSpans
from proxy.observe.stalls import StallWatch
from proxy.observe.users.met_users import UserNames
from proxy.outbound import egress, forwarding, origin, upstream_origin, within
from proxy.relay.outcomes import RelayedOutcomes
from proxy.relay.relay import Relay
from proxy.replicas.takeover_executor import TakeoverExecutor
from proxy.routed.attach_document import AttachDocument
from proxy.routed.attached_pages import AttachedPages
from proxy.routed.batch_path import BatchPath
from proxy.routed.decider import Decider
from proxy.routed.run_access import RunAccess
from proxy.routed.stream_path import StreamPath
from proxy.runs.capacity import AnswerBudget
from proxy.runs.runs import Runs
from proxy.runs.start import Source
from proxy.serving import App
from proxy.settings.blocks.upstream import LlmSettings, ProviderSettings
from proxy.settings.routes import Routes
from proxy.settings.settings import Settings
from proxy.sources.batch import BatchSource
from proxy.sources.job import JobSource
from proxy.sources.native import NativeSource
from proxy.sources.poll import PollSource
from proxy.sources.stages import StagesSource
from proxy.sources.tap import TapSource
from proxy.upkeep import every_second, repeating
from proxy.upstream.breaker import Breaker
from proxy.upstream.client import Upstream
from proxy.upstream.pool import Origin
from proxy.upstream.tunnel import Upgrades
from proxy.viewers.api import RunApi
from proxy.viewers.scripts import Scripts
from proxy.viewers.tickets import Tickets
from proxy.workers.descriptors import Descriptors, in_use, raise_limit, share
from proxy.workers.link import Report, SupervisorLink
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.sockets import Sockets

if TYPE_CHECKING:
    from proxy.observe.page.rollout import ControllerPage
    from proxy.observe.spans.otlp import Traces
    from proxy.replicas.sharded_runs import ShardedRuns
    from proxy.replicas.store.side_by_side import SideBySide

LINKS_OF_SHARD = 5
"""Connections to each shard of the store."""


async def serve(
    settings: Settings,
    sockets: Sockets,
    state_dir: Path,
    supervisor: SupervisorLink,
    process_metrics: ProcessMetrics | None = None,
) -> None:
    """Make the parts of this process, and serve until the supervisor's command; then drain."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.report, Report.LEAVING)
    async with running(settings, state_dir, process_metrics) as app:
        await serving.serve(app, settings, sockets, supervisor)
    serving.logger.info("stopped")


@asynccontextmanager
async def running(
    settings: Settings, state_dir: Path, process_metrics: ProcessMetrics | None = None
) -> AsyncIterator[App]:
    """The parts of one process, opened and closed in order.

    Args:
        settings: of this process.
        state_dir: a directory that all workers share.
        process_metrics: the metrics of all workers. None: there is only this process.
    """
    descriptors = share(raise_limit(), in_use() + _more_links(settings), _sides(settings))
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        warnings = stack.enter_context(RecentWarnings())
        flag_source: FlagSource = await stack.enter_async_context(flags_from(settings))
        switch = await stack.enter_async_context(KillSwitch(kill_file(settings, state_dir)))
        flags = Flags(flag_source, switch)
        parts = _Parts.of(settings, state_dir, stack, descriptors, registry)
        metrics = parts.metrics
        metrics.start_time.set(time() if process_metrics is None else process_metrics.began_at)
        to = within(upstream_origin(settings), descriptors.each)
        upstream = parts.upstream(to, avoids_busy=True)
        routes = Routes(settings.routes)
        executor = TakeoverExecutor(metrics)
        shared = await parts.shared_runs(routes, executor, lambda: runs, lambda: taps)
        if shared is not None:
            await stack.enter_async_context(_shared_histories(shared, metrics))
        breaker = Breaker(**settings.upstream.breaker.model_dump())
        runs = Runs(settings.event_log.memory, shared, breaker, parts.run_answers())
        stack.push_async_callback(runs.aclose)
        identifier = _identifier(settings)
        taps = parts.taps(routes, shared)
        found = sources(routes, upstream, taps)
        stack.enter_context(repeating(every_second(metrics, flag_source, flags, routes, runs, shared)))
        stack.enter_context(repeating(identifier.keep_keys()))
        stack.enter_context(repeating(metrics.process.watch()))
        forward = forwarding(settings.upstream, settings.identity, to)
        traces = parts.traces(to)
        executor.begin(runs, found, traces)
        relay = Relay(upstream, forward, parts.upgrades)
        tickets = Tickets(None if shared is None else shared.tickets)
        run_api = RunApi(runs, identifier, tickets, metrics, settings.attach_wait_s, Scripts.load())
        access = RunAccess(runs, run_api, found, metrics, forward, to.authority)
        decider = Decider(flags, runs, breaker)
        outcomes = {route.name: RelayedOutcomes(route) for route in routes.all}
        answers = ByteBudget(int(settings.limits.answers), metrics.count_over, Budget.ANSWERS)
        batch = BatchPath(access, decider, relay, taps, metrics, outcomes, answers)
        stack.push_async_callback(batch.aclose)
        stream = StreamPath(access, decider)
        bodies = parts.body_budget()
        attach = AttachDocument(routes, settings.identity, identifier, flags)
        pages = (
            AttachedPages(settings.attach, attach, identifier, relay, metrics)
            if settings.attach.inject
            else None
        )
        gateway = Gateway(
            routes,
            identifier,
            decider,
            batch,
            stream,
            relay,
            run_api,
            attach,
            pages,
            metrics,
            CountUnmatched(metrics.unmatched),
            bodies,
            gateway_logger.isEnabledFor(logging.DEBUG),
            traces,
        )
        port = None if settings.llm is None else parts.model_port(settings.llm, taps, shared, traces)
        page = parts.page(runs, breaker, warnings, PageState(flag_source, switch, port, shared))
        stack.enter_context(repeating(page.keep()))
        stalls = stack.enter_context(StallWatch())
        admin = Admin(registry, runs, page, stalls, settings.admin_token, process_metrics)
        yield App(
            gateway,
            admin,
            runs,
            metrics.settling,
            parts.upgrades,
            port,
            descriptors,
            *_connections(settings, descriptors, metrics),
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Makes the parts that `stack` closes, or that need most of the others."""

    settings: Settings
    state_dir: Path
    stack: AsyncExitStack
    descriptors: Descriptors
    metrics: Metrics
    upgrades: Upgrades

    @classmethod
    def of(
        cls,
        settings: Settings,
        state_dir: Path,
        stack: AsyncExitStack,
        descriptors: Descriptors,
        registry: CollectorRegistry,
    ) -> "_Parts":
        providers = [] if settings.llm is None else settings.llm.providers
        # Replicas must agree on users' names, too.
        names = UserNames(_secret(settings, "users"))
        metrics = Metrics(registry, settings.routes, settings.flags.settle_s, providers, names)
        store = settings.event_log.valkey
        if store is None or len(store.places) == 1:
            registry.unregister(metrics.event_log_shard_up)
        stack.callback(metrics.flush)
        stack.callback(metrics.settling.close)
        for counted in metrics.by_route.values():
            counted.identity_verified.set(is_verified(settings.identity))
        bounds = settings.upstream.upgrades
        bounds = bounds.model_copy(update={"max_open": min(bounds.max_open, descriptors.each)})
        upgrades = Upgrades(bounds, metrics.unmatched.upgrades, metrics.upgrades_open)
        return cls(settings, state_dir, stack, descriptors, metrics, upgrades)

    def upstream(self, to: Origin, *, avoids_busy: bool = False) -> Upstream:
        upstream = Upstream(to, avoids_busy=avoids_busy)
        self.stack.push_async_callback(upstream.aclose)
        return upstream

    async def shared_runs(
        self, routes: Routes, executor: TakeoverExecutor, runs: Callable[[], Runs], taps: Callable[[], Taps]
    ) -> "ShardedRuns | None":
        """The port to the other replicas, which needs parts that are made after it. None: there is no
        store."""
        store = self.settings.event_log.valkey
        if store is None:
            return None
        from proxy.replicas.sharded_runs import ShardedRuns

        return await self.stack.enter_async_context(
            ShardedRuns(
                store,
                {route.name: route for route in routes.all},
                executor=executor,
                on_cancel=lambda run: runs().cancel_here(run),
                on_taken_over=lambda run: runs().part_with(run),
                on_fault=lambda run: run.note(Fault.LOG_STORE),
                on_tap=lambda items: taps().receive(items),
                has_spans=self.settings.traces is not None,
                strict_tls=self.settings.tls.strict,
            )
        )

    def taps(self, routes: Routes, shared: "ShardedRuns | None") -> Taps:
        calls = {
            route.name: compile_calls(route.settings.tap, route.sections)
            for route in routes.all
            if route.settings.tap is not None
        }
        by_trace_id = frozenset(
            route.name
            for route in self.settings.routes
            if route.tap is not None and route.tap.match == "traceparent"
        )
        share = None if shared is None else shared.taps
        total_s = [route.settings.job.total_s for route in routes.all if route.settings.job is not None]
        most_s = max(self.settings.upstream.timeouts.total_s, *total_s, 0.0)
        taps = Taps(calls, most_s, share, by_trace_id)
        self.stack.push_async_callback(taps.aclose)
        return taps

    def run_answers(self) -> AnswerBudget:
        count = partial(self.metrics.count_over, Budget.RUN_ANSWERS)
        return AnswerBudget(int(self.settings.limits.run_answers), count)

    def body_budget(self) -> ByteBudget:
        return ByteBudget(int(self.settings.limits.bodies), self.metrics.count_over)

    def traces(self, to: Origin) -> "Traces | None":
        """Headgate's own spans; None: the settings have none."""
        settings = self.settings.traces
        if settings is None:
            return None
        from proxy.observe.spans.otlp import Traces

        providers = {
            each.name: (each.api, (there := origin(each, strict_tls=True)).host, there.port)
            for each in (self.settings.llm.providers if self.settings.llm else ())
        }
        traces = Traces(
            settings,
            egress(self.settings),
            strict_tls=self.settings.tls.strict,
            upstream=(to.host, to.port) if to.path is None else (to.path, None),
            providers=providers,
        )
        self.stack.push_async_callback(traces.aclose)
        return traces

    def model_port(
        self, settings: LlmSettings, taps: Taps, shared: "ShardedRuns | None", spans: ModelSpans | None
    ) -> ModelPort:
        most = max(1, self.descriptors.each // len(settings.providers))
        providers = [self._provider(provider, most) for provider in settings.providers]
        store = FileDenylistStore(self.state_dir / "learned") if shared is None else shared.denylist
        denylist = StreamDenylist(settings.learned_s, store)
        counts, tokens = CallCounts(self.metrics), self.metrics.tokens
        bodies = self.body_budget()
        untapped = UntappedCalls(providers, taps, counts, bodies, spans)
        return ModelPort(untapped, settings, taps, counts, tokens, denylist, bodies)

    def page(self, runs: Runs, breaker: Breaker, warnings: RecentWarnings, state: PageState) -> OperatorsPage:
        calls = {} if state.port is None else state.port.ended
        counts = RecentCounts(lambda: totals(self.metrics, calls), time())
        directory = self.state_dir / "page"
        open_streams = partial(viewers, self.metrics)
        board = Board(self.settings.routes, runs, breaker, warnings, counts, open_streams, directory)
        return OperatorsPage(board, state, self._controller(), self.settings)

    def _controller(self) -> "ControllerPage | None":
        url = self.settings.controller
        if url is None:
            return None
        from proxy.observe.page.rollout import ControllerPage

        return ControllerPage(url)

    def _provider(self, settings: ProviderSettings, most: int) -> Provider:
        ways = egress(self.settings)
        to = within(origin(settings, strict_tls=self.settings.tls.strict, ways=ways), most)
        upstream = self.upstream(to)
        forwarding = Forwarding(x_forwarded="off", upstream_host=to.authority)
        relay = Relay(upstream, forwarding, self.upgrades, repeats=True)
        dialects = [CautiousDialect(dialect) for dialect in APIS[settings.api](to.host)]
        signer = Signer(to.host, to.authority) if settings.api == "bedrock" else None
        return Provider(settings.name, settings.mount.encode(), dialects, upstream, relay, signer)


def _identifier(settings: Settings) -> Identifier:
    # Replicas must agree on who owns a run.
    secret = _secret(settings, "principals")
    return Identifier(settings.identity, secret, strict_tls=settings.tls.strict, ways=egress(settings))


def _secret(settings: Settings, purpose: str) -> bytes | None:
    """32 bytes that all replicas have. None: there is no store, so there is nothing to agree on."""
    store = settings.event_log.valkey
    if store is None:
        return None
    from proxy.replicas.shared_runs import sealing_of

    return sealing_of(store).secret(purpose)


def _shared_histories(shared: "ShardedRuns", metrics: Metrics) -> "SideBySide":
    """What is known of users, in each shard of the store that has some routes of it."""
    from proxy.replicas.histories.draw_records import DrawMemory
    from proxy.replicas.histories.history_records import HistoryMemory
    from proxy.replicas.histories.history_scripts import HISTORY_SCRIPTS
    from proxy.replicas.histories.shared_histories import ROUND_S, SharedHistories
    from proxy.replicas.histories.watch_records import WatchMemory
    from proxy.replicas.store.side_by_side import SideBySide
    from proxy.replicas.store.valkey import Health

    found = []
    for shard in shared.shards:
        memories = [
            memory
            for route, counted in metrics.by_route.items()
            if shared.at(f"route {route}") is shard
            for memory in (
                HistoryMemory(route, counted.histories),
                WatchMemory(route, counted.user_watch),
                DrawMemory(route, counted.draws),
            )
        ]
        if memories:
            link = shard.new_link(Health("store of histories", shard.shard), HISTORY_SCRIPTS, ROUND_S)
            found.append(SharedHistories(link, shard.keys, shard.sealing, shard.replica, memories))
    return SideBySide(found)


def flags_from(settings: Settings) -> FlagSource:
    """The source of flags that the settings name."""
    chosen = settings.flags
    if chosen.unleash is None:
        assert chosen.file is not None  # the settings have one of them
        # A worker that replaces a dead one while the file is broken relays, which is better than nothing.
        return FlagFile(chosen.file, must_be_good=False, kill_flag=chosen.kill_flag, stale_s=chosen.stale_s)
    from flags.sources.unleash import UnleashFlags
    from flags.sources.unleash_api import UnleashServer

    token = chosen.unleash.token.get_secret_value()
    server = UnleashServer(
        **{
            **dict(chosen.unleash),
            "token": token,
            "strict_tls": settings.tls.strict,
            "ways": egress(settings),
        }
    )
    flags = frozenset(route.flag for route in settings.routes)
    return UnleashFlags(server, flags, kill_flag=chosen.kill_flag, stale_s=chosen.stale_s)


def kill_file(settings: Settings, state_dir: Path) -> Path:
    """The file of the local kill switch."""
    return settings.flags.kill_file or state_dir / "kill"


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
        if route.job is not None:
            tapped = taps if route.tap is not None else None
            found[route.name, "job"] = JobSource(upstream, route, compiled.sections, tapped)
    return found


def _more_links(settings: Settings) -> int:
    """Connections to the store beyond those that are reserved, if it has several shards."""
    store = settings.event_log.valkey
    return 0 if store is None else (len(store.places) - 1) * LINKS_OF_SHARD


def _sides(settings: Settings) -> int:
    """The number of sides that share descriptors: clients, upstream, tunnels, and the model port's two."""
    return 2 + bool(settings.upstream.upgrades.max_open) + (2 if settings.llm is not None else 0)


def _connections(
    settings: Settings, descriptors: Descriptors, metrics: Metrics
) -> tuple[Connections, Connections, Connections]:
    """The connections of clients; of the model port, whose only client is the upstream; of the admin port."""
    most = min(settings.limits.connections, descriptors.each)
    of_client = settings.limits.connections_of_client
    return (
        Connections(most, of_client, on_refused=metrics.count_over),
        Connections(most, most, on_refused=metrics.count_over),
        Connections(descriptors.admin, descriptors.admin // 4, on_refused=metrics.count_over),
    )
