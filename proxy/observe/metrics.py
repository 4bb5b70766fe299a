"""The metrics of `docs/design.md`, section 7. All label sets exist from the first scrape.

Children are bound once per route, so that a request looks up no labels. Names stand here without
`headgate_`, and counters without `_total`.
"""

import asyncio
import platform
from collections.abc import Iterable, Sequence
from itertools import product
from time import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.registry import Collector

from flags.decision import Arm, Decision, Mode, Reason
from proxy.errors import Fault
from proxy.identity import BUCKETS, Identity
from proxy.observe.deliveries import Deliveries
from proxy.observe.labels import Budget, CallResult, FaultPhase, PageResult
from proxy.observe.process import ProcessFigures
from proxy.observe.settling import Settling
from proxy.observe.tokens import TOKENS, TokenCounts
from proxy.observe.unmatched import UnmatchedMetrics
from proxy.observe.users.draws import HARMS
from proxy.observe.users.failing_users import FailingUsers
from proxy.observe.users.histories import Histories
from proxy.observe.users.met_users import UserNames, Users
from proxy.observe.users.shared_draws import SharedDraws
from proxy.observe.users.user_watch import UserWatch
from proxy.observe.users.watched_users import LIMITS, exact
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.upstream import ProviderSettings
from proxy.text.sections import Parity
from proxy.version import release

# A second series beside each counter and histogram; `process_start_time_seconds` says the same of all.
disable_created_metrics()  # type: ignore[no-untyped-call]

OUTCOMES = (
    "complete",
    "recovered",
    "fell_back",
    "failed",
    "truncated",
    "client_left",
    "cancelled",
    "shutdown",
)
ANSWERED = frozenset({"complete", "recovered", "fell_back"})
"""Outcomes of requests that got a whole answer: their duration is observed."""
BAD = frozenset({"failed", "truncated"})
"""Outcomes by which a user has no answer, or not all of it."""
COMPARED_ARMS = (Arm.STREAM, Arm.CONTROL)

RECOVERY_RESULTS = ("recovered", "fell_back", "failed")

REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120, 300)
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
FIRST_CONTENT_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120, 300)
DELIVERY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
RATIO = (0.01, 0.02, 0.04, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1)


class _Registrar:
    """Registers metrics whose names begin with `headgate_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headgate_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"headgate_{name}", text, labels, buckets=buckets, registry=self._registry)

    def gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        return Gauge(f"headgate_{name}", text, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]


class RouteFamilies:
    """The metrics with the label `route`; `RouteMetrics` has their children."""

    def __init__(self, registry: CollectorRegistry) -> None:
        register = _Registrar(registry)
        counter, histogram, gauge = register.counter, register.histogram, register.gauge
        self.requests = counter(
            "requests", "Requests by mode and reason of the decision", "route", "mode", "reason"
        )
        self.request_seconds = histogram(
            "request_seconds", "Seconds from a request's head to its answer's end", REQUEST_S, "route", "mode"
        )
        self.relay_overhead = histogram(
            "relay_overhead_seconds",
            "Seconds of a relayed request not spent waiting upstream",
            OVERHEAD_S,
            "route",
        )
        self.runs = counter("runs", "Ended runs", "route", "arm", "source", "outcome")
        self.first_content = histogram(
            "first_content_seconds",
            "Seconds from a run's start to its first text",
            FIRST_CONTENT_S,
            "route",
            "source",
        )
        self.delivery = histogram(
            "delivery_seconds",
            "Seconds from when a text is known until its bytes are at the socket",
            DELIVERY_S,
            "route",
            "source",
        )
        self.run_seconds = histogram("run_seconds", "Seconds of a run", REQUEST_S, "route", "arm")
        self.perceived_wait = histogram(
            "perceived_wait_ratio",
            "Time to the first text by the run's time",
            RATIO,
            "route",
            "source",
        )
        self.faults = counter("faults", "Failures by class and phase", "route", "fault", "phase")
        self.recoveries = counter(
            "recoveries", "Runs that met a failure, by how they ended", "route", "fault", "result"
        )
        self.parity = counter(
            "parity",
            "Sections by how the shown text compares with the batch answer",
            "route",
            "result",
        )
        self.outcomes = counter(
            "outcomes", "Settled requests by arm and user bucket", "route", "arm", "bucket", "outcome"
        )
        self.expected_failures = counter(
            "expected_failures",
            "Failures that users' histories let expect, weighed",
            "route",
            "arm",
            "bucket",
        )
        self.weighed_failures = counter(
            "weighed_failures",
            "Failures, each weighing less the more were expected of its user",
            "route",
            "arm",
            "bucket",
        )
        self.capped_failures = counter(
            "capped_failures",
            "Failures, of each user at most five an hour",
            "route",
            "arm",
        )
        self.users_worse = counter(
            "users_worse",
            "Users who came to fail far more often, once for each limit and rollout",
            "route",
            "arm",
            "limit",
        )
        self.slower = counter(
            "slower", "Answers that took 1.5 times their user's usual time", "route", "arm", "bucket"
        )
        self.settled_seconds = histogram(
            "settled_seconds",
            "Seconds of settled requests with an answer",
            REQUEST_S,
            "route",
            "arm",
        )
        self.users = gauge(
            "users", "Different users since the flag changed: at least so many", "livemax", "route", "arm"
        )
        self.users_cv2 = gauge(
            "users_cv2",
            "Squared coefficient of variation of users' failure rates, by histories; 0: unknown",
            "livemax",
            "route",
        )
        self.users_group = gauge(
            "users_group",
            "Number of those who count worse users together; 0: nobody",
            "livemax",
            "route",
        )
        self.users_alone = gauge("users_alone", "Processes that count them alone", "livesum", "route")
        self.draw_evidence = gauge(
            "draw_evidence",
            "Log of how much likelier harm makes the draw of users",
            "livemin",
            "route",
            "harm",
        )
        self.identity_verified = gauge(
            "identity_verified",
            "1 where each user is verified: no client is a user that it only claims to be",
            "livemin",
            "route",
        )
        self.viewers = gauge("viewers", "Open streams", "livesum", "route")


class Metrics(RouteFamilies):
    """Every metric of the process, in the caller's registry.

    The caller closes `settling`, and flushes at the end. Who reads the registry has all that is counted; who
    reads a family alone flushes before.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        routes: Sequence[RouteSettings],
        settle_s: float = 0.0,
        providers: Sequence[ProviderSettings] = (),
        names: UserNames | None = None,
    ) -> None:
        registry.register(_UntilNow(self))  # before all others: a registry collects in this order
        super().__init__(registry)
        self.unmatched = UnmatchedMetrics(self.requests, self.request_seconds, self.relay_overhead)
        self.settling = Settling(settle_s)
        register = _Registrar(registry)
        counter, gauge, histogram = register.counter, register.gauge, register.histogram
        self.over_budget = counter(
            "over_budget", "Refusals because a budget that all share was used up", "budget"
        )
        for budget in Budget:
            self.over_budget.labels(budget)
        self.upgrades_open = gauge("upgrades_open", "Open upgraded connections, as of WebSocket", "livesum")
        self.viewer_lag = gauge(
            "viewer_lag_events", "Events that the slowest viewer has not been sent", "livemax"
        )
        self.flag_age = gauge("flag_age_seconds", "Seconds since the flags were last confirmed", "livemax")
        self.kill_switch = gauge("kill_switch", "1 while streaming is off for everybody", "livemax")
        self.event_log_up = gauge("event_log_up", "1 while the store answers, or none is used", "livemin")
        self.event_log_shard_up = gauge(
            "event_log_shard_up",
            "1 while a shard of the store answers; only where it has several",
            "livemin",
            "shard",
        )
        self.flag_context_missing = counter("flag_context_missing", "Requests of a route without an identity")
        self.tap_calls = counter("tap_calls", "Calls to the model port by result", "result")
        self.count_call = {ended: self.tap_calls.labels(ended)._value.inc for ended in CallResult}
        self.tap_tokens = histogram(
            "tap_tokens",
            "Tokens of answered model calls of runs",
            TOKENS,
            "route",
            "provider",
            "model",
            "type",
        )
        self.tap_cost = counter(
            "tap_cost",
            "Cost of the same, in the currency of the settings' prices",
            "route",
            "provider",
            "model",
        )
        self.tokens = TokenCounts(self.tap_tokens, self.tap_cost, routes, providers)
        self.attached_pages = counter("attached_pages", "Pages of `attach` by result", "result")
        for became in PageResult:
            self.attached_pages.labels(became)
        self.kill_flag_on = gauge(
            "kill_flag_on_timestamp_seconds",
            "Unix time at which the kill flag was last found turned on; 0: it was not",
            "livemax",
        )
        self.build_info = gauge("build_info", "Always 1", "livemax", "version", "python")
        self.start_time = Gauge(
            "process_start_time_seconds",
            "Unix time at which the counters of this page began at zero",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.process = ProcessFigures(registry)
        self.build_info.labels(release(), platform.python_version()).set(1)
        names = UserNames() if names is None else names
        self.by_route = {route.name: RouteMetrics(self, self.settling, route, names) for route in routes}

    def flush(self) -> None:
        """Add to the metrics what is counted and waits to be added."""
        self.unmatched.flush()
        for of_route in self.by_route.values():
            for deliveries in of_route.deliveries.values():
                deliveries.flush()

    def count_over(self, budget: Budget) -> None:
        """Count a refusal."""
        self.over_budget.labels(budget).inc()


class _UntilNow(Collector):
    """Shows nothing. It is collected before all others, which then have what is counted until now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        self._metrics.flush()
        return ()


class RouteMetrics:
    """The metrics of one route."""

    def __init__(
        self, families: RouteFamilies, settling: Settling, route: RouteSettings, names: UserNames
    ) -> None:
        name, sources = route.name, sorted(route.sources)
        reasons: list[Reason] = [reason for reason in Reason if reason is not Reason.NO_ROUTE]
        self.requests = {
            (mode, reason): families.requests.labels(name, mode, reason)
            for mode, reason in product((Mode.BATCH, Mode.STREAM), reasons)
            if (mode is Mode.STREAM) == (reason is Reason.FLAG_ON)
        }
        self.seconds = {
            mode: families.request_seconds.labels(name, mode) for mode in (Mode.BATCH, Mode.STREAM)
        }
        self.overhead = families.relay_overhead.labels(name)
        self.runs = {
            key: families.runs.labels(name, *key)
            for key in product([a.value for a in Arm], sources, OUTCOMES)
        }
        self.first_content = {s: families.first_content.labels(name, s) for s in sources}
        self.deliveries = {s: Deliveries(families.delivery.labels(name, s)) for s in sources}
        self.run_seconds = {arm.value: families.run_seconds.labels(name, arm) for arm in Arm}
        self.perceived_wait = {s: families.perceived_wait.labels(name, s) for s in sources}
        faults = [fault for fault in Fault if fault is not Fault.JOB_FAILED or route.job is not None]
        self.faults = {key: families.faults.labels(name, *key) for key in product(faults, FaultPhase)}
        self.recoveries = {
            key: families.recoveries.labels(name, *key) for key in product(faults, RECOVERY_RESULTS)
        }
        self.parity = {parity: families.parity.labels(name, parity) for parity in Parity}
        self.outcomes = {
            key: families.outcomes.labels(name, *key)
            for key in product([a.value for a in Arm], map(str, range(BUCKETS)), OUTCOMES)
        }
        self.settled_seconds = {arm: families.settled_seconds.labels(name, arm) for arm in Arm}
        self.expected_failures, self.weighed_failures, self.slower = (
            {
                key: family.labels(name, *key)
                for key in product([a.value for a in COMPARED_ARMS], map(str, range(BUCKETS)))
            }
            for family in (families.expected_failures, families.weighed_failures, families.slower)
        )
        self.capped_failures = {arm: families.capped_failures.labels(name, arm) for arm in COMPARED_ARMS}
        self._failing_users = FailingUsers()
        self.users_worse = {
            (arm, limit): families.users_worse.labels(name, arm, f"{limit:g}")
            for arm, limit in product(Arm, LIMITS)
        }
        self.users = Users({arm: families.users.labels(name, arm) for arm in COMPARED_ARMS})
        self.histories = Histories()
        self.user_watch = UserWatch(self._count_worse)
        self._users_cv2 = families.users_cv2.labels(name)
        self._users_group = families.users_group.labels(name)
        self._users_alone = families.users_alone.labels(name)
        self.draws = SharedDraws()
        self._draw_evidence = {harm: families.draw_evidence.labels(name, harm) for harm in HARMS}
        self.identity_verified = families.identity_verified.labels(name)
        self._settling = settling
        self._names = names
        self.viewers = families.viewers.labels(name)
        self.viewers.set(0)

    def start_generation(self, generation: str, share: int | None) -> None:
        """From now on users are in their arms by this generation of the flag, see `Decision`."""
        self.users.start_generation(generation)
        self.draws.begin(generation, share, time())

    def settle(
        self, decision: Decision, identity: Identity, outcome: str, began_at: float, ended_at: float
    ) -> None:
        """Count a request that has ended, once it settles; count its user at once.

        The user is not counted before the end: until the upstream has answered, a client may claim to be
        any user.

        Args:
            outcome: one of `OUTCOMES`.
            began_at: when the request came, in seconds of the loop's clock.
            ended_at: when it ended, by the same clock.
        """
        arm, bucket = decision.arm, str(identity.bucket)
        user = self._names.of(identity.user, identity.tenant)
        self.users.add_ended(arm, user, decision.generation)
        amounts: dict[Counter, float] = {self.outcomes[arm.value, bucket, outcome]: 1}
        if outcome in ANSWERED or outcome in BAD:
            failed = outcome in BAD
            drawn_by = "" if decision.left_out else decision.generation
            self.draws.add(user, time(), arm, drawn_by, self.histories.prior, failed=failed)
            amounts |= self._of_user(user, arm, bucket, failed, ended_at - began_at)
            if failed and arm in COMPARED_ARMS and self._failing_users.counts(user, ended_at):
                amounts[self.capped_failures[arm]] = 1
        self._settling.add(
            amounts,
            self.settled_seconds[arm] if outcome in ANSWERED else None,
            began_at,
            ended_at,
        )

    def _of_user(
        self, user: bytes, arm: Arm, bucket: str, failed: bool, seconds: float
    ) -> dict[Counter, float]:
        """The counts of an answer or a failure, compared with what its user did before."""
        now_s, prior = time(), self.histories.prior
        expected = self._expected(user, arm, now_s, failed)
        weight, slow, passed = self.user_watch.ended(
            user, now_s, arm, prior, failed=failed, seconds=seconds, expected=expected
        )
        amounts: dict[Counter, float] = {self.users_worse[arm, limit]: 1 for limit in passed}
        if arm in COMPARED_ARMS:
            amounts[self.expected_failures[arm.value, bucket]] = exact(weight * expected)
            if failed:
                amounts[self.weighed_failures[arm.value, bucket]] = weight
            if slow:
                amounts[self.slower[arm.value, bucket]] = 1
        return amounts

    def _count_worse(self, arm: Arm, limit: float) -> None:
        """A user has passed a limit, as the log has it: as if the request had just come."""
        now = asyncio.get_running_loop().time()
        self._settling.add({self.users_worse[arm, limit]: 1}, None, now, now)

    def show_users(self, now_s: float) -> None:
        """Set the gauges of what is known of users. Times are Unix's."""
        self._users_cv2.set(self.histories.cv2)
        group = self.user_watch.group(now_s)
        self._users_group.set(group)
        self._users_alone.set(not group)
        for harm, evidence in self.draws.evidence.items():
            self._draw_evidence[harm].set(evidence)

    def forget_users(self, now_s: float) -> None:
        """Forget who was not seen for long."""
        self.histories.forget(now_s)
        self.user_watch.forget(now_s)
        self.draws.forget(now_s)

    def _expected(self, user: bytes, arm: Arm, now_s: float, failed: bool) -> float:
        """The chance of a failure that the user's history gave this request; then the history has it too.

        Both compared arms stop adding to their users' histories. Control could go on; but then a change of
        all failures since, as by an outage, would be in its histories alone, and would look like harm.
        """
        expected = self.histories.expected(user)
        if arm is Arm.REST:
            self.histories.add(user, now_s, failed)
        elif arm is Arm.CONTROL:
            self.histories.check(user, failed)
        return expected
