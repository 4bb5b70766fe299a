"""Whether a rollout may trust its evidence: strangers must not be able to forge it. Pure."""

from collections.abc import Sequence

from flags.rollout.policy.policy import Policy

RISK = "strangers can make up users and answers there, and so force a rollback, which is final, or an advance"


def problem(policy: Policy, unverified: Sequence[str]) -> str:
    """Why a rollout must not move by itself; "" where it may.

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
