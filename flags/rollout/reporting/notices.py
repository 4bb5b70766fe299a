"""Who is told of what: which entries of the journal are news, and a webhook that gets each once.

A notice has the number of its entry, which never changes: whoever gets it twice, because the controller died
between sending and journaling that it had, can tell.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from flags.rollout.ledger import JournalLine, Record, RolloutState
from flags.rollout.moves import ControlMode, MoveKind, MoveReason
from flags.rollout.policy.policy import Notify
from flags.tls import why

logger = logging.getLogger("headgate.rollout")

MOST_TOLD = 3
LATELY_S = 12 * 3600.0
"""So often in so long somebody is told of one reason to hold; the status says it all the time."""

QUIET = "quiet"
"""A hold that was not told, and so is its end."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One piece of news."""

    run: str
    seq: int
    """Of the journal's entry."""
    at_s: float
    what: str
    """`written`, `rolled_back`, `holding`, `resolved`, `complete`, `act`, `no_effect`; in `observe` also
    `would_roll_back`, `would_advance`."""
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
class NoticeHistory:
    """What was said last, so that the same is not said again. A fold over the journal, as the state is."""

    page_after_s: float
    standing: tuple[str, str] | None = None
    """What still is as somebody was told: `what` and `reason`."""
    holds: tuple[tuple[MoveReason, float], ...] = ()
    """Those that somebody was told of lately, and when."""

    def after(self, entry: JournalLine, state: RolloutState) -> tuple["NoticeHistory", Notice | None]:
        """With one more entry, which `state` has in it; and the notice that it is worth."""
        if entry.kind == Record.TICK:
            return self._after_tick(entry, state)
        if entry.kind == Record.ACT:
            body = entry.body
            refused = f"; refused: {body['refused']}" if body.get("refused") else ""
            detail = f"{body['by']}: {body['reason']}{refused}"
            return self, _notice(entry, state, "act", str(body["what"]), detail)
        if entry.kind == Record.WRITTEN:
            return self, _notice(entry, state, "written", "", f"{entry.body['share']} %")
        if entry.kind == Record.BEGIN:
            return replace(self, standing=None), None
        return self, None

    def _after_tick(self, entry: JournalLine, state: RolloutState) -> tuple["NoticeHistory", Notice | None]:
        move = entry.body["move"]
        kind, reason, detail = MoveKind(move["kind"]), MoveReason(move["reason"]), move["detail"]
        if reason is MoveReason.NO_DATA and entry.at_s - state.last_good_s < self.page_after_s:
            return self, None
        if _had_no_effect(entry.body):
            return self, _notice(entry, state, "no_effect", reason, detail)
        if entry.body.get("unwritten") and kind is not MoveKind.HOLD:
            kind, reason, detail = MoveKind.HOLD, MoveReason.NOT_WRITTEN, str(entry.body["unwritten"])
        what = (
            _WATCHED.get(kind) if entry.body["situation"]["mode"] == ControlMode.OBSERVE else _DONE.get(kind)
        )
        if reason is MoveReason.COMPLETE:
            what = "complete"
        if what is None:
            resolved = None
            if self.standing is not None and self.standing[0] == "holding":
                resolved = _notice(entry, state, "resolved", self.standing[1], detail)
            return replace(self, standing=None), resolved
        if self.standing in ((what, reason), (QUIET, reason)):
            return self, None
        if what != "holding":
            return replace(self, standing=(what, reason)), _notice(entry, state, what, reason, detail)
        return self._holding(reason, entry, _notice(entry, state, what, reason, detail))

    def _holding(
        self, reason: MoveReason, entry: JournalLine, notice: Notice
    ) -> tuple["NoticeHistory", Notice | None]:
        """One that comes and goes is told a few times, and then is no news."""
        lately = tuple((of, at_s) for of, at_s in self.holds if entry.at_s - at_s < LATELY_S)
        if sum(of is reason for of, _ in lately) >= MOST_TOLD:
            return replace(self, standing=(QUIET, reason), holds=lately), None
        return replace(self, standing=("holding", reason), holds=(*lately, (reason, entry.at_s))), notice


_DONE = {MoveKind.ROLL_BACK: "rolled_back", MoveKind.HOLD: "holding"}
"""An advance is told when it is written."""

_WATCHED = {
    MoveKind.ROLL_BACK: "would_roll_back",
    MoveKind.HOLD: "holding",
    MoveKind.ADVANCE: "would_advance",
}
"""In the mode `observe`, which does nothing of it."""


def _had_no_effect(tick: Mapping[str, Any]) -> bool:
    """Whether somebody's approval is used up; in older journals, which say no `standing`, it was kept."""
    situation = tick["situation"]
    asked = situation.get("approved") or situation.get("overridden")
    return bool(asked) and "standing" in tick and tick["move"]["kind"] != MoveKind.ADVANCE


def _notice(entry: JournalLine, state: RolloutState, what: str, reason: str, detail: str) -> Notice:
    return Notice(state.run, entry.seq, entry.at_s, what, reason, detail, state.step, state.share)


class Webhook:
    """Sends notices. Whoever made the client closes it."""

    def __init__(self, settings: Notify, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._attempts = 0

    async def send(self, notice: Notice) -> bool:
        """Whether it was taken, or is given up; the next notices wait until then. Never raises."""
        self._attempts += 1
        problem = await self._problem(notice)
        if problem and self._attempts < self._settings.attempts:
            logger.warning("rollout: notice %d not taken: %s", notice.seq, problem)
            return False
        if problem:
            logger.error("rollout: notice %d given up: %s", notice.seq, problem)
        self._attempts = 0
        return True

    async def _problem(self, notice: Notice) -> str:
        try:
            response = await self._client.post(
                self._settings.webhook.get_secret_value(),
                json=notice.said(),
                headers={name: value.get_secret_value() for name, value in self._settings.headers.items()},
                timeout=self._settings.timeout_s,
            )
        except httpx.HTTPError as exc:
            return why(exc)  # its text may hold the address
        return "" if response.is_success else f"status {response.status_code}"
