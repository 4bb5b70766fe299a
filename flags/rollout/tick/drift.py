"""Drift of the flag: how it differs from what the journal says was written, and by whom. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from flags.rollout.ledger import RolloutState
from flags.rollout.moves import Change
from flags.rollout.writing.flag_admin import Flag, Kill
from flags.rollout.writing.marks import FlagMark
from flags.rollout.writing.strategies import shows_nobody

_KILL_PROBLEMS: Mapping[Kill, str] = {
    Kill.SOME: "the kill flag is on, and does not stop everybody: its strategies ask who the user is",
    Kill.ABSENT: "the kill flag is gone, and can stop nobody",
}


class Exposing(NamedTuple):
    """The exposure of a step, or of a flag."""

    share: int
    """Percent, as it is written."""
    is_dark: bool
    """True if nobody is shown anything."""


@dataclass(frozen=True, slots=True)
class FlagDrift:
    """The flag of one look beside the state of its rollout."""

    state: RolloutState
    flag: Flag

    @property
    def is_ready(self) -> bool:
        """True if the flag is as a rollout needs it: on, with one strategy, and a kill flag that works."""
        return self.flag.enabled and not self.flag.others and self.flag.kill not in _KILL_PROBLEMS

    @property
    def stranger(self) -> FlagMark | None:
        """The mark of a rollout that this journal does not have: of another journal, or of a newer one."""
        state, mark = self.state, FlagMark.on(self.flag.strategy.title)
        if mark is None or not state.home:
            return None
        is_ours = mark.home == state.home and not mark.is_newer_than(state.run)
        return None if is_ours or mark.home == state.found_home else mark

    @property
    def is_around_changed(self) -> bool:
        """True if another controller writes the flag, or what decides beside the strategy has changed."""
        if self.stranger is not None:
            return True
        return bool(self.state.around) and self.flag.around != self.state.around

    @property
    def change(self) -> Change:
        """The change that somebody else made to the flag since it was last written, or accepted."""
        state, strategy = self.state, self.flag.strategy
        if not self.is_ready or self.is_around_changed:
            return Change.OTHER
        if strategy.digest == state.digest:
            return Change.NONE
        only_the_share = replace(strategy, share=state.share).digest == state.digest
        return Change.LOWERED if only_the_share and strategy.share < state.share else Change.OTHER

    @property
    def changed_by(self) -> str:
        """The author of the change; the flag's events do not say who changed what decides beside the flag."""
        flag = self.flag
        if (mark := self.stranger) is not None:
            if mark.home == self.state.home:
                return f"{mark}, of which this journal knows nothing: it is an older copy"
            return f"another controller, with a journal of its own: {mark}"
        if (problem := _KILL_PROBLEMS.get(flag.kill)) is not None:
            return f"somebody: {problem}"
        if flag.strategy.digest == self.state.digest and self.is_ready:
            return "somebody: its variants, parents, segments or disabled strategies are others"
        return flag.event_by if flag.enabled else f"{flag.event_by}: it is off in its environment"

    def accepted(
        self, steps: Sequence[Exposing], *, is_observing: bool = False, was_away: bool = False
    ) -> tuple[int, bool] | None:
        """The step that the flag stands at, and whether its evidence begins anew; None: there is nothing new.

        A change is accepted where its author is known to want it: a controller that died after it wrote, a
        person who resumed, and in the mode `observe` everybody.

        Args:
            steps: what each step of the policy exposes.
            was_away: whether nobody has read the flag for so long that what it was meanwhile matters.
            is_observing: whether the mode is `observe`.
        """
        state, flag = self.state, self.flag
        same = flag.strategy.digest == state.digest and not self.is_around_changed
        before_first = is_observing and state.step < 0
        if same and flag.event_id == state.event_id and not (state.was_changed or before_first):
            return None
        if state.intent is not None and flag.strategy.digest == state.intent.digest:
            return state.intent.step, False
        if same and state.step >= 0:
            # Changed and changed back, or nothing that matters. Who was exposed meanwhile is not known.
            is_other = was_away and flag.event_id != state.event_id
            return state.step, state.was_changed or is_other
        exposing = Exposing(flag.strategy.share, shows_nobody(flag.strategy.variants))
        if (state.resumed or is_observing) and self.stranger is None and exposing in steps:
            return steps.index(exposing), True
        return None

    def may_resume(self, steps: Sequence[Exposing]) -> bool:
        """True if the rollout can go on from the flag as it is, once a person says so."""
        resumed = replace(self.state, resumed=True)
        return self.is_ready and replace(self, state=resumed).accepted(steps) is not None
