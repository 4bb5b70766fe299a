"""A request that is held until its body is here whole, since it may be sent again. No task waits for it."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from proxy.downstream import bodies
from proxy.downstream.bodies import ByteReservation
from proxy.downstream.client_request import ClientRequest
from proxy.observe.spans.request_ids import work_of
from proxy.relay.result import OnEnd, Outcome, RelayResult

logger = logging.getLogger("headgate.relay")


class WholeBody:
    """Holds one request; `begin` it once.

    Args:
        reservation: takes the body's bytes, and is closed by the owner.
        then: is called once, with whether the body is here whole. It is not if it is longer than
            `MAX_REQUEST_BYTES`, there is no room, or it comes too slowly: then it goes as it comes.
        on_end: is called instead if the client leaves, the process ends, or `COLLECT_S` is over.
    """

    def __init__(
        self,
        client: ClientRequest,
        reservation: ByteReservation,
        then: Callable[[bool], None],
        on_end: OnEnd,
    ) -> None:
        self._client = client
        self._reservation = reservation
        self._then = then
        self._on_end = on_end
        self._began_at = monotonic()
        self._size = 0

    def begin(self) -> None:
        self._client.watcher = self
        self._timer = asyncio.get_running_loop().call_later(bodies.due_s(0), self._look_at_pace)
        self.client_changed()

    def client_changed(self) -> None:
        client = self._client
        try:
            more = len(client.body) - self._size
            self._size += more
            if client.disconnected:
                self._end(Outcome.CLIENT_LEFT)
            elif self._size > bodies.MAX_REQUEST_BYTES or not self._reservation.take(more):
                self._go_on(is_whole=False)
            elif client.more_body:
                client.ask_for_body()
            else:
                self._go_on(is_whole=True)
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._crash()

    def cut(self) -> None:
        """The process ends: give the request up."""
        self._end(Outcome.SHUTDOWN)
        self._client.fail()

    def _look_at_pace(self) -> None:
        due_s = bodies.due_s(self._size)
        left_s = self._began_at + due_s - monotonic()
        try:
            if left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._look_at_pace)
            elif due_s == bodies.COLLECT_S:
                self._end(Outcome.REFUSED, 408)
                self._client.refuse(408, bodies.TOO_SLOW, close=True)
            else:
                self._go_on(is_whole=False)
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def _go_on(self, *, is_whole: bool) -> None:
        self._let_go()
        self._then(is_whole)

    def _end(self, outcome: Outcome, status: int = 0) -> None:
        self._let_go()
        self._on_end(RelayResult(outcome, status, took_s=monotonic() - self._began_at))

    def _crash(self) -> None:
        with work_of(self._client.ids):
            logger.exception("Exception in the relay")
        self._let_go()
        self._client.fail()
        self._on_end(RelayResult(Outcome.FAILED, 500, took_s=monotonic() - self._began_at))

    def _let_go(self) -> None:
        """What holds this, and is held by it, lets go."""
        self._timer.cancel()
        self._client.watcher = None
