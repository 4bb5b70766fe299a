"""The share of users that a flag really exposes: the engine evaluates it for a sample of users. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from flags.arms import BUCKETS, FlagArms, bucket_of
from flags.decision import DARK
from flags.document import Document
from flags.engine import Engine
from flags.rollout.writing.flag_admin import ManagedFlag
from flags.rollout.writing.strategies import shows_nobody
from flags.targeting import asks_who, parents_of

PER_BUCKET = 3
"""Sampled users in each of the hundred buckets of the strategy's hash."""


def expected_share(
    document: Document, features: Mapping[str, Mapping[str, Any]], flag: ManagedFlag, group_id: str
) -> float | None:
    """Percent of users who are shown something; None where more than the user's id decides.

    Args:
        document: the flags as the proxies have them.
        features: the same, by name.
        flag: the flag to evaluate.
        group_id: salt of its strategy.
    """
    feature = features.get(flag.name)
    if feature is None or flag.name not in document.enabled or _is_dark(feature):
        return 0.0
    concerned = [feature, *(features.get(name, {}) for name in parents_of(feature))]
    by_id = not any(map(asks_who, concerned))
    return _evaluated(document.state, tuple(document.arms.items()), flag, group_id, by_id)


@lru_cache(maxsize=4)  # a flag is read some times in a tick, and changes some times in a rollout
def _evaluated(
    state: str, arms: tuple[tuple[str, FlagArms], ...], flag: ManagedFlag, group_id: str, by_id: bool
) -> float | None:
    """Return the percent of the sampled users who are shown live text, by these values alone and no clock."""
    engine = Engine(state, dict(arms))
    try:
        if engine.ask(flag.kill_flag, None).enabled:
            return 0.0
        if not by_id:
            return None
        users = _users(group_id)
        answers = [engine.ask(flag.name, {"userId": user}) for user in users]
    finally:
        engine.close()
    return 100 * sum(answer.enabled and answer.variant != DARK for answer in answers) / len(users)


def _is_dark(feature: Mapping[str, Any]) -> bool:
    """True if each strategy shows nobody anything; the feature's variants count where a strategy has none."""
    strategies = feature.get("strategies") or [{}]
    of_feature = feature.get("variants") or []
    return all(shows_nobody(strategy.get("variants") or of_feature) for strategy in strategies)


@lru_cache(maxsize=8)  # a rollout has one salt
def _users(group_id: str) -> Sequence[str]:
    """Users, equally many of each bucket, so that the share is exact."""
    found: Counter[int] = Counter()
    users: list[str] = []
    for number in count():
        user = f"somebody-{number}"
        bucket = bucket_of(group_id, user)
        if found[bucket] < PER_BUCKET:
            found[bucket] += 1
            users.append(user)
        if len(users) == PER_BUCKET * BUCKETS:
            return users
    raise AssertionError("unreachable")
