"""What a request of a route came to, by one measure for all arms.

A failure is one that the user sees: an answer that a run would have had to give up is as bad when it is
relayed, and one that the upstream refuses (4xx) is an answer, whoever carries it. What anybody can bring
about without being somebody counts for nobody: else strangers could make a rollout go back.
"""

import logging

from flags.decision import Arm
from proxy.errors import UpstreamBusy
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.relay import Outcome, RelayResult
from proxy.settings.routes import Route
from proxy.text.crowded import texts_of
from proxy.text.sections import MalformedBody

logger = logging.getLogger("headgate.outcomes")

COMPARED = frozenset({Arm.STREAM, Arm.CONTROL})
"""Arms whose relayed answers are read; the rest's are not even copied."""

OF_STRANGERS = frozenset({401, 403})
"""Statuses of those whom the upstream does not let in: whoever they said they were, it was not shown."""


class RelayedOutcomes:
    """What relayed answers of one route come to."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._has_met_foreign = False

    async def of(self, passage: RelayResult, copy: AnswerCopy | None) -> str | None:
        """One of `headgate_outcomes_total`; None: it counts for nobody.

        Args:
            passage: of an answer that has gone out, or not.
            copy: of its body, if it is to be read.
        """
        is_ours = passage.outcome is Outcome.REFUSED or isinstance(passage.error, UpstreamBusy)
        if is_ours or passage.status in OF_STRANGERS:
            return None
        if passage.outcome is not Outcome.COMPLETE:
            return passage.outcome.value
        return "failed" if await self._is_failure(passage.status, copy) else "complete"

    async def _is_failure(self, status: int, copy: AnswerCopy | None) -> bool:
        if not 200 <= status < 300:
            return status >= 500
        if copy is None:
            return False
        if copy.is_empty:
            return False
        body = copy.body()
        if body is None:
            self._note(copy)
            return False
        return await lacks_answer(body, self._route)

    def _note(self, copy: AnswerCopy) -> None:
        """Answers that cannot be read all count as complete, so that streams look worse beside them."""
        if copy.is_foreign and not self._has_met_foreign:
            self._has_met_foreign = True
            logger.warning(
                "batch answers cannot be read: let the upstream use gzip, deflate or no content coding",
                extra={"route": self._route.name},
            )


async def lacks_answer(body: bytes, route: Route) -> bool:
    """Whether a 2xx answer cannot be read, or has an error sentence in place of a text.

    One without any text is an answer: it may ask the user for something.
    """
    try:
        texts = await texts_of(body, route.sections)
    except MalformedBody:
        return True
    return any(route.is_failure(text) for text in texts.values())
