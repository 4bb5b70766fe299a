"""How many runs may be in flight at a time: of a route, and of one principal on it. No I/O."""

from collections import Counter
from typing import Any

from proxy.settings.routes import Route

SHARE_OF_OTHERS = 4
"""One in so many of a route's `max_runs` is not for a principal that has all the others."""


class Capacity:
    """The runs of this process that are in flight, or about to begin. None as a principal is nobody."""

    def __init__(self) -> None:
        self._on_route: Counter[str] = Counter()
        self._of_principal: Counter[tuple[str | None, str]] = Counter()

    def take(self, route: str, principal: str | None) -> None:
        """One more run."""
        self._on_route[route] += 1
        self._of_principal[principal, route] += 1

    def give_back(self, route: str, principal: str | None) -> None:
        """That run is over, or did not begin."""
        _decrease(self._on_route, route)
        _decrease(self._of_principal, (principal, route))

    def has_room(self, route: Route) -> bool:
        """Whether the route may have another one."""
        return self._on_route[route.name] < route.settings.max_runs

    def has_share(self, route: Route, principal: str | None) -> bool:
        """Whether the principal may have another one there. It leaves some of the room to the others."""
        most = route.settings.max_runs
        return self._of_principal[principal, route.name] < most - most // SHARE_OF_OTHERS

    def is_used_by(self, principal: str, route: str) -> bool:
        """Whether the principal has any there."""
        return (principal, route) in self._of_principal


def _decrease(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
