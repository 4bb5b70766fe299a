"""Whose share of what all have is the largest."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.shares import Shares

MOVES = st.lists(st.tuples(st.sampled_from(["ann", "bob", "cy", None]), st.integers(-3, 3)), max_size=60)


class Counted(str):
    """A principal that counts how often anybody is looked at."""

    __slots__ = ()
    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()


@pytest.mark.parametrize("latest_first", [False, True])
@given(moves=MOVES)
def test_the_largest_share_is_found(latest_first: bool, moves: list[tuple[str | None, int]]) -> None:
    """The same that a look at all of them finds; of several, the one who came first, or last."""
    shares: Shares[str | None] = Shares(latest_first=latest_first)
    plain: Counter[str | None] = Counter()
    for principal, amount in moves:
        more = max(amount, -plain[principal])
        shares.add(principal, more)
        plain[principal] += more
        if not plain[principal]:
            del plain[principal]
        names = list(plain)
        assert shares.total == plain.total()
        if names:
            assert shares.largest() == max(reversed(names) if latest_first else names, key=plain.__getitem__)


def test_two_thousand_users_make_none_of_them_slower() -> None:
    """However many have a share, to move one and to find the largest looks at a few."""
    shares: Shares[str] = Shares(latest_first=True)
    users = [Counted(number) for number in range(2_000)]
    for user in users:
        shares.add(user, 2)
    Counted.looks = 0
    for user in users:
        shares.add(shares.largest(), -1)
        shares.add(user, 1)

    assert Counted.looks < 20 * len(users)


def test_who_has_nothing_left_is_forgotten() -> None:
    """Nothing of a user stays, and of others not more than twice what is counted."""
    shares: Shares[str] = Shares(latest_first=True)
    for _ in range(100):
        shares.add("ann", 5)
        shares.add("bob", 5)
        shares.add("bob", -5)
        assert len(shares._heap) <= 2
    shares.add("ann", -500)

    assert "ann" not in repr(vars(shares))
