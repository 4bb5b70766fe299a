"""Whether those whom the flag's draw put into the stream arm came to fail more often when they came in. Pure.

The flag's hash draws for each user at which share the user comes into the stream arm, if at all. If streaming
changes nothing, all that befalls a user is the same whichever way the draw falls. So the draw is what chance
is known of, exactly, however users differ and whatever befalls everybody.

What a user adds is a likelihood ratio: how likely it is that the draw fell as it did, if streaming does harm,
by all that befell this user; over how likely the draw was. Its mean over the draw is 1, whatever befell the
user, and how well the harm is described only makes it strong, and not fair. Users' draws do not depend on
each other, so the product over all users has a mean of 1, too; its logarithm is what is told.

No clock, no I/O, no user: a user has a keyed hash.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise

from flags.decision import Arm
from proxy.observe.users.histories import AT_ONCE, CANDIDATES, FORGOTTEN_S, MAX_HISTORIES, MOST_REQUESTS
from proxy.observe.users.watched_users import KEPT

MAX_DRAWN = MAX_HISTORIES
"""Users of one route, about 12 MB."""

MAX_SHARES = 16
"""Shares of one rollout; at one more all that is known of the draw begins anew."""

HARMS: Mapping[str, tuple[float, float]] = {"few": (0.1, 12.0), "some": (0.3, 6.0), "all": (1.0, 3.0)}
"""What streaming may do: to which part of users, and how many times as many failures these have then."""

TRUSTED = 0.6
"""The part of users whose rate of failure is taken to be still what it was before the rollout."""

AGAIN = 1.1
"""Times as many requests after which what a user adds is reckoned anew, if none of them failed."""

_MOST = 500.0  # of a logarithm: its exponential is a number


@dataclass(slots=True)
class _Drawn:
    seen_s: float
    requests: int = 0
    failed: int = 0
    """Among `requests`, before the rollout."""
    rollout: int = 0
    since: list[list[int]] = field(default_factory=list)
    """In the rollout: numbers of shares, each with the requests at it, and the failures among them."""
    entry: int | None = None
    """The number of the share at which the user came into the stream arm."""
    told: tuple[float, ...] = ()
    """What the user adds, by harm."""
    told_at: int = 0
    """Requests in the rollout, when that was reckoned."""


class Draws:
    """Users of one route, the one that was seen longest ago first.

    Args:
        chance: gives random numbers from 0 to 1.
    """

    def __init__(self, chance: random.Random | None = None, *, max_users: int = MAX_DRAWN) -> None:
        self._chance = random.Random() if chance is None else chance
        self._max = max_users
        self._by_user: dict[bytes, _Drawn] = {}
        self._rollout = 0
        self._generation = ""
        self._shares: list[int] = []  # in percent, each larger than the one before
        self._numbers: dict[str, int] = {}  # of shares, by the flag's generations in this rollout
        self._sums = [0.0] * len(HARMS)

    def __len__(self) -> int:
        return len(self._by_user)

    @property
    def evidence(self) -> Mapping[str, float]:
        """The natural logarithm of the likelihood ratio by all users, for each of `HARMS`."""
        return dict(zip(HARMS, self._sums, strict=True))

    def begin(self, generation: str, share: int | None) -> None:
        """From now on users are in their arms by this generation of the flag.

        A share that falls, and a flag that draws nobody, end the rollout: the next one begins with what was
        known before it.

        Args:
            share: percent of users in the stream arm; None: the flag has no arms.
        """
        if generation == self._generation:
            return
        self._generation = generation
        last = self._shares[-1] if self._shares else 0
        if not share or share < last or (share > last and len(self._shares) == MAX_SHARES):
            self._rollout += 1
            self._shares, self._numbers = [], {}
            self._sums = [0.0] * len(HARMS)
        if share:
            if not self._shares or share > self._shares[-1]:
                self._shares.append(share)
            self._numbers[generation] = len(self._shares) - 1

    def add(
        self,
        user: bytes,
        now_s: float,
        arm: Arm,
        generation: str,
        prior: tuple[float, float],
        *,
        failed: bool,
    ) -> None:
        """A request has ended. Times are Unix's.

        The same rule holds in all arms, but that `KEPT` of the stream arm's failures count.

        Args:
            generation: of the flag, when the arm was decided. Of another rollout: it counts nowhere.
            prior: failures, and requests, that what is known of all users is worth.
        """
        if not self._shares:
            if arm is Arm.REST:
                self._add_before(self._drawn(user, now_s), failed=failed)
            return
        number = self._numbers.get(generation)
        if number is None:
            return
        drawn = self._drawn(user, now_s)
        came_in = arm is Arm.STREAM and drawn.entry is None
        if came_in:
            drawn.entry = number
        counts = failed and (arm is not Arm.STREAM or self._chance.random() < KEPT)
        now = len(self._shares) - 1
        begins = not drawn.since or drawn.since[-1][0] != now
        if begins:
            drawn.since.append([now, 0, 0])
        drawn.since[-1][1] += 1
        drawn.since[-1][2] += counts
        requests = sum(at[1] for at in drawn.since)
        if counts or came_in or begins or requests >= AGAIN * drawn.told_at:
            self._tell(drawn, self._adds(drawn, arm, prior))
            drawn.told_at = requests

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's."""
        old = [user for user, drawn in self._by_user.items() if now_s - drawn.seen_s > FORGOTTEN_S]
        for user in old:
            self._remove(user)

    @staticmethod
    def _add_before(drawn: _Drawn, *, failed: bool) -> None:
        drawn.requests += 1
        drawn.failed += failed
        if drawn.requests >= MOST_REQUESTS:
            drawn.requests, drawn.failed = drawn.requests // 2, drawn.failed // 2

    def _adds(self, drawn: _Drawn, arm: Arm, prior: tuple[float, float]) -> tuple[float, ...]:
        """The logarithm of what the user adds, by harm.

        The user's rate has the gamma distribution of what was seen before the rollout, or that of all users.
        """
        from_share = [[0, 0] for _ in self._shares]  # requests and failures from each share on
        for number, requests, failed in drawn.since:
            for sums in from_share[: number + 1]:
                sums[0] += requests
                sums[1] += failed
        requests, failed = from_share[0]
        rates = []
        for trusted, x, n in (
            (TRUSTED, drawn.failed + prior[0], drawn.requests + prior[1]),
            (1 - TRUSTED, prior[0], prior[1]),
        ):
            likely = math.lgamma(x + failed) - math.lgamma(x) + x * math.log(n)
            rates.append((math.log(trusted) + likely - (x + failed) * math.log(n + requests), x, n))
        most = max(likely for likely, _, _ in rates)
        every = most + math.log(sum(math.exp(likely - most) for likely, _, _ in rates))
        parts = [(each - was) / 100 for was, each in pairwise((0, *self._shares))]
        adds = []
        for part, times in HARMS.values():
            own, mean = 1.0, 1 - self._shares[-1] / 100  # of whom the draw leaves out: nothing is changed
            for number, (after, failed_after) in enumerate(from_share):
                ratio = 0.0
                for likely, x, n in rates:
                    more = (x + failed) * math.log1p((times - 1) * after / (n + requests))
                    log = likely - every + failed_after * math.log(times) - more
                    ratio += math.exp(max(-_MOST, min(_MOST, log)))
                ratio = 1 - part + part * ratio
                mean += parts[number] * ratio
                own = ratio if number == drawn.entry else own
            adds.append(math.log(own / mean))
        if arm is Arm.REST and drawn.entry is None:
            # The rest has those, too, whom the flag's constraints leave out and nothing was drawn for.
            return tuple(min(0.0, each) for each in adds)
        return tuple(adds)

    def _tell(self, drawn: _Drawn, adds: tuple[float, ...]) -> None:
        before = drawn.told or (0.0,) * len(HARMS)
        self._sums = [total + new - old for total, new, old in zip(self._sums, adds, before, strict=True)]
        drawn.told = adds

    def _drawn(self, user: bytes, now_s: float) -> _Drawn:
        drawn = self._by_user.pop(user, None)
        if drawn is None:
            if len(self._by_user) >= self._max:
                self._make_room()
            drawn = _Drawn(now_s, rollout=self._rollout)
        if drawn.rollout != self._rollout:
            drawn = _Drawn(now_s, drawn.requests, drawn.failed, self._rollout)
        drawn.seen_s = now_s
        self._by_user[user] = drawn
        return drawn

    def _make_room(self) -> None:
        # As with histories: a flood of names that ask once drives out names that asked once.
        number = max(1, int(self._max * AT_ONCE))
        oldest = list(islice(self._by_user, number * CANDIDATES))
        shortest = set(sorted(oldest, key=self._requests)[:number])
        for user in oldest:
            if user in shortest:
                self._remove(user)
            else:
                self._by_user[user] = self._by_user.pop(user)

    def _requests(self, user: bytes) -> int:
        drawn = self._by_user[user]
        return drawn.requests + sum(at[1] for at in drawn.since)

    def _remove(self, user: bytes) -> None:
        drawn = self._by_user.pop(user)
        if drawn.rollout == self._rollout:
            self._tell(drawn, (0.0,) * len(HARMS))
