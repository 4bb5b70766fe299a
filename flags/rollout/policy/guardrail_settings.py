"""The policy's guardrails: a default set that is in force unless the policy changes it, name by name."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)

from flags.rollout.policy.guardrails import (
    Action,
    Ceiling,
    EarlyGuard,
    ErrorBudget,
    Guardrail,
    RateRatio,
    SampleRatio,
    UsualTime,
    ZeroTolerance,
)
from flags.rollout.policy.value_types import Number, PolicyBlock, Rate, Whole

REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120, 300)
"""Edges of `headgate_settled_seconds`: only at these it is known how many took longer."""

FIRST_CONTENT_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120, 300)
"""Edges of `headgate_first_content_seconds`."""

DEFAULT_WEIGHTS = {
    "errors": 50,
    "slow": 20,
    "usual": 10,
    "first_content": 10,
    "fallback": 10,
    "recovery": 10,
}
"""Weights, in proportion. Half of the error budget is for `errors`, users without an answer: more weight sees
harm sooner."""

ALMOST = 1e-9
"""Weights are added as floating-point numbers."""

Reason = Annotated[str, Field(min_length=1, max_length=500)]
Weight = Annotated[Number, Field(gt=0, le=1)]


def _edge_of(edges: tuple[float, ...]) -> AfterValidator:
    def is_edge(value: float) -> float:
        if value not in edges:
            raise ValueError(f"must be an edge of the histogram: {', '.join(f'{edge:g}' for edge in edges)}")
        return value

    return AfterValidator(is_edge)


class GuardrailSettings(PolicyBlock):
    """One guardrail."""

    disabled: Reason | None = None
    """Turns the guardrail off; the text says why. Without this setting the guardrail is in force."""


class WeightedSettings(GuardrailSettings):
    """A guardrail that is a test, and takes its part of the error budget."""

    weight: Weight | None = None
    """Its share of the error budget. The weights of all guardrails in force add up to 1. Guardrails without
    one share what the others leave."""


class RatioOrPoints(PolicyBlock):
    """Harm that is both a ratio and a difference; a step is safe when either is ruled out.

    For a service that hardly ever fails, where a ratio proves nothing. Written in place of the number:
    `harm: {ratio: 1.5, or_points: 0.2}`."""

    ratio: Annotated[Number, Field(gt=1, le=30)] = 2.0
    """A step is safe when a ratio of this or more is ruled out."""
    or_points: Annotated[Number, Field(gt=0, le=50)]
    """A step is safe, too, when a difference of so many percentage points or more is ruled out: 0.2 is two
    more in a thousand."""


Ratio = Annotated[Number, Field(gt=1, le=30)]


def _ratio_or_points(value: Any, _: Any) -> float | RatioOrPoints:
    """A value that is no block is read as a number, so that an error names numbers alone."""
    if isinstance(value, dict | RatioOrPoints):
        return RatioOrPoints.model_validate(value)
    number: float = TypeAdapter(Ratio).validate_python(value)
    return number


class RatioSettings(WeightedSettings):
    """The stream arm's rate over the control arm's."""

    margin: Annotated[Number, Field(ge=1, le=10)] = 1.25
    """Up to this ratio there is no harm."""
    harm: Annotated[Ratio | RatioOrPoints, WrapValidator(_ratio_or_points)] = Field(
        default=2.0, json_schema_extra={"kind": "number, over 1, at most 30, or a block"}
    )
    """A step is safe when a ratio of this or more is ruled out; with the block also when a difference is."""
    action: Action = Action.ROLL_BACK
    """The most that this guardrail may do when it finds harm."""

    @field_validator("harm")
    @classmethod
    def _above_the_margin(cls, value: float | RatioOrPoints, info: ValidationInfo) -> float | RatioOrPoints:
        must, ratio = (
            ("must have a `ratio`", value.ratio) if isinstance(value, RatioOrPoints) else ("must be", value)
        )
        if ratio <= info.data.get("margin", 0):
            raise ValueError(f"{must} over `margin`: between the two nothing is claimed")
        return value

    def _compared(self, name: str, weight: float, limit_s: float | None) -> RateRatio:
        harm = self.harm
        ratio, points = (harm.ratio, harm.or_points) if isinstance(harm, RatioOrPoints) else (harm, None)
        return RateRatio(name, weight, limit_s, self.margin, ratio, self.action, points)


class ErrorsSettings(RatioSettings):
    """Requests that end without a whole answer (`failed`, `truncated`), in both arms."""

    def value(self, name: str, weight: float) -> Guardrail:
        return self._compared(name, weight, None)


class SlowSettings(RatioSettings):
    """Whole answers that take longer than `limit_s`, in both arms."""

    limit_s: Annotated[Number, _edge_of(REQUEST_S)] = 120
    """Seconds; an edge of `headgate_settled_seconds`."""

    def value(self, name: str, weight: float) -> Guardrail:
        return self._compared(name, weight, self.limit_s)


class UsualSettings(WeightedSettings):
    """Whole answers that took 1.5 times what is usual for their user, in both arms: slowness that no fixed
    limit shows. In force where the policy names it, `usual: {}`.

    It looks for harm and proves nothing: a step does not wait for it once users and answers are enough."""

    margin: Annotated[Number, Field(ge=1, le=10)] = 1.25
    """Up to so many times as many of such answers there is no harm."""
    action: Action = Action.HOLD
    """The most that this guardrail may do when it finds harm."""

    def value(self, name: str, weight: float) -> Guardrail:
        return UsualTime(name, weight, self.margin, self.action)


class CeilingSettings(WeightedSettings):
    """A rate of the stream arm alone, since control has none to compare with."""

    at: Rate
    """Up to this rate there is no harm."""
    harm: Rate
    """A step is safe when a rate of this or more is ruled out."""
    action: Action = Action.HOLD
    """The most that this guardrail may do when it finds harm."""

    @field_validator("harm")
    @classmethod
    def _above_the_ceiling(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("at", 0):
            raise ValueError("must be over `at`: between the two nothing is claimed")
        return value


class FirstContentSettings(CeilingSettings):
    """Streams whose first text comes later than `limit_s`."""

    at: Rate = 0.05
    """Up to this share of streams there is no harm."""
    harm: Rate = 0.15
    """A step is safe when a share of this or more is ruled out."""
    limit_s: Annotated[Number, _edge_of(FIRST_CONTENT_S)] = 5
    """Seconds; an edge of `headgate_first_content_seconds`."""

    def value(self, name: str, weight: float) -> Guardrail:
        return Ceiling(name, weight, "first_content", self.at, self.harm, self.limit_s, self.action)


class FallbackSettings(CeilingSettings):
    """Streams that fell back to the batch answer."""

    at: Rate = 0.02
    """Up to this share of answers there is no harm."""
    harm: Rate = 0.06
    """A step is safe when a share of this or more is ruled out."""

    def value(self, name: str, weight: float) -> Guardrail:
        return Ceiling(name, weight, "fallback", self.at, self.harm, action=self.action)


class RecoverySettings(CeilingSettings):
    """Runs that lost their live text while the answer was still coming, and gave no answer in the end.

    What the upstream itself fails is in `errors`, which compares the arms."""

    at: Rate = 0.05
    """Up to this share of such runs there is no harm."""
    harm: Rate = 0.2
    """A step is safe when a share of this or more is ruled out."""

    def value(self, name: str, weight: float) -> Guardrail:
        return Ceiling(name, weight, "unrecovered", self.at, self.harm, action=self.action)


class ParitySettings(GuardrailSettings):
    """Shown text that the batch answer does not confirm: one such section is harm.

    `missing`: the answer lacks the section, so nothing confirms its text. `replaced`: the text differed, and
    was corrected before the stream ended. `suffix` and `unshown`: the shown text was right, and the rest
    followed. The default is `missing` alone.
    """

    results: Annotated[
        tuple[Literal["missing", "replaced", "suffix", "unshown"], ...], Field(min_length=1)
    ] = ("missing",)
    """Results of `headgate_parity_total`; one section with such a result is harm."""
    action: Action = Action.ROLL_BACK
    """The most that this guardrail may do when it finds harm."""

    def value(self, name: str, weight: float) -> Guardrail:
        return ZeroTolerance(name, frozenset(self.results), self.action)


class EarlySettings(GuardrailSettings):
    """The first requests of the rollout, and of each step: harm if more of them fail than the usual `rate`
    explains, and fewer in control.

    It sees harm sooner than a comparison of the arms does."""

    rate: Rate = 0.02
    """The usual share of answers that fail, at most: 0.02 is 2 %."""
    of: Annotated[Whole, Field(ge=10, le=5_000)] = 200
    """Number of first requests that are counted."""
    alpha: Rate = 0.001
    """Probability of a false alarm while answers fail at that rate."""
    min_users: Annotated[Whole, Field(ge=1, le=8)] = 3
    """The least number of different users with failed answers. Users are in 16 groups by a hash; so many
    groups must have failures. Of each user five failures an hour count at each process of a proxy, and the
    group with the most counts as the second one at most: one user's retries are no harm."""
    action: Action = Action.ROLL_BACK
    """The most that this guardrail may do when it finds harm."""

    def value(self, name: str, weight: float) -> Guardrail:
        return EarlyGuard(name, self.rate, self.of, self.alpha, self.action, self.min_users)


class SampleRatioSettings(GuardrailSettings):
    """Users met in each arm against the written share: a difference means that something measures wrongly. It
    only holds."""

    alpha: Rate = 0.001
    """Probability of a false alarm."""

    def value(self, name: str, weight: float) -> Guardrail:
        return SampleRatio(name, self.alpha)


class Guardrails(PolicyBlock):
    """All guardrails are in force. A policy may change one, or turn it off with a reason (`disabled:
    why`)."""

    errors: ErrorsSettings = ErrorsSettings()
    slow: SlowSettings = SlowSettings()
    usual: UsualSettings | None = None
    first_content: FirstContentSettings = FirstContentSettings()
    fallback: FallbackSettings = FallbackSettings()
    recovery: RecoverySettings = RecoverySettings()
    parity: ParitySettings = ParitySettings()
    early: EarlySettings = EarlySettings()
    sample_ratio: SampleRatioSettings = SampleRatioSettings()

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        rails = dict(self._weighted())
        given = {name: rail.weight for name, rail in rails.items() if rail.weight is not None}
        total = sum(given.values())
        if not any(isinstance(rail, RatioSettings) for rail in rails.values()):
            raise ValueError("nothing compares the arms: leave `errors` or `slow` in force")
        if len(given) == len(rails) and abs(total - 1) > ALMOST:
            raise ValueError(f"the weights add up to {total:g}: make it 1, or leave one of them out")
        if len(given) < len(rails) and total >= 1 - ALMOST:
            left = ", ".join(f"`{name}`" for name in rails if name not in given)
            raise ValueError(f"the weights add up to {total:g}, which leaves nothing for {left}: give less")
        return self

    def _weighted(self) -> Iterator[tuple[str, WeightedSettings]]:
        for name in DEFAULT_WEIGHTS:
            rail: WeightedSettings | None = getattr(self, name)
            if rail is not None and rail.disabled is None:
                yield name, rail

    def weights(self) -> dict[str, float]:
        """Weights of the guardrails in force, by name; they add up to 1."""
        rails = dict(self._weighted())
        given = {name: rail.weight for name, rail in rails.items() if rail.weight is not None}
        rest = {name: DEFAULT_WEIGHTS[name] for name in rails if name not in given}
        left, parts = 1 - sum(given.values()), sum(rest.values())
        return {name: given[name] if name in given else rest[name] * left / parts for name in rails}

    def values(self) -> tuple[Guardrail, ...]:
        """The guardrails in force, as values for the tests."""
        weights = self.weights()
        rails = [(name, getattr(self, name)) for name in type(self).model_fields]
        return tuple(
            rail.value(name, weights.get(name, 0.0))
            for name, rail in rails
            if rail is not None and rail.disabled is None
        )


class BudgetSettings(PolicyBlock):
    """The probability of a wrong verdict in a whole rollout, however often one looks."""

    roll_back: Annotated[Number, Field(gt=0, le=0.5)] = 0.01
    """Probability of a rollback though there is no harm."""
    hold: Annotated[Number, Field(gt=0, le=0.5)] = 0.10
    """Probability of a hold though there is no harm."""
    missed: Annotated[Number, Field(gt=0, le=0.5)] = 0.05
    """Probability that a step counts as safe though the harm is there."""

    @field_validator("hold")
    @classmethod
    def _holds_first(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("roll_back", 0):
            raise ValueError("must be at least `roll_back`: holding is the milder of the two and comes first")
        return value

    def value(self) -> ErrorBudget:
        return ErrorBudget(self.roll_back, self.hold, self.missed)
