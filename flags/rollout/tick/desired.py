"""The strategy that a rollout wants in the flag. What people have set besides stays as it is. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flags.errors import RolloutError
from flags.rollout.ledger import RolloutState
from flags.rollout.moves import RolloutPhase
from flags.rollout.policy.policy import Policy
from flags.rollout.writing.flag_admin import Flag, Strategy
from flags.rollout.writing.marks import FlagMark
from flags.rollout.writing.strategies import shows_nobody

DARK_VARIANT = {"name": "dark", "weight": 1000, "weightType": "variable"}
"""The variant of a dark step: `dark`, for everybody for whom the flag is on."""


@dataclass(frozen=True, slots=True)
class DesiredStrategy:
    """The strategy to write for a rollout in this state."""

    policy: Policy
    state: RolloutState

    def of_step(self, step: int, flag: Flag) -> Strategy:
        """The whole strategy of a step."""
        settings = self.policy.steps[step]
        dark = [{**DARK_VARIANT, "stickiness": self.policy.stickiness}]
        return replace(
            flag.strategy,
            share=settings.share_written(self.policy),
            group_id=self.policy.group_for(self.state.run),
            variants=self._variants() if settings.share else dark,
            disabled=False,
            title=self._marked(flag, f"{settings.share} %"),
        )

    def lowered(self, flag: Flag) -> Strategy:
        """0 %, without the variant of a dark step, which the next rollout would find."""
        how = "killed" if self.state.phase is RolloutPhase.KILLED else "rolled back"
        strategy = replace(flag.strategy, share=0, title=self._marked(flag, how))
        left_over = self.state.wrote_dark and shows_nobody(strategy.variants)
        return replace(strategy, variants=self._variants()) if left_over else strategy

    def base(self, found: Strategy) -> Strategy:
        """The strategy as people made it, without the variant that a dark step of ours has left.

        Raises RolloutError where people made it so that it shows nobody anything.
        """
        if not shows_nobody(found.variants) or self.policy.mode == "observe":
            return found
        if not self.state.wrote_dark and FlagMark.on(found.title) is None:
            raise RolloutError(
                f"{self.policy.flag} has the variant dark for everybody, "
                "and would be shown to nobody: remove it"
            )
        return replace(found, variants=self._variants())

    def _variants(self) -> Sequence[Mapping[str, Any]]:
        """The variants that people made; a dark one for everybody is never theirs."""
        found = () if self.state.base is None else self.state.base["variants"]
        return () if shows_nobody(found) else tuple(found)

    def _marked(self, flag: Flag, how: str) -> str | None:
        state, title = self.state, flag.strategy.title
        return FlagMark(state.run, state.home, how).put_on(title) if state.home else title
