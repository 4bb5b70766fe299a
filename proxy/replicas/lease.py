"""How a replica proves that it lives, and when it may have been taken for dead. No I/O, no clock."""

LEASE_S = 6.0
"""How long it holds that a replica has said that it lives."""

LOST_S = 4.0
"""How long another replica must have been silent beyond that: after the store has lost its memory, it takes
the living so long to speak up again."""


class ReplicaLease:
    """This process's own, as it knows it.

    Args:
        now: the loop's time, as everywhere below.
    """

    def __init__(self, now: float) -> None:
        self._renewed_at = now

    def renew(self, began_at: float) -> None:
        """The store has it again.

        Args:
            began_at: when it was asked to.
        """
        self._renewed_at = began_at

    def may_be_lost(self, now: float) -> bool:
        """Whether others may have taken this one for dead, because it was held up, or could not be heard."""
        return now - self._renewed_at >= LOST_S
