"""How many failures of one user count in an hour, where the failures of first answers are counted. No I/O.

A user whose answer failed asks again, and again: a storm of retries is one user's bad hour. By the flag's
draw all failures of a user come to one arm together. If n of them count, the difference of the arms varies
by n² for the n that they add; if at most c do, by c² for c. So few users cannot make what looks like many.

Whether a failure counts is known before it comes, by the same rule in both arms. What counts is at most what
fails: a limit that holds for all failures holds for these.

No clock, no user: a user has a keyed hash.
"""

MOST_AN_HOUR = 5
"""Failures of one user that count in an hour. Of three users whose every answer fails 15 do: more than a
limit for 2 % allows among 200 answers."""

HOUR_S = 3600.0

MAX_FAILING = 10_000
"""Users of one route with failures in an hour, about 1 MB. Those of more users do not count in it."""


class FailingUsers:
    """Users of one route whose answers failed in the present hour, at this process."""

    def __init__(self, *, max_users: int = MAX_FAILING) -> None:
        self._max = max_users
        self._hour = 0
        self._failed: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def counts(self, user: bytes, at: float) -> bool:
        """One more answer of a user of a compared arm has failed; return True if that counts.

        Args:
            at: seconds, of a clock that is never set.
        """
        hour = int(at // HOUR_S)
        if hour != self._hour:
            self._hour = hour
            self._failed.clear()
        failed = self._failed.get(user, 0)
        if failed >= MOST_AN_HOUR or (not failed and len(self._failed) >= self._max):
            return False
        self._failed[user] = failed + 1
        return True
