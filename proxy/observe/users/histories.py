"""Users' failures before the arms were compared, and the failures to be expected now. Pure.

Users differ: some have cases that fail again and again. Compared with what they did before, they differ much
less. No clock, no I/O, no user: a history has a keyed hash, and two counts.

What is expected of a request is `p + rho * (own - p)`. p is the rate of all histories. `own` is the rate of
the user's history, drawn towards p by what few requests cannot show: a gamma prior, its width by moments.
rho is how well such a forecast did for the requests that were shown no live text, 0 to 1. So where histories
say nothing, the same is expected of everybody.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

MAX_HISTORIES = 20_000
"""Histories of one route, of about 140 bytes each. Over it a short and old one is forgotten."""

CANDIDATES = 8
"""The number of oldest users of whom the one with the shortest history is forgotten; the others get another
turn. So a flood of names that ask once drives out names that asked once."""

AT_ONCE = 1 / 512
"""The part of all histories for which room is made at once: looking for the oldest costs as much for one."""

HOUR_S = 3600.0

FORGOTTEN_S = 30 * 86_400.0
"""A user who was not seen for so long, to the hour, is forgotten."""

MOST_REQUESTS = 4096
"""A history that reaches it is halved: what was long ago counts less."""

MAX_CHANGED = MAX_HISTORIES
"""Histories whose changes wait to be shared. Over it those of others are not shared."""

USUAL, USUAL_REQUESTS = 0.01, 100.0
"""The rate that is assumed where nothing is known, and how many requests it is worth."""

WIDTHS = (0.02, 50.0)
"""Bounds of the squared coefficient of variation of users' rates."""

UNIT = 2.0**-20
"""The unit to which expected failures are rounded: their sums are exact, whatever process adds them up."""


class History(NamedTuple):
    """One user's requests of one route: all that are known, or those that are new."""

    user: bytes
    """The user's keyed hash."""
    requests: int
    failed: int
    seen_h: int
    """When the last of them ended, in hours since the epoch."""


# A history in memory is one whole number: the hour above 13 bits of failures and 13 of requests.
_BITS = MOST_REQUESTS.bit_length()
_MASK = (1 << _BITS) - 1


def _packed(requests: int, failed: int, seen_h: int) -> int:
    while requests >= MOST_REQUESTS:
        requests, failed = requests // 2, failed // 2
    return (seen_h << 2 * _BITS) | (failed << _BITS) | requests


def _unpacked(user: bytes, packed: int) -> History:
    return History(user, packed & _MASK, packed >> _BITS & _MASK, packed >> 2 * _BITS)


@dataclass(slots=True)
class Changes:
    """All that requests which ended here have taught."""

    histories: list[History] = field(default_factory=list)
    agreed: float = 0.0
    forecast: float = 0.0
    """How forecasts did; see `Histories.calibrate`."""

    def __bool__(self) -> bool:
        return bool(self.histories) or bool(self.forecast)


class Histories:
    """The histories of one route's users, by keyed hash, the one that was seen longest ago first."""

    def __init__(self, *, max_histories: int = MAX_HISTORIES) -> None:
        self._max = max_histories
        self._by_user: dict[bytes, int] = {}
        # Sums over all histories, of requests n and failures x: whole numbers, so that they stay exact.
        self._n = self._x = self._nn = self._nx = self._xx = 0
        # How forecasts did: products of a request's surprise, and of the forecast, with the forecast.
        self._agreed = self._forecast = 0.0
        self._changed: dict[bytes, int] | None = None
        self._unshared = Changes()

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[History]:
        """All of them, the one that was seen longest ago first."""
        return (_unpacked(user, packed) for user, packed in self._by_user.items())

    def expected(self, user: bytes) -> float:
        """The chance that the user's next request fails, from what is known by now; above 0, at most 1."""
        rate = self._rate
        chance = rate + self._trust * (self._own(user, rate) - rate)
        return max(1.0, round(chance / UNIT)) * UNIT

    @property
    def prior(self) -> tuple[float, float]:
        """Failures and requests, of all users, that count for a user of whom nothing is known."""
        weight, rate = 1 / self._width(self._rate), self._rate
        return weight, weight / rate

    def add(self, user: bytes, now_s: float, failed: int, requests: int = 1) -> None:
        """Requests of a user who is in neither of the compared arms have ended. Times are Unix's."""
        self.check(user, failed, requests)
        learned = History(user, requests, failed, int(now_s / HOUR_S))
        self.merge(learned)
        if self._changed is not None and (user in self._changed or len(self._changed) < MAX_CHANGED):
            _add(self._changed, learned)

    def check(self, user: bytes, failed: int, requests: int = 1) -> None:
        """Requests that were shown no live text have ended: compare them with their forecast."""
        rate = self._rate
        said = self._own(user, rate) - rate
        agreed, forecast = (failed - requests * rate) * said, requests * said * said
        self.calibrate(agreed, forecast)
        if self._changed is not None:
            self._unshared.agreed += agreed
            self._unshared.forecast += forecast

    def merge(self, learned: History) -> None:
        """Add what was learned of a user, here or elsewhere."""
        user = learned.user
        if user not in self._by_user and len(self._by_user) >= self._max:
            self._make_room()
        self._sum(user, -1)
        _add(self._by_user, learned)
        self._sum(user, 1)

    def calibrate(self, agreed: float, forecast: float) -> None:
        """Add how forecasts did, here or elsewhere: sums of the products of a request's surprise, and of the
        forecast, with the forecast."""
        self._agreed += agreed
        self._forecast += forecast

    def share(self) -> None:
        """From now on remember what changes, at most of `MAX_CHANGED` users, for `take`."""
        self._changed = {}

    def take(self, most: int) -> Changes:
        """Of at most so many users, what was learned here and was not taken before."""
        changed = self._changed or {}
        users = list(islice(changed, most))
        taken, self._unshared = self._unshared, Changes()
        taken.histories = [_unpacked(user, changed.pop(user)) for user in users]
        return taken

    def begin_again(self, known: Changes) -> Iterable[None]:
        """Forget all, and take over what is known elsewhere, and what was learned here and not taken yet.

        In steps of one history each, between which requests may end.
        """
        waiting = [_unpacked(*item) for item in (self._changed or {}).items()]
        self._by_user.clear()
        self._n = self._x = self._nn = self._nx = self._xx = 0
        self._agreed = known.agreed + self._unshared.agreed
        self._forecast = known.forecast + self._unshared.forecast
        for learned in (*known.histories, *waiting):
            self.merge(learned)
            yield

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation of users' rates of failure, in `WIDTHS`; 0: none is known yet."""
        return self._width(self._rate) if self._n else 0.0

    def shared(self) -> Changes:
        """All that is known, without what `take` has yet to give."""
        changed, unshared = self._changed or {}, self._unshared
        known = []
        for user, requests, failed, seen_h in self:
            waiting = _unpacked(user, changed.get(user, 0))
            if requests > waiting.requests:
                left = max(0, failed - waiting.failed)
                known.append(History(user, requests - waiting.requests, left, seen_h))
        return Changes(known, self._agreed - unshared.agreed, self._forecast - unshared.forecast)

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's.

        Who was seen later than now, by a clock that was ahead, was seen now: else they would be kept longer.
        """
        now_h = int(now_s / HOUR_S)
        for each in list(self):
            if now_s - each.seen_h * HOUR_S > FORGOTTEN_S:
                self._remove(each.user)
            elif each.seen_h > now_h:
                self._by_user[each.user] = _packed(each.requests, each.failed, now_h)

    @property
    def _rate(self) -> float:
        return (self._x + USUAL * USUAL_REQUESTS) / (self._n + USUAL_REQUESTS)

    @property
    def _trust(self) -> float:
        """rho. It is 0 until a forecast was compared with what came."""
        return min(1.0, max(0.0, self._agreed / self._forecast)) if self._forecast else 0.0

    def _own(self, user: bytes, rate: float) -> float:
        """The rate of one user's history, drawn towards the rate of all."""
        packed = self._by_user.get(user)
        if packed is None:
            return rate
        weight = 1 / self._width(rate)
        return ((packed >> _BITS & _MASK) + weight) / ((packed & _MASK) + weight / rate)

    def _width(self, rate: float) -> float:
        """The squared coefficient of variation of users' rates, by the method of moments."""
        low, high = WIDTHS
        if not self._nn:
            return low
        beyond_chance = self._xx - 2 * rate * self._nx + rate * rate * self._nn - rate * self._n
        return min(high, max(low, beyond_chance / (rate * rate * self._nn)))

    def _make_room(self) -> None:
        number = max(1, int(self._max * AT_ONCE))
        oldest = list(islice(self._by_user, number * CANDIDATES))
        shortest = set(sorted(oldest, key=lambda user: self._by_user[user] & _MASK)[:number])
        for user in oldest:
            if user in shortest:
                self._remove(user)
            else:
                self._by_user[user] = self._by_user.pop(user)

    def _remove(self, user: bytes) -> None:
        self._sum(user, -1)
        del self._by_user[user]

    def _sum(self, user: bytes, sign: int) -> None:
        packed = self._by_user.get(user, 0)
        n, x = packed & _MASK, packed >> _BITS & _MASK
        self._n += sign * n
        self._x += sign * x
        self._nn += sign * n * n
        self._nx += sign * n * x
        self._xx += sign * x * x


def _add(histories: dict[bytes, int], learned: History) -> None:
    """Add to a user's history, which becomes the last one."""
    user, requests, failed, seen_h = learned
    packed = histories.pop(user, 0)
    requests, failed = requests + (packed & _MASK), failed + (packed >> _BITS & _MASK)
    histories[user] = _packed(requests, failed, max(seen_h, packed >> 2 * _BITS))
