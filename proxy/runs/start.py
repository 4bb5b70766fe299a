"""The parts that a run is begun from, and the keys by which a request finds a run to join."""

import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from flags.decision import Decision
from proxy.errors import RequestRefused
from proxy.http.headers import MAY_DIFFER
from proxy.identity import Identity
from proxy.observe.metrics import RouteMetrics
from proxy.runs.call import Call
from proxy.runs.run import Run
from proxy.runs.shared import ViewableRun
from proxy.upstream.client import Answer

ID_TAKEN = "The id of this run is another one's. Please choose a new one."


class Source(Protocol):
    """Executes a run's call, shows text as it becomes known, and returns the batch answer."""

    def answer(self, run: Run) -> Awaitable[Answer]:
        """The upstream's whole answer, which is the authority on what was shown.

        Raises:
            UpstreamError: there is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything a run is made of, and the keys by which other requests join it."""

    call: Call
    decision: Decision
    identity: Identity | None
    metrics: RouteMetrics
    source: Source
    run_id: str | None = None
    """The id that the client chose."""
    idempotency_key: bytes | None = None
    may_join: bool = True

    @property
    def principal(self) -> str | None:
        return None if self.identity is None else self.identity.principal

    @property
    def fingerprint(self) -> str:
        """Equal for requests of one principal with the same target and body."""
        request = self.call.request
        return fingerprint(self.identity, self.call.route.name, request.target, request.body)

    def _same(self) -> str:
        """Equal for requests that ask for the same, in all that may choose the answer."""
        headers = sorted(pair for pair in self.call.request.headers if pair[0] not in MAY_DIFFER)
        return _digest(self.fingerprint, *(part for pair in headers for part in pair))

    def join_keys(self) -> list[str]:
        """The keys by which a request finds the run it joins: the first while that run is in flight, the
        second by its `Idempotency-Key`. None where nothing is joined, as without a principal.
        """
        if self.identity is None or not self.call.route.settings.join or not self.may_join:
            return []
        keys = [self._same()]
        if self.idempotency_key is not None:
            keys.append(digest_of_key(self.identity, self.call.route.name, self.idempotency_key))
        return keys


def check_the_same(start: RunSpec, run: ViewableRun, *, is_named: bool = False) -> None:
    """Raises RequestRefused if the run is of another request than the one that came to it.

    `is_named`: by an id that the run goes by, though its own may be another one.
    """
    if run.fingerprint != start.fingerprint:
        if is_named or run.id == start.run_id:
            raise RequestRefused(409, ID_TAKEN)
        raise RequestRefused(422, "This Idempotency-Key was used for another request.")


def fingerprint(identity: Identity | None, route: str, target: bytes, body: bytes) -> str:
    """Equal for requests of one principal with the same target and body."""
    return _digest("" if identity is None else identity.principal, route, target, body)


def digest_of_key(identity: Identity, route: str, key: bytes) -> str:
    """The join key for an `Idempotency-Key`."""
    return _digest(identity.principal, route, key)


def digest_of_name(principal: str, name: str) -> str:
    """The key under which an alias of a run is kept."""
    return _digest(principal, "name", name)


def _digest(*parts: str | bytes) -> str:
    """A digest of all parts. No two lists of parts have the same one."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%b" % (len(data), data))
    return digest.hexdigest()
