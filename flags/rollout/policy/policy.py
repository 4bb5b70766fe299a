"""All that a rollout may do, and when, with defaults, units and dangers; unknown names are refused. No I/O.

`file.py` reads it. This file is the source of `docs/reference/policy.md`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from flags.rollout.evidence.readings import Wanted
from flags.rollout.policy.freezes import Freeze
from flags.rollout.policy.guardrail_settings import BudgetSettings, Guardrails
from flags.rollout.policy.guardrails import ErrorBudget, Exposure, Guardrail
from flags.rollout.policy.proxy_settings import ProxySettings
from flags.rollout.policy.value_types import (
    Address,
    Authorities,
    Duration,
    File,
    FlagName,
    Number,
    OneOf,
    PolicyBlock,
    RouteName,
    Seconds,
    Secret,
    SecretUrl,
    Url,
    Whole,
    Yes,
)

_MATCHER = r'\s*[A-Za-z_][A-Za-z0-9_]*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"\s*'
_SELECTOR = re.compile(f"{_MATCHER}(?:,{_MATCHER})*")


def _selector(value: str) -> str:
    if not _SELECTOR.fullmatch(value):
        raise ValueError('must be label matchers without braces, for example job="headgate",namespace="ehr"')
    return value


STALE_TICKS = 1.5
"""Two looks are a tick apart, and a bit."""


def _stickiness(value: Any) -> Any:
    if value != "userId":
        raise ValueError(
            "must be userId: by anything else the same person would change arms between requests"
        )
    return value


class UnleashPlace(PolicyBlock):
    """An Unleash server."""

    url: Url
    """Without `/api`."""
    token: Secret
    """Token of the Admin API, with the right to update strategies of this project and environment."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust for this server."""


class Where(OneOf):
    """The place of the flag: exactly one of these."""

    unleash: UnleashPlace | None = None
    """On a server."""
    file: File | None = None
    """The file that the proxies watch. A relative path starts from the policy's folder."""


class PrometheusEvidence(PolicyBlock):
    """A server with Prometheus's HTTP API that scrapes the proxies."""

    url: Url
    """Without `/api/v1`."""
    selector: Annotated[str, AfterValidator(_selector)]
    """Label matchers that find the proxies, each of them once: `job="headgate"`."""
    token: Secret | None = None
    """Bearer token."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust for this server."""
    timeout_s: Annotated[Number, Field(gt=0, le=60)] = 10
    """Seconds for one reading."""


class Evidence(OneOf):
    """The source of the counts: exactly one of these."""

    prometheus: PrometheusEvidence | None = None
    """A Prometheus that scrapes the proxies."""
    pages: Annotated[tuple[Url, ...], Field(min_length=1, max_length=100)] | None = None
    """The proxies' own `/metrics`. Each must be one proxy, never a load balancer before several: their counts
    would be taken for restarts. What a page counted since the last look is lost when it is gone; Prometheus
    keeps it."""

    @field_validator("pages")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else _different(value)


class KubernetesLease(PolicyBlock):
    """A `coordination.k8s.io` Lease, for a controller in a cluster."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """The namespace of the lease."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    """Name of the Lease."""


class LeasePlace(OneOf):
    """The lease that keeps a second controller from writing: exactly one of these."""

    file: File | None = None
    """The lease for controllers on one machine."""
    kubernetes: KubernetesLease | None = None
    """The lease for controllers in one cluster."""


class Notify(PolicyBlock):
    """The webhook that is told of moves, holds and outages."""

    webhook: SecretUrl
    """Gets a POST with JSON. It is kept secret, since a webhook takes messages from everybody who has its
    address."""
    headers: Annotated[Mapping[str, Secret], Field(max_length=20)] = {}
    """Sent along; the values are kept secret."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust for this server."""
    timeout_s: Annotated[Number, Field(gt=0, le=60)] = 10
    """Seconds for one attempt."""
    attempts: Annotated[Whole, Field(ge=1, le=10)] = 3
    """Then this message is given up; the journal has it all the same."""

    @field_validator("headers")
    @classmethod
    def _names(cls, value: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        if not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name in value):
            raise ValueError("must have names of HTTP headers, for example Authorization")
        return value


class Tls(PolicyBlock):
    """Certificates of all that is asked by `https`: Unleash, Prometheus, the proxies, Kubernetes, the
    webhook."""

    strict: Yes = True
    """Hold certificates to the letter of RFC 5280, as in the proxies' `tls.strict`."""
    ca_file: Authorities | None = None
    """PEM file of the authorities to trust instead of the system's, wherever a server has no `ca_file` of its
    own. Kubernetes has one: its service account's."""


class Step(PolicyBlock):
    """One step of the way: how many users, for how long, and what must be shown before the next one."""

    share: Annotated[Whole, Field(ge=0, le=100)]
    """Percent of users, a whole number, since Unleash enables nobody for a fraction. 0 is allowed for the
    first step alone, and is dark: everything is done for the users of the next step's share, and nothing is
    shown. Texts are compared there only on routes with the source `tap`."""
    at_least: Duration
    """The shortest time in this step, whatever is proved."""
    at_most: Duration | None = None
    """Without proof by then the controller asks a person. It never advances because of time."""
    min_users: Annotated[Whole, Field(ge=1, le=1_000_000)] = 20
    """Different users in each arm before the arms are compared."""
    min_samples: Annotated[Whole, Field(ge=1, le=100_000_000)] = 200
    """Settled requests in each arm of this step before anything counts as safe."""
    prove: Yes = Field(
        default_factory=lambda said: said.get("share") != 0,
        json_schema_extra={"default": "`true`; dark: `false`"},
    )
    """Every guardrail must be shown to be safe before the next step. Harm acts in any case."""
    approve: Yes = False
    """A person must approve the next step. Needed where a step that is shown has `prove: false`."""

    @field_validator("at_most")
    @classmethod
    def _after_at_least(cls, value: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if value is not None and value <= info.data.get("at_least", timedelta()):
            raise ValueError("must be longer than `at_least`")
        return value

    @field_validator("approve")
    @classmethod
    def _in_place_of_proof(cls, value: bool, info: ValidationInfo) -> bool:
        if info.data.get("share") and info.data.get("prove") is False and not value:
            raise ValueError("must be true where `prove` is false: a person takes the proof's place")
        return value

    def share_written(self, policy: "Policy") -> int:
        """The share that the strategy gets in this step: for dark that of the next one."""
        return self.share or policy.steps[policy.steps.index(self) + 1].share


class FlagPlace(PolicyBlock):
    """The place of the flag, and the journal of what was done to it: all that going down needs."""

    flag: FlagName
    """The flag whose share is moved."""
    kill_flag: FlagName = "headgate.kill"
    """The flag that turns streaming off for everybody: as in the settings of the proxies."""
    project: FlagName = "default"
    """Unleash's project of the flag."""
    environment: FlagName = "production"
    """Unleash's environment, of which the proxies' token is."""
    stickiness: Annotated[Literal["userId"], BeforeValidator(_stickiness)] = "userId"
    """The property that keeps a user in one arm. Only `userId`, for now."""
    group_id: FlagName = Field(
        default_factory=lambda said: said.get("flag", ""), json_schema_extra={"default": "the flag"}
    )
    """Salt of the users' order: the same salt exposes the same users first."""
    where: Where
    journal: File
    """SQLite file of everything that was decided, and by what. Keep it on a local disk."""
    tls: Tls = Tls()
    proxy: ProxySettings = ProxySettings()

    @field_validator("kill_flag")
    @classmethod
    def _another_flag(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("flag"):
            raise ValueError("must not be `flag` itself: on, it turns everybody's stream off")
        return value


class Policy(FlagPlace):
    """The whole file."""

    reexposure: Literal["same", "rotate"] = "same"
    """Users who go first when another rollout begins: the `same` as before, or others. `rotate` writes the
    group id `<group_id>~<rollout>`, with the id of the rollout in the journal."""
    routes: Annotated[tuple[RouteName, ...], Field(min_length=1, max_length=100)]
    """Routes of the proxies whose evidence counts."""
    evidence: Evidence
    lease: LeasePlace
    listen: Address | None = None
    """`host:port` on which the controller shows its own `/metrics`; left out: nowhere."""
    mode: Literal["auto", "observe", "hold-only"] = "auto"
    """`observe` writes nothing and says what it would do. `hold-only` advances, and where `auto` would go
    back it holds and asks."""
    unverified_identity: Literal["refused", "accepted"] = "refused"
    """Routes whose proxies do not verify users (`headgate_identity_verified` is 0). With `refused` no rollout
    begins in `mode: auto` on such a route. With `accepted` it does: then strangers can make up users and
    answers, and so force an advance, or a rollback, which is final."""
    tick_s: Annotated[Number, Field(ge=1, le=3600)] = 60
    """Seconds between two looks. Looking often costs no certainty."""
    stale_after_s: Seconds = 180
    """A reading whose newest sample is older is no reading. Give it three scrape intervals or more."""
    page_after_s: Seconds = 900
    """The time without a reading after which a notice is sent."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)]
    """The steps in order; shares grow."""
    hold_back: Annotated[Whole, Field(ge=1, le=50)] = 5
    """Percent of users who get batch until a person signs off: without them nothing could be compared at the
    end. The last share is at most 100 less this."""
    guardrails: Guardrails = Guardrails()
    budget: BudgetSettings = BudgetSettings()
    freeze: Freeze | None = None
    incident_lock: File | None = None
    """A file: while it exists nothing advances. Going back is never locked."""
    notify: Notify | None = None

    @field_validator("routes")
    @classmethod
    def _routes_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _different(value)

    @field_validator("stale_after_s")
    @classmethod
    def _outlives_a_tick(cls, value: float, info: ValidationInfo) -> float:
        if value < STALE_TICKS * info.data.get("tick_s", 0):
            raise ValueError(
                f"must be at least {STALE_TICKS:g} times `tick_s`: else every look comes after an outage, "
                "and no time counts"
            )
        return value

    @field_validator("page_after_s")
    @classmethod
    def _after_stale(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("stale_after_s", 0):
            raise ValueError("must be at least `stale_after_s`: before that nothing is known to be missing")
        return value

    @field_validator("steps")
    @classmethod
    def _shares_grow(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        shares = [step.share for step in value]
        if shares != sorted(set(shares)):
            raise ValueError(f"must have shares that grow, and are {', '.join(map(str, shares))}")
        if shares == [0]:
            raise ValueError("must have a step after the dark one: its users are those of the next share")
        return value

    @field_validator("hold_back")
    @classmethod
    def _leaves_control(cls, value: int, info: ValidationInfo) -> int:
        steps: Sequence[Step] = info.data.get("steps", ())
        if steps and steps[-1].share > 100 - value:
            raise ValueError(
                f"must leave so many: end the steps at {100 - value}, and not at {steps[-1].share}"
            )
        return value

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what a rollout is: its flag, its steps, and what they are measured by.

        Where things are, who is told, when nothing moves and what the controller may do by itself can change
        while it goes on. So can the release: a guardrail that is in force only where a policy names it is no
        part of one that does not, since releases before do not know it.
        """
        said = _plain(self.model_dump(include=_ROLLOUT))
        said["guardrails"] = {name: rail for name, rail in said["guardrails"].items() if rail is not None}
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def group_for(self, rollout: str) -> str:
        """The strategy's group id in this rollout."""
        return self.group_id if self.reexposure == "same" else f"{self.group_id}~{rollout}"

    def guardrail_values(self) -> tuple[Guardrail, ...]:
        """The guardrails in force; their weights add up to 1."""
        return self.guardrails.values()

    def budget_value(self) -> ErrorBudget:
        return self.budget.value()

    def exposures(self, *, compared: bool = True) -> tuple[Exposure, ...]:
        """The steps, as the verdict reads them; `compared`: whether texts are compared in the dark."""
        return tuple(
            Exposure(
                step.share,
                step.min_users,
                step.min_samples,
                compared or step.share > 0,
                step.at_least.total_seconds(),
            )
            for step in self.steps
        )

    def wanted(self) -> Wanted:
        """Return what is to be read, also for guardrails that are turned off, since it is shown all the
        same."""
        rails = self.guardrails
        limits = frozenset({rails.slow.limit_s}), frozenset({rails.first_content.limit_s})
        return Wanted(frozenset(self.routes), *limits)


_ROLLOUT = {
    "flag",
    "project",
    "environment",
    "stickiness",
    "group_id",
    "reexposure",
    "routes",
    "steps",
    "hold_back",
    "guardrails",
    "budget",
}


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice[0]} twice")
    return names


def _plain(value: Any) -> Any:
    """The policy as JSON; equal for policies that say the same."""
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case timedelta():
            return value.total_seconds()
    return value
