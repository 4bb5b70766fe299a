"""The outcome of a relayed request of a route, by the measure that all arms have in common.

A failure is one that the user sees. An answer that a run could not use counts as failed when it is relayed,
too; an answer that refuses the request (4xx) is no failure in any arm. Outcomes that an unknown client can
cause are not counted: strangers could make a rollout roll back.
"""

import logging
from collections.abc import Mapping

from flags.decision import Arm, Decision
from proxy.errors import UpstreamBusy
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.result import Outcome, RelayResult
from proxy.settings.routes import Route
from proxy.text.sections import MalformedBody
from proxy.text.slow_json import short_texts, texts_of

logger = logging.getLogger("headgate.outcomes")

COMPARED = frozenset({Arm.STREAM, Arm.CONTROL})
"""Arms whose outcomes are compared."""

OF_STRANGERS = frozenset({401, 403})
"""Statuses of clients that the upstream does not let in: their identity was claimed, and not proved."""


def is_read(decision: Decision) -> bool:
    """True if the relayed answer is read; others are not even copied.

    While the flag draws users, all whom it may draw are measured alike, or the draw would be in what is seen
    of them: also the rest.
    """
    return decision.arm in COMPARED or bool(decision.share and not decision.left_out)


class RelayedOutcomes:
    """The outcomes of relayed answers of one route."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._has_met_foreign = False

    async def of(self, result: RelayResult, copy: AnswerCopy) -> str | None:
        """An `outcome` of `headgate_outcomes_total`, for an answer that is read; None: the request is not
        counted.
        """
        unread = self.of_unread(result)
        if not self.needs_body(result, copy):
            return unread
        body = await copy.body()
        if body is None:
            self._warn(copy)
            return unread
        return "failed" if await lacks_answer(body, self._route) else unread

    def of_short(self, result: RelayResult, copy: AnswerCopy) -> str | None:
        """The same, at once, of an answer that needs its body. None: it is too long for that, or odd."""
        body = copy.short_body()
        if body is None:
            return None
        try:
            texts = short_texts(body, self._route.sections)
        except MalformedBody:
            return "failed"
        if texts is None:
            return None
        return "failed" if _has_failure(texts, self._route) else self.of_unread(result)

    def needs_body(self, result: RelayResult, copy: AnswerCopy) -> bool:
        """True if the outcome of an answer that was copied depends on its body."""
        return self.of_unread(result) == "complete" and 200 <= result.status < 300 and not copy.is_empty

    def of_unread(self, result: RelayResult) -> str | None:
        """The same, as far as an answer shows it without its body."""
        is_ours = result.outcome is Outcome.REFUSED or isinstance(result.error, UpstreamBusy)
        if is_ours or result.status in OF_STRANGERS:
            return None
        if result.outcome is not Outcome.COMPLETE:
            return result.outcome.value
        return "failed" if result.status >= 500 else "complete"

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
    return _has_failure(texts, route)


def _has_failure(texts: Mapping[str, str], route: Route) -> bool:
    return route.failure_text is not None and any(route.is_failure(text) for text in texts.values())
