"""The outcome of a relayed request of a route, by the measure that all arms have in common.

A failure is one that the user sees. An answer that a run could not use counts as failed when it is relayed,
too; an answer that refuses the request (4xx) is no failure in any arm. Outcomes that an unknown client can
cause are not counted: strangers could make a rollout roll back.
"""

import logging

from flags.decision import Arm
from proxy.errors import UpstreamBusy
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.relayed_request import Outcome, RelayResult
from proxy.settings.routes import Route
from proxy.text.sections import MalformedBody
from proxy.text.slow_json import texts_of

logger = logging.getLogger("headgate.outcomes")

COMPARED = frozenset({Arm.STREAM, Arm.CONTROL})
"""Arms whose relayed answers are read. Those of the rest are not even copied."""

OF_STRANGERS = frozenset({401, 403})
"""Statuses of clients that the upstream does not let in: their identity was claimed, and not proved."""


class RelayedOutcomes:
    """The outcomes of relayed answers of one route."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._has_met_foreign = False

    async def of(self, result: RelayResult, copy: AnswerCopy | None) -> str | None:
        """An `outcome` of `headgate_outcomes_total`; None: the request is not counted.

        Args:
            result: of the relay.
            copy: of the answer's body, if it is to be read.
        """
        is_ours = result.outcome is Outcome.REFUSED or isinstance(result.error, UpstreamBusy)
        if is_ours or result.status in OF_STRANGERS:
            return None
        if result.outcome is not Outcome.COMPLETE:
            return result.outcome.value
        return "failed" if await self._is_failure(result.status, copy) else "complete"

    async def _is_failure(self, status: int, copy: AnswerCopy | None) -> bool:
        if not 200 <= status < 300:
            return status >= 500
        if copy is None or copy.is_empty:
            return False
        body = await copy.body()
        if body is None:
            self._warn(copy)
            return False
        return await lacks_answer(body, self._route)

    def _warn(self, copy: AnswerCopy) -> None:
        """Unreadable answers all count as complete, so that streams look worse beside them."""
        if copy.is_foreign and not self._has_met_foreign:
            self._has_met_foreign = True
            logger.warning(
                "batch answers cannot be read: let the upstream use gzip, deflate or no content coding",
                extra={"route": self._route.name},
            )


async def lacks_answer(body: bytes, route: Route) -> bool:
    """True if a 2xx answer cannot be read, or has an error sentence in place of a text.

    An answer without any text is not a failure: it may ask the user for something.
    """
    try:
        texts = await texts_of(body, route.sections)
    except MalformedBody:
        return True
    return any(route.is_failure(text) for text in texts.values())
