"""An exact sequential test of the first requests: how many bad ones are too many, after each. Pure."""

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=16)  # it takes a tenth of a second, and a policy has one
def early_limits(rate: float, of: int, alpha: float) -> tuple[int, ...]:
    """The limits: for each number of requests from 1 to `of`, the fewest failures that are too many.

    The limits are those of the binomial distribution at `rate`, all at one level. The level is the largest
    at which the chance of a false alarm, looking after every request, is at most `alpha`.
    """
    low, high = -60.0, math.log(alpha)
    for _ in range(20):  # to within a factor of 1.0001
        middle = (low + high) / 2
        if _crossing(rate, _limits(rate, of, math.exp(middle))) <= alpha:
            low = middle
        else:
            high = middle
    return _limits(rate, of, math.exp(low))


def _limits(rate: float, of: int, level: float) -> tuple[int, ...]:
    limits = []
    chances = np.zeros(of + 2)
    chances[0] = 1.0
    for number in range(1, of + 1):
        chances[1:] = chances[1:] * (1 - rate) + chances[:-1] * rate
        chances[0] *= 1 - rate
        tails = chances[::-1].cumsum()[::-1]
        limits.append(int(np.argmax(tails <= level)) if (tails <= level).any() else number + 1)
    return tuple(limits)


def _crossing(rate: float, limits: tuple[int, ...]) -> float:
    chances = np.zeros(len(limits) + 2)
    chances[0] = 1.0
    crossed = 0.0
    for limit in limits:
        chances[1:] = chances[1:] * (1 - rate) + chances[:-1] * rate
        chances[0] *= 1 - rate
        crossed += float(chances[limit:].sum())
        chances[limit:] = 0.0
    return crossed
