"""The counts of a batch by arm and bucket of users, as arrays. Pure."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, EXPECTED_UNITS, Batch, ComparedArm

BUCKETS = 16
"""Of users, in the evidence's counts."""

ROWS: Mapping[str, int] = {arm: row for row, arm in enumerate(ComparedArm)}
"""The row of each arm."""


def by_bucket(batch: Batch) -> NDArray[np.float64]:
    """Bad answers, all answers, expected failures and weighed ones, of each arm and bucket."""
    counts = np.zeros((4, len(ROWS), BUCKETS))
    for (of, bucket, outcome), count in batch.outcomes.items():
        if of in ROWS and outcome in ELIGIBLE:
            counts[1, ROWS[of], bucket] += count
            counts[0, ROWS[of], bucket] += count if outcome in BAD else 0
    for (of, bucket), units in (batch.expected or {}).items():
        counts[2, ROWS[of], bucket] += units
    if batch.weighed is None:
        counts[3] = counts[0]
    for (of, bucket), units in (batch.weighed or {}).items():
        counts[3, ROWS[of], bucket] += units / EXPECTED_UNITS
    return counts
