"""The leases by which replicas know of each other that they live, and a failure detector. No I/O, no clock.

Every time here is the loop's.
"""

from collections.abc import Iterable, Iterator, Mapping

LEASE_S = 6.0
"""Seconds that a replica's lease holds after it was renewed."""

LOST_S = 4.0
"""Seconds that another replica must have been without a lease until it is lost: after the store has lost its
memory, the living replicas take so long to renew their leases."""


class ReplicaLease:
    """This process's own lease, as it knows it."""

    def __init__(self, now: float) -> None:
        self._renewed_at = now

    def renew(self, began_at: float) -> None:
        """The store has the lease again.

        Args:
            began_at: when the store was asked.
        """
        self._renewed_at = began_at

    def may_be_lost(self, now: float) -> bool:
        """True if others may have taken this replica for dead, because it was held up or not heard."""
        return now - self._renewed_at >= LOST_S


class FailureDetector:
    """The other replicas that are lost, and those that were silent for a while."""

    def __init__(self) -> None:
        self._silent_since: dict[str, float] = {}
        """Replicas without a lease."""
        self.suspected: set[str] = set()
        """Replicas that may have been silent long enough for others to have taken over their runs."""

    def observe(self, leases: Mapping[str, bytes | None], now: float) -> None:
        """Take note of the leases of other replicas; None: the store has none."""
        silent = {replica for replica, lease in leases.items() if lease is None}
        self._silent_since = {replica: self._silent_since.get(replica, now) for replica in silent}
        self.suspected |= silent

    def observe_nothing(self, replicas: Iterable[str]) -> None:
        """The store is down: nothing is known of these replicas."""
        self._silent_since.clear()
        self.suspected.update(replicas)

    def returned(self) -> set[str]:
        """Suspected replicas that have a lease: learn who executes their runs now, then `trust` them."""
        return self.suspected - self._silent_since.keys()

    def trust(self, replica: str) -> None:
        self.suspected.discard(replica)

    def lost(self, now: float) -> Iterator[tuple[str, float]]:
        """Replicas that are lost, and for how many seconds."""
        for replica, since in self._silent_since.items():
            if now - since >= LOST_S:
                yield replica, now - since - LOST_S
