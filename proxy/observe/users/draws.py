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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import NamedTuple

from flags.decision import Arm
from proxy.observe.users.histories import AT_ONCE, CANDIDATES, FORGOTTEN_S, MAX_HISTORIES, MOST_REQUESTS

MAX_DRAWN = MAX_HISTORIES
"""Users of one route, about 12 MB."""

MAX_SHARES = 16
"""Shares of one rollout; at one more all that is known of the draw begins anew."""

MAX_GENERATIONS = 64
"""Of the flag, in one rollout: requests that were decided by older ones count nowhere."""


class HarmOfStreams(NamedTuple):
    """What streaming may do."""

    part: float
    """Of users, 0 to 1."""
    times: float
    """As many failures as these had, of which `KEPT` count."""
    is_late: bool = False
    """From the latest share on, whenever a user came in; else since the user came in."""


HARMS: Mapping[str, HarmOfStreams] = {
    "few": HarmOfStreams(0.1, 12.0),
    "all": HarmOfStreams(1.0, 2.4),
    "late": HarmOfStreams(1.0, 2.4, is_late=True),
}

TRUSTED = 0.6
"""The part of users whose rate of failure is taken to be still what it was before the rollout."""

AGAIN = 1.1
"""Times as many requests after which what a user adds is reckoned anew, if none of them failed."""

_MOST = 500.0  # of a logarithm: its exponential is a number


@dataclass(slots=True)
class Drawn:
    """One user."""

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


class KnownDraws(NamedTuple):
    """All that is known."""

    rollout: int
    """How many there were before."""
    generation: str
    """Of the flag, in force."""
    shares: Sequence[int]
    """In percent, each larger than the one before."""
    numbers: Mapping[str, int]
    """Of the shares, by the flag's generations in this rollout."""
    sums: Sequence[float]
    """Of what users add, by harm."""
    users: Iterable[tuple[bytes, Drawn]]
    """The one that was seen longest ago first."""


class Draws:
    """Users of one route, the one that was seen longest ago first.

    The same in the same order gives the same, in whatever process.
    """

    def __init__(self, *, max_users: int = MAX_DRAWN) -> None:
        self._max = max_users
        self._by_user: dict[bytes, Drawn] = {}
        self._rollout = 0
        self.generation = ""
        """Of the flag, in force."""
        self._shares: list[int] = []
        self._numbers: dict[str, int] = {}
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
        if generation == self.generation:
            return
        self.generation = generation
        last = self._shares[-1] if self._shares else 0
        if not share or share < last or (share > last and len(self._shares) == MAX_SHARES):
            self._rollout += 1
            self._shares, self._numbers = [], {}
            self._sums = [0.0] * len(HARMS)
        if share:
            if not self._shares or share > self._shares[-1]:
                self._shares.append(share)
                self._sums = list(_without_late(self._sums))
            self._numbers[generation] = len(self._shares) - 1
            while len(self._numbers) > MAX_GENERATIONS:
                del self._numbers[next(iter(self._numbers))]

    def known(self) -> KnownDraws:
        """What `begin_again` takes."""
        shares, numbers, sums = tuple(self._shares), dict(self._numbers), tuple(self._sums)
        return KnownDraws(self._rollout, self.generation, shares, numbers, sums, self._by_user.items())

    def begin_again(self, known: KnownDraws) -> Iterator[None]:
        """Forget all, and take over this, in steps. Until the last one all is as before."""
        by_user: dict[bytes, Drawn] = {}
        for user, drawn in known.users:
            by_user[user] = drawn
            yield
        self._by_user, self._sums = by_user, list(known.sums)
        self._rollout, self.generation = known.rollout, known.generation
        self._shares, self._numbers = list(known.shares), dict(known.numbers)

    def add(
        self,
        user: bytes,
        now_s: float,
        arm: Arm,
        generation: str,
        prior: tuple[float, float],
        *,
        failed: bool,
        requests: int = 1,
    ) -> None:
        """Requests have ended, one after another. Times are Unix's.

        They count at the share at which they were decided, even if they end, or are told, after it rose: by
        then the user's arm may be another one.

        Args:
            generation: of the flag, when the arm was decided; "" for a user whom the flag leaves out. Of
                another rollout: it counts nowhere.
            prior: failures, and requests, that what is known of all users is worth.
            failed: they count as failures.
        """
        if not self._shares:
            if arm is Arm.REST:
                self._add_before(self._drawn(user, now_s), requests, failed=failed)
            return
        number = self._numbers.get(generation)
        if number is None:
            return
        drawn = self._drawn(user, now_s)
        self._forget_late(drawn)
        before = sum(at[1] for at in drawn.since)
        came_in = arm is Arm.STREAM and (drawn.entry is None or number < drawn.entry)
        if came_in:
            drawn.entry = number
        at = next((at for at in drawn.since if at[0] == number), None)
        is_first = at is None
        if at is None:
            at = [number, 0, 0]
            drawn.since.append(at)
        at[1] += requests
        at[2] += requests * failed
        all_requests = before + requests
        due = all_requests if failed else before + 1 if came_in or is_first else drawn.told_at
        while (later := max(before + 1, math.ceil(AGAIN * due))) <= all_requests:
            due = later
        if due > before:
            at[1] -= all_requests - due
            self._tell(drawn, self._adds(drawn, prior))
            at[1] += all_requests - due
            drawn.told_at = due

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's. Nobody was seen later than now."""
        for user, drawn in list(self._by_user.items()):
            drawn.seen_s = min(drawn.seen_s, now_s)
            if now_s - drawn.seen_s > FORGOTTEN_S:
                self._remove(user)

    @staticmethod
    def _add_before(drawn: Drawn, requests: int, *, failed: bool) -> None:
        while requests:
            now = min(requests, MOST_REQUESTS - drawn.requests)
            requests -= now
            drawn.requests += now
            drawn.failed += now * failed
            if drawn.requests >= MOST_REQUESTS:
                drawn.requests, drawn.failed = drawn.requests // 2, drawn.failed // 2

    def _adds(self, drawn: Drawn, prior: tuple[float, float]) -> tuple[float, ...]:
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
        for part, times, is_late in HARMS.values():
            own, mean = 1.0, 1 - self._shares[-1] / 100  # of whom the draw leaves out: nothing is changed
            for number, (after, failed_after) in enumerate(from_share):
                if is_late:
                    after, failed_after = from_share[-1]
                ratio = 0.0
                for likely, x, n in rates:
                    more = (x + failed) * math.log1p((times - 1) * after / (n + requests))
                    log = likely - every + failed_after * math.log(times) - more
                    ratio += math.exp(max(-_MOST, min(_MOST, log)))
                ratio = 1 - part + part * ratio
                mean += parts[number] * ratio
                own = ratio if number == drawn.entry else own
            adds.append(math.log(own / mean))
        return tuple(adds)

    def _forget_late(self, drawn: Drawn) -> None:
        """What a user told of late harm at a smaller share is in no sum any more."""
        if drawn.told and not any(at[0] == len(self._shares) - 1 for at in drawn.since):
            drawn.told = _without_late(drawn.told)

    def _tell(self, drawn: Drawn, adds: tuple[float, ...]) -> None:
        before = drawn.told or (0.0,) * len(HARMS)
        self._sums = [total + new - old for total, new, old in zip(self._sums, adds, before, strict=True)]
        drawn.told = adds

    def _drawn(self, user: bytes, now_s: float) -> Drawn:
        drawn = self._by_user.pop(user, None)
        if drawn is None:
            if len(self._by_user) >= self._max:
                self._make_room()
            drawn = Drawn(now_s, rollout=self._rollout)
        if drawn.rollout != self._rollout:
            drawn = Drawn(now_s, drawn.requests, drawn.failed, self._rollout)
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
        since = drawn.since if drawn.rollout == self._rollout else ()
        return drawn.requests + sum(at[1] for at in since)

    def _remove(self, user: bytes) -> None:
        drawn = self._by_user.pop(user)
        if drawn.rollout == self._rollout:
            self._forget_late(drawn)
            self._tell(drawn, (0.0,) * len(HARMS))


def _without_late(logs: Sequence[float]) -> tuple[float, ...]:
    """Of each harm, with nothing of a late one."""
    return tuple(0.0 if harm.is_late else log for harm, log in zip(HARMS.values(), logs, strict=True))
