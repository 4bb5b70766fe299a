"""Keyed hashes in place of users, and the number of different ones in each arm since the flag changed.

The number is a lower bound: a change of the flag resets it, and at `MAX_USERS` counting stops.
"""

import hashlib
import os
from collections.abc import Mapping

from prometheus_client import Gauge

from flags.decision import Arm

MAX_USERS = 10_000
"""The most users that are counted in one arm of one route. A comparison needs a few dozen."""


class UserNames:
    """Names users by keyed hashes, which say nothing without the key.

    Args:
        key: replicas that share what they know of users have the same. None: a random one, of this process.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = os.urandom(32) if key is None else key

    def of(self, user: str, tenant: str | None) -> bytes:
        """8 bytes. A user of another tenant is another one."""
        # Quoted: else a name with a separator in it would be another tenant's user.
        named = repr((tenant, user))
        return hashlib.blake2b(named.encode(), digest_size=8, key=self._key, person=b"headgate-user").digest()


class Users:
    """The users of one route, in the arms that have a gauge."""

    def __init__(self, gauges: Mapping[Arm, Gauge], *, max_users: int = MAX_USERS) -> None:
        self._gauges = gauges
        self._max_users = max_users
        self._generation = ""
        self._seen: dict[Arm, set[bytes]] = {arm: set() for arm in gauges}

    def add(self, arm: Arm, user: bytes, generation: str) -> None:
        """A request of a user, by keyed hash, was decided."""
        seen = self._seen.get(arm)
        if seen is None:
            return
        self.start_generation(generation)
        # All arms stop together, or the one that continues would seem to have more users.
        if any(len(others) >= self._max_users for others in self._seen.values()):
            return
        seen.add(user)
        self._gauges[arm].set(len(seen))

    def add_ended(self, arm: Arm, user: bytes, generation: str) -> None:
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
