"""Users' failures before the arms were compared, and the failures to be expected now. Pure.

Users differ: some have cases that fail again and again. Compared with what they did before, they differ much
less. No clock, no I/O, no user: a history has a keyed hash, and two counts.

What is expected of a request is `p + rho * (own - p)`. p is the rate of all histories. `own` is the rate of
the user's history, drawn towards p by what few requests cannot show: a gamma prior, its width by moments.
rho is how well such a forecast did for the requests that were shown no live text, 0 to 1. So where histories
say nothing, the same is expected of everybody.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

MAX_HISTORIES = 20_000
"""Histories of one route, about 4 MB. Over it a short and old one is forgotten."""

CANDIDATES = 8
"""The number of oldest users of whom the one with the shortest history is forgotten; the others get another
turn. So a flood of names that ask once drives out names that asked once."""

FORGOTTEN_S = 30 * 86_400.0
"""A user who was not seen for so long is forgotten."""

MOST_REQUESTS = 4096
"""A history that reaches it is halved: what was long ago counts less."""

USUAL, USUAL_REQUESTS = 0.01, 100.0
"""The rate that is assumed where nothing is known, and how many requests it is worth."""

WIDTHS = (0.02, 50.0)
"""Bounds of the squared coefficient of variation of users' rates."""

UNIT = 2.0**-20
"""The unit to which expected failures are rounded: their sums are exact, whatever process adds them up."""


@dataclass(slots=True)
class _History:
    requests: int
    failed: int
    seen_s: float


class Histories:
    """The histories of one route's users, by keyed hash, the one that was seen longest ago first.

    Args:
        key: of the hashes: without it nobody can ask for a user's history, not even with a list of all users.
    """

    def __init__(self, key: bytes | None = None, *, max_histories: int = MAX_HISTORIES) -> None:
        self._key = os.urandom(16) if key is None else key
        self._max = max_histories
        self._by_user: OrderedDict[bytes, _History] = OrderedDict()
        # Sums over all histories, of requests n and failures x: whole numbers, so that they stay exact.
        self._n = self._x = self._nn = self._nx = self._xx = 0
        # How forecasts did: products of a request's surprise, and of the forecast, with the forecast.
        self._agreed = self._forecast = 0.0

    def __len__(self) -> int:
        return len(self._by_user)

    def name_of(self, user: str, tenant: str | None) -> bytes:
        """The keyed hash of a user, who is another one in another tenant."""
        return blake2b(f"{tenant or ''}\n{user}".encode(), digest_size=8, key=self._key).digest()

    def expected(self, user: bytes) -> float:
        """The chance that the user's next request fails, from what is known by now; above 0, at most 1."""
        rate = self._rate
        chance = rate + self._trust * (self._own(user, rate) - rate)
        return max(1.0, round(chance / UNIT)) * UNIT

    def add(self, user: bytes, now_s: float, failed: int, requests: int = 1) -> None:
        """Requests of a user who is in neither of the compared arms have ended."""
        self.check(user, failed, requests)
        history = self._by_user.pop(user, None)
        if history is None:
            if len(self._by_user) >= self._max:
                self._make_room()
            history = _History(0, 0, now_s)
        self._sum(history, -1)
        history.requests += requests
        history.failed += failed
        history.seen_s = now_s
        if history.requests >= MOST_REQUESTS:
            history.requests, history.failed = history.requests // 2, history.failed // 2
        self._sum(history, 1)
        self._by_user[user] = history

    def check(self, user: bytes, failed: int, requests: int = 1) -> None:
        """Requests that were shown no live text have ended: compare them with their forecast."""
        rate = self._rate
        forecast = self._own(user, rate) - rate
        self._agreed += (failed - requests * rate) * forecast
        self._forecast += requests * forecast * forecast

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's."""
        old = [user for user, history in self._by_user.items() if now_s - history.seen_s > FORGOTTEN_S]
        for user in old:
            self._sum(self._by_user.pop(user), -1)

    @property
    def _rate(self) -> float:
        return (self._x + USUAL * USUAL_REQUESTS) / (self._n + USUAL_REQUESTS)

    @property
    def _trust(self) -> float:
        """rho. It is 0 until a forecast was compared with what came."""
        return min(1.0, max(0.0, self._agreed / self._forecast)) if self._forecast else 0.0

    def _own(self, user: bytes, rate: float) -> float:
        """The rate of one user's history, drawn towards the rate of all."""
        history = self._by_user.get(user)
        if history is None:
            return rate
        weight = 1 / self._width(rate)
        return (history.failed + weight) / (history.requests + weight / rate)

    def _width(self, rate: float) -> float:
        """The squared coefficient of variation of users' rates, by the method of moments."""
        low, high = WIDTHS
        if not self._nn:
            return low
        beyond_chance = self._xx - 2 * rate * self._nx + rate * rate * self._nn - rate * self._n
        return min(high, max(low, beyond_chance / (rate * rate * self._nn)))

    def _make_room(self) -> None:
        oldest = list(islice(self._by_user, CANDIDATES))
        shortest = min(oldest, key=lambda user: self._by_user[user].requests)
        self._sum(self._by_user.pop(shortest), -1)
        for user in oldest:
            if user != shortest:
                self._by_user.move_to_end(user)

    def _sum(self, history: _History, sign: int) -> None:
        n, x = history.requests, history.failed
        self._n += sign * n
        self._x += sign * x
        self._nn += sign * n * n
        self._nx += sign * n * x
        self._xx += sign * x * x
