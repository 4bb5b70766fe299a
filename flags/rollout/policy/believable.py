"""Evidence that a rollout may believe: strangers must not be able to forge it. Pure."""

from collections.abc import Sequence

from flags.rollout.evidence.evidence import ComparedArm
from flags.rollout.evidence.readings import FIRST_CONTENT_S, OUTCOMES, Reading
from flags.rollout.policy.policy import Policy

RISK = "strangers can make up users and answers there, and so force a rollback, which is final, or an advance"
DARK_SOURCE = "tap"
"""The source that takes tokens beside a batch answer: of others, a dark step has no text."""


def problem(policy: Policy, unverified: Sequence[str]) -> str:
    """The reason why a rollout must not move by itself; "" where it may.

    Args:
        policy: of the rollout.
        unverified: its routes on which a client can claim to be any user.
    """
    if not unverified or policy.mode != "auto" or policy.unverified_identity == "accepted":
        return ""
    return (
        f"mode: auto goes by {', '.join(unverified)}, where the proxies do not verify who asks: {RISK}. "
        "Give the proxies a key (identity.jwt.key or jwks_url, and no cookie), or say "
        "`unverified_identity: accepted`, or another mode"
    )


def compares_in_the_dark(reading: Reading) -> bool:
    """True if a route has a source whose texts can be compared while nobody is shown them."""
    return any(
        series.metric == FIRST_CONTENT_S and series.labels[1] == DARK_SOURCE for series in reading.counters
    )


def remembered(reading: Reading) -> str:
    """Say in a sentence what proxies remember of earlier rollouts; "" where they remember none.

    A proxy remembers from its start on. It counts no answer in the stream arm while the share is 0.
    """
    streamed = sum(
        count
        for series, count in reading.counters.items()
        if series.metric == OUTCOMES and series.labels[1] == ComparedArm.STREAM
    )
    return f"the proxies have counted {streamed:,} answers in the stream arm" if streamed else ""
