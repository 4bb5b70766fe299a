"""The first entry of a rollout: what it holds, and why there must be none. No I/O."""

import uuid
from dataclasses import asdict
from typing import Any

from flags.errors import RolloutError
from flags.rollout.bodies import measures_body
from flags.rollout.ledger import RolloutState
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.standing import standing_of
from flags.rollout.tick.desired import DesiredStrategy
from flags.rollout.writing.flag_admin import Flag
from flags.rollout.writing.marks import FlagMark

HOME_CHARS = 8
"""Characters of a journal's name: enough to tell a million journals apart."""


def begin_body(
    policy: Policy, before: RolloutState, flag: Flag, *, again: bool, compared: bool
) -> dict[str, Any]:
    """The body of the entry, but for who begins and why. Raises RolloutError where no rollout must begin.

    Args:
        policy: of the new rollout.
        before: where the rollout before stands; a new state where there is none.
        flag: as it is now.
        again: a person said that this is another rollout, whatever the flag says of those before.
        compared: whether a route's texts are compared in the dark.
    """
    if flag.killed:
        raise RolloutError(f"{policy.kill_flag} is on: turn it off first, with `unkill`")
    base = DesiredStrategy(policy, before).base(flag.strategy)
    mark = FlagMark.on(flag.strategy.title)
    if mark is not None and mark.home != before.home and not again:
        raise RolloutError(
            f"the flag says that {mark} was here, of which this journal knows nothing: restore that "
            "one, or begin another rollout with `headgate rollout run --new`"
        )
    numbers = [int(run.removeprefix("r")) for run in (before.run, mark.run if mark else "") if run]
    return {
        "run": f"r{max(numbers, default=0) + 1}",
        "policy": policy.digest,
        "jury": measures_body(
            policy.guardrail_values(), policy.exposures(compared=compared), policy.budget_value()
        ),
        "base": asdict(base),
        "event_id": flag.event_id,
        "digest": flag.strategy.digest,
        "around": flag.around,
        "standing": standing_of(flag),
        "home": before.home or uuid.uuid4().hex[:HOME_CHARS],
        "found_home": mark.home if mark else "",
        "share": flag.strategy.share,
        "exposed_before": _exposed_before(policy, before),
    }


def _exposed_before(policy: Policy, before: RolloutState) -> dict[str, object] | None:
    """Users of the rollout before who are exposed again: with the same salt, everybody up to its share."""
    if not before.run or policy.reexposure == "rotate":
        return None
    return {"run": before.run, "share": before.reached}
