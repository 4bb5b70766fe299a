"""A controller at work: the lease, its ports as the policy has them, and ticks until it is stopped."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, GCCollector, start_http_server

from flags.egress import Egress
from flags.errors import JournalBusy, LeaseError, LeaseLost, RolloutError
from flags.rollout.controller import Controller, Ports
from flags.rollout.evidence.pages import PageReadings
from flags.rollout.evidence.prometheus import PrometheusReadings
from flags.rollout.evidence.readings import Readings
from flags.rollout.inbox import Inbox
from flags.rollout.journal import Journal
from flags.rollout.leases.kubernetes_api import ApiServer
from flags.rollout.leases.kubernetes_lease import ClusterLease
from flags.rollout.leases.lease import Fence, FileLease, Lease
from flags.rollout.policy.policy import FlagPlace, Policy
from flags.rollout.reporting.metrics import ControllerProcess, RolloutMetrics
from flags.rollout.reporting.notices import Notice, Webhook
from flags.rollout.tick.looking import Clocks
from flags.rollout.writing.file_admin import FileAdmin
from flags.rollout.writing.flag_admin import FlagAdmin, ManagedFlag
from flags.rollout.writing.unleash_admin import UnleashAdmin
from flags.tls import trusting

logger = logging.getLogger("headgate.rollout")

ACTS_S = 0.5
"""Between two looks for acts of people, so that a rollback does not wait for the next tick."""

RETRY_S = 5.0
"""Between two attempts to write the 0 % that is due, which does not wait for the next tick."""

LEASE_S = 30
"""Seconds that a lease lasts without renewal, and so the time without a controller after one was killed."""

RENEW_S = 10.0

STANDBY_S = 5.0
"""Between two attempts to become the writer."""

Send = Callable[[Notice], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class StartedBy:
    """The one who begins a rollout, where none is under way."""

    by: str
    reason: str
    again: bool = False
    """Begin another rollout, also after one that is over."""
    after: str = ""
    """The newest rollout when this was said; "" before the first one. It was said of no later one."""


async def serve(policy: Policy, begin: StartedBy) -> None:
    """Be the writer whenever nobody else is, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with opened_lease(policy) as lease, _served_metrics(policy) as metrics:
        while not stop.is_set():
            fence = await _acquired(lease)
            if fence is None:
                await _until(stop, STANDBY_S)
                continue
            try:
                await _lead(policy, lease, fence, begin, metrics, stop)
            except LeaseLost as exc:
                logger.warning("rollout: no longer the writer: %s", exc)
            except JournalBusy:
                await _until(stop, ACTS_S)  # a command writes one entry
            finally:
                with suppress(LeaseError):  # it runs out by itself
                    await lease.release(fence)


async def _acquired(lease: Lease) -> Fence | None:
    try:
        return await lease.acquire()
    except LeaseError as exc:
        logger.warning("rollout: nobody can say who writes: %s", exc)
        return None


async def _lead(
    policy: Policy,
    lease: Lease,
    fence: Fence,
    begin: StartedBy,
    metrics: RolloutMetrics,
    stop: asyncio.Event,
) -> None:
    """Tick until stopped. Raises LeaseLost."""
    with Journal.open(policy.journal) as journal:
        async with opened(policy, journal, lease) as controller, opened_webhook(policy) as send:
            await _begin(controller, begin)
            metrics.show(controller.state, policy)
            renew_due_s = tick_due_s = retry_due_s = time.monotonic()
            while not stop.is_set():
                if time.monotonic() >= renew_due_s:
                    await _renew(lease, fence)
                    renew_due_s = time.monotonic() + RENEW_S
                if controller.acts_wait or time.monotonic() >= tick_due_s:
                    tick_due_s = time.monotonic() + policy.tick_s
                    await _tick(controller, fence)
                    metrics.show(controller.state, policy)
                    await controller.send_notices(send)
                    retry_due_s = time.monotonic() + RETRY_S
                elif controller.is_down_due and time.monotonic() >= retry_due_s:
                    await controller.retry(fence)
                    metrics.show(controller.state, policy)
                    retry_due_s = time.monotonic() + RETRY_S
                await _until(stop, ACTS_S)


async def _renew(lease: Lease, fence: Fence) -> None:
    try:
        await lease.renew(fence)
    except LeaseLost:
        raise
    except LeaseError as exc:
        logger.warning("rollout: the lease was not renewed: %s", exc)  # each write asks for it anyway


async def _tick(controller: Controller, fence: Fence) -> None:
    before = controller.last_move
    await controller.tick(fence)
    if controller.last_move != before:
        logger.info("rollout: %s", controller.last_move)


async def _begin(controller: Controller, begin: StartedBy) -> None:
    state = controller.state
    if state.run and not (state.is_over and begin.again and state.run == begin.after):
        return
    if not begin.reason:
        raise RolloutError("--reason must say why a rollout is begun")
    await controller.begin(begin.by, begin.reason, again=begin.again)


async def _until(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


# Ports.


@asynccontextmanager
async def opened(policy: Policy, journal: Journal, lease: Lease) -> AsyncIterator[Controller]:
    """A controller that goes on where its journal stands."""
    async with opened_admin(policy) as admin, opened_readings(policy) as readings:
        ports = Ports(
            admin=admin,
            readings=readings,
            journal=journal,
            lease=lease,
            clocks=Clocks(time.time, time.monotonic),
            inbox=Inbox(policy.journal),
            incident=lambda: policy.incident_lock is not None and policy.incident_lock.exists(),
        )
        controller = Controller(policy, ports)
        controller.load()
        yield controller


@asynccontextmanager
async def opened_admin(policy: FlagPlace) -> AsyncIterator[FlagAdmin]:
    """The port that changes the flag, in the place that the policy names."""
    flag = ManagedFlag(policy.flag, policy.kill_flag, policy.stickiness, policy.group_id)
    place = policy.where.unleash
    if place is None:
        assert policy.where.file is not None, "one of the two"
        yield FileAdmin(policy.where.file, flag)
        return
    token = place.token.get_secret_value()
    proxy = _ways(policy).for_httpx(place.url)
    opened = UnleashAdmin(
        place.url,
        token,
        flag,
        project=policy.project,
        environment=policy.environment,
        tls=trusting(place.ca_file or policy.tls.ca_file, strict=policy.tls.strict),
        proxy=proxy,
    )
    async with opened as admin:
        yield admin


@asynccontextmanager
async def opened_readings(policy: Policy) -> AsyncIterator[Readings]:
    """The port that the counts come from."""
    server = policy.evidence.prometheus
    if server is not None:
        async with _client(policy, server.ca_file, server.url) as client:
            yield PrometheusReadings(client, server, policy.wanted(), stale_after_s=policy.stale_after_s)
        return
    assert policy.evidence.pages is not None, "one of the two"
    async with _client(policy, None, "") as client:
        yield PageReadings(client, policy.evidence.pages, policy.wanted())


def _client(policy: Policy, ca_file: Path | None, url: str) -> httpx.AsyncClient:
    """A client for one server, or without `url` for those to which there is never a proxy."""
    tls = trusting(ca_file or policy.tls.ca_file, strict=policy.tls.strict)
    proxy = _ways(policy).for_httpx(url) if url else None
    return httpx.AsyncClient(verify=tls, follow_redirects=False, trust_env=False, proxy=proxy)


def _ways(policy: FlagPlace) -> Egress:
    """Return the way to each server. Raises RolloutError for a variable that names no proxy."""
    try:
        return policy.proxy.way(os.environ, policy.tls.ca_file, strict=policy.tls.strict)
    except ValueError as exc:
        raise RolloutError(f"proxy: {exc}") from None


@asynccontextmanager
async def opened_lease(policy: Policy) -> AsyncIterator[Lease]:
    """The lease, which keeps a second controller from writing."""
    place = policy.lease.kubernetes
    if place is None:
        assert policy.lease.file is not None, "one of the two"
        yield FileLease(policy.lease.file, ttl_s=LEASE_S)
        return
    async with ApiServer.in_cluster(os.environ, strict_tls=policy.tls.strict) as api:
        yield ClusterLease(api, place.namespace, place.name, ttl_s=LEASE_S)


@asynccontextmanager
async def _served_metrics(policy: Policy) -> AsyncIterator[RolloutMetrics]:
    """The controller's metrics, served on the port that the policy names, if any."""
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    ControllerProcess(registry)
    GCCollector(registry)
    if policy.listen is None:
        yield metrics
        return
    host, _, port = policy.listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as exc:
        raise RolloutError(f"listen: cannot listen on {policy.listen}: {exc.strerror}") from None
    try:
        yield metrics
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@asynccontextmanager
async def opened_webhook(policy: Policy) -> AsyncIterator[Send]:
    if policy.notify is None:
        yield _no_webhook
        return
    url = policy.notify.webhook.get_secret_value()
    async with _client(policy, policy.notify.ca_file, url) as client:
        yield Webhook(policy.notify, client).send


async def _no_webhook(notice: Notice) -> bool:
    return True
