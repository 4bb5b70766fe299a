"""Run ids chosen by clients for runs that have another id, or for requests that begin no run. No I/O.

An alias belongs to one principal: the same id of another principal is another alias.
"""

from collections import OrderedDict

MAX_NAMES = 100
"""Aliases of one run. A request that joins the run under yet another id finds the run's own id in the
answer."""

NONE_S = 10.0
"""Seconds for which it is remembered that no run begins: the page that asks for its events may be a little
late."""

MAX_NONE = 10_000
"""Such ids at a time; the oldest go first, and their waiters wait as long as for any other id."""

Name = tuple[str, str]
"""A principal, and the id it chose."""


class RunAliases:
    """The aliases that this process knows."""

    def __init__(self) -> None:
        self._runs: dict[Name, str] = {}
        self._names: dict[Name, list[str]] = {}
        """Aliases, by the run's principal and its own id."""
        self._none: OrderedDict[Name, float] = OrderedDict()
        """Ids for which no run begins, and until when that is remembered."""

    def give(self, principal: str, name: str, run_id: str) -> None:
        """The run goes by this id, too, from now on."""
        key = (principal, name)
        self._none.pop(key, None)
        before = self._runs.get(key)
        names = self._names.setdefault((principal, run_id), [])
        if before == run_id or len(names) >= MAX_NAMES:
            return
        if before is not None:
            self._names[principal, before].remove(name)
        self._runs[key] = run_id
        names.append(name)

    def run_of(self, principal: str, name: str) -> str | None:
        """The own id of the run that goes by this one."""
        return self._runs.get((principal, name))

    def forget(self, principal: str | None, run_id: str) -> None:
        """The run of this principal is gone."""
        if principal is not None:
            for name in self._names.pop((principal, run_id), ()):
                del self._runs[principal, name]

    def give_to_none(self, principal: str, name: str, now: float) -> None:
        """No run begins under this id: its request is relayed."""
        self._none[principal, name] = now + NONE_S
        self._none.move_to_end((principal, name))
        while self._none and (len(self._none) > MAX_NONE or next(iter(self._none.values())) < now):
            self._none.popitem(last=False)

    def is_of_none(self, principal: str, name: str, now: float) -> bool:
        """True if a request with this id was relayed just now, so that no run begins under it."""
        return self._none.get((principal, name), now) > now
