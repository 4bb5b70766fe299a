"""A request of a route, and all that is known of it before the decision."""

import asyncio
import re
from dataclasses import dataclass
from typing import Self, cast

from flags.decision import Accept
from proxy.downstream.bodies import ByteReservation
from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.accept import accepted, without_dialect
from proxy.http.asgi import Receive, Send
from proxy.http.fetch_metadata import comes_from
from proxy.http.framing import check_framing
from proxy.http.headers import Headers
from proxy.identity import Identity
from proxy.settings.routes import Match, Route
from proxy.viewers.formats import FORMATS

_UUID4 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""122 random bits; other ids may be guessed."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """One request whose path and method match a route."""

    match: Match
    target: bytes
    """The target of a run's call: of the POST, also for a GET of its `stream_path`; without the dialect that
    the run is to be shown in. The relay passes on what has come."""
    client: ClientRequest
    send: Send
    """Sends what an ASGI call answers."""
    identity: Identity | None
    accept: Accept
    run_id: bytes | None
    """The `headgate-run` header: an id that the client has chosen for its run."""
    idempotency_key: bytes | None
    arrived_at: float
    """The loop's time."""
    reservation: ByteReservation
    """The part of the byte budget that the request's body takes."""

    @classmethod
    def of(
        cls,
        match: Match,
        target: bytes,
        client: ClientRequest,
        identity: Identity | None,
        reservation: ByteReservation,
    ) -> Self:
        """Read the headers of a request."""
        headers = client.headers
        accept, run_id, key = Accept.ONLY_STREAM, None, None
        if match.by_stream_path:
            _, question_mark, query = target.partition(b"?")
            target = match.route.path.fill(match.parameters).encode("latin-1") + question_mark + query
        else:
            accept = accepted(headers)
            run_id = next((value for name, value in headers if name == b"headgate-run"), None)
            key = next((value for name, value in headers if name == b"idempotency-key"), None)
        if accept is not Accept.NONE:
            target = without_dialect(headers, target, FORMATS)
        arrived_at = asyncio.get_running_loop().time()
        send = cast(Send, client.send)
        return cls(match, target, client, send, identity, accept, run_id, key, arrived_at, reservation)

    @property
    def headers(self) -> Headers:
        return self.client.headers

    @property
    def receive(self) -> Receive:
        return cast(Receive, self.client.receive)

    @property
    def route(self) -> Route:
        return self.match.route

    @property
    def owner(self) -> str:
        return owner_of(self.identity)

    @property
    def may_stream(self) -> Accept:
        """The decision's `accept`. A client that names its run may watch it elsewhere, in any form."""
        if self.accept is Accept.NONE and (self.run_id or self.idempotency_key):
            return Accept.EITHER
        return self.accept

    @property
    def chosen_id(self) -> str | None:
        """The client's id for its run; None if there is none, or one that is no random UUID."""
        return self.run_id.decode() if self.run_id is not None and is_random_id(self.run_id) else None

    def checked_id(self) -> str | None:
        """The same. Raises RequestRefused for an id in another form, which could be guessed."""
        chosen = self.chosen_id
        if self.run_id is not None and chosen is None:
            raise RequestRefused(400, "headgate-run must be a random UUID (version 4) in lower case.")
        return chosen

    def check_framing(self) -> None:
        """Raises RequestRefused if the body cannot be read."""
        check_framing(self.headers, self.client.version)

    @property
    def is_well_framed(self) -> bool:
        """True if the body can be read here. If not, the relay refuses the request in its own way."""
        try:
            self.check_framing()
        except RequestRefused:
            return False
        return True


def owner_of(identity: Identity | None) -> str:
    """The owner of the share of a byte budget; all unknown clients share one."""
    return "" if identity is None else identity.principal


def is_random_id(run_id: bytes) -> bool:
    """True if an id is a random UUID (version 4) in lower case."""
    return _UUID4.fullmatch(run_id) is not None


def may_start(match: Match, headers: Headers) -> bool:
    """True if a GET may start the work of a POST: it asks for a stream by name, and from an allowed site.

    An image, a link or a prefetch must not, least of all with the user's cookies. It is relayed.
    """
    return accepted(headers) is not Accept.NONE and comes_from(headers, match.route.settings.stream_path_from)
