"""Who is told of what: which entries of the journal are news, and a webhook that gets each once.

A notice has the number of its entry, which never changes: whoever gets it twice, because the controller died
between sending and journaling that it had, can tell.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import httpx

from flags.rollout.ledger import Entry, Record, State
from flags.rollout.moves import Kind, Reason
from flags.rollout.policy import Notify

logger = logging.getLogger("headgate.rollout")

QUIET = frozenset({Reason.TIME, Reason.SAMPLES, Reason.UNCLEAR, Reason.PROXIES_CHANGE})
"""Reasons to wait that are as planned, so that going from one to another is no news."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One piece of news."""

    run: str
    seq: int
    """Of the journal's entry."""
    at_s: float
    what: str
    """`advanced`, `rolled_back`, `holding`, `resolved`, `complete`, `act`, `written`."""
    reason: str
    detail: str
    step: int
    share: int

    def said(self) -> dict[str, Any]:
        """As JSON; `id` is the same however often it is sent."""
        return {
            "id": f"{self.run}-{self.seq}",
            "run": self.run,
            "at": self.at_s,
            "what": self.what,
            "reason": self.reason,
            "detail": self.detail,
            "step": self.step + 1,
            "share": self.share,
        }


@dataclass(frozen=True, slots=True)
class News:
    """What was said last, so that the same is not said again. A fold over the journal, as the state is."""

    holding: str = ""
    """The reason of the hold that somebody was told of."""
    page_after_s: float = 900.0

    def after(self, entry: Entry, state: State) -> tuple["News", Notice | None]:
        """With one more entry, which `state` has in it; and the notice that it is worth."""
        if entry.kind == Record.TICK:
            return self._after_tick(entry, state)
        if entry.kind == Record.ACT:
            body = entry.body
            detail = f"{body['by']}: {body['reason']}"
            return self, _notice(entry, state, "act", str(body["what"]), detail)
        if entry.kind == Record.WRITTEN:
            return self, _notice(entry, state, "written", "", f"{entry.body['share']} %")
        if entry.kind == Record.BEGIN:
            return replace(self, holding=""), None
        return self, None

    def _after_tick(self, entry: Entry, state: State) -> tuple["News", Notice | None]:
        move = entry.body["move"]
        kind, reason, detail = Kind(move["kind"]), Reason(move["reason"]), move["detail"]
        if kind is Kind.ROLL_BACK:
            return replace(self, holding=""), _notice(entry, state, "rolled_back", reason, detail)
        if kind is Kind.ADVANCE:
            return replace(self, holding=""), _notice(entry, state, "advanced", reason, detail)
        if reason is Reason.NO_DATA and entry.at_s - state.last_good_s < self.page_after_s:
            return self, None
        if kind is Kind.HOLD and reason != self.holding:
            return replace(self, holding=reason), _notice(entry, state, "holding", reason, detail)
        if kind is not Kind.HOLD and self.holding:
            what = "complete" if reason is Reason.COMPLETE else "resolved"
            return replace(self, holding=""), _notice(entry, state, what, self.holding, detail)
        return self, None


def _notice(entry: Entry, state: State, what: str, reason: str, detail: str) -> Notice:
    return Notice(state.run, entry.seq, entry.at_s, what, reason, detail, state.step, state.share)


class Webhook:
    """Sends notices. Whoever made the client closes it."""

    def __init__(self, settings: Notify, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client

    async def send(self, notice: Notice) -> bool:
        """Whether it was taken, or is given up; the next notices wait until then. Never raises."""
        headers = {name: value.get_secret_value() for name, value in self._settings.headers.items()}
        try:
            response = await self._client.post(
                self._settings.webhook.get_secret_value(),
                json=notice.said(),
                headers=headers,
                timeout=self._settings.timeout_s,
            )
        except httpx.HTTPError as exc:
            logger.warning("rollout: notice %d not sent: %s", notice.seq, type(exc).__name__)
            return False
        if not response.is_success:
            logger.warning("rollout: notice %d refused: %d", notice.seq, response.status_code)
        return response.is_success
