"""The number of different users in each arm since the flag changed, counted by keyed hashes.

It is a lower bound: a change of the flag resets it, and at `MAX_USERS` counting stops.
"""

import hashlib
import os
from collections.abc import Mapping

from prometheus_client import Gauge

from flags.decision import Arm

MAX_USERS = 10_000
"""The most users that are counted in one arm of one route. A comparison needs a few dozen."""


class Users:
    """The users of one route, in the arms that have a gauge."""

    def __init__(self, gauges: Mapping[Arm, Gauge], *, max_users: int = MAX_USERS) -> None:
        self._gauges = gauges
        self._max_users = max_users
        self._generation = ""
        self._seen: dict[Arm, set[bytes]] = {arm: set() for arm in gauges}
        self._salt = os.urandom(16)
        """Keeps the hashes anonymous, even for somebody who has a list of all users."""

    def add(self, arm: Arm, user: str, generation: str) -> None:
        """A request of a user was decided."""
        seen = self._seen.get(arm)
        if seen is None:
            return
        self.start_generation(generation)
        # All arms stop together, or the one that continues would seem to have more users.
        if any(len(others) >= self._max_users for others in self._seen.values()):
            return
        seen.add(hashlib.blake2b(user.encode(), digest_size=8, key=self._salt).digest())
        self._gauges[arm].set(len(seen))

    def add_ended(self, arm: Arm, user: str, generation: str) -> None:
        """A request of a user has ended. If the flag has changed since it was decided, the user does not
        count."""
        if generation == self._generation:
            self.add(arm, user, generation)

    def start_generation(self, generation: str) -> None:
        """Start anew if the flag has changed; see `flags.decision.Decision`."""
        if generation == self._generation:
            return
        self._generation = generation
        for arm, seen in self._seen.items():
            seen.clear()
            self._gauges[arm].set(0)
