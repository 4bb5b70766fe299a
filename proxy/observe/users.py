"""How many different users there were in each arm since the flag has changed: keyed hashes, and their count.

At least so many: users of before a change of the flag are forgotten, and beyond a bound nobody is added.
"""

import hashlib
import os
from collections.abc import Mapping

from prometheus_client import Gauge

from flags.decision import Arm

MAX_USERS = 10_000
"""In one arm of one route. A comparison needs a few dozen."""


class Users:
    """The users of one route. `gauges` show how many there are; other arms are not counted."""

    def __init__(self, gauges: Mapping[Arm, Gauge], *, max_users: int = MAX_USERS) -> None:
        self._gauges = gauges
        self._max_users = max_users
        self._generation = ""
        self._seen: dict[Arm, set[bytes]] = {arm: set() for arm in gauges}
        self._salt = os.urandom(16)
        """So that what is kept here says nothing about anybody, not even to who knows all users."""

    def saw(self, arm: Arm, user: str, generation: str) -> None:
        """A request of a user was decided."""
        seen = self._seen.get(arm)
        if seen is None:
            return
        self.turn_to(generation)
        # All arms stop together, or the one that goes on would seem to have more users.
        if any(len(others) >= self._max_users for others in self._seen.values()):
            return
        seen.add(hashlib.blake2b(user.encode(), digest_size=8, key=self._salt).digest())
        self._gauges[arm].set(len(seen))

    def met(self, arm: Arm, user: str, generation: str) -> None:
        """The same at a request's end: then the flag may have been changed, and the user is one of before."""
        if generation == self._generation:
            self.saw(arm, user, generation)

    def turn_to(self, generation: str) -> None:
        """The flag is written like this now; see `flags.decision.Decision`."""
        if generation == self._generation:
            return
        self._generation = generation
        for arm, seen in self._seen.items():
            seen.clear()
            self._gauges[arm].set(0)
