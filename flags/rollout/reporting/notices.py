"""Notices: which entries of the journal are worth one, and a webhook that gets each once.

A notice has the number of its entry, which never changes. A controller that dies after it sent a notice and
before it journaled that sends the notice again, and the receiver can tell by the number.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from flags.rollout.ledger import EntryKind, JournalLine, RolloutState
from flags.rollout.moves import ControlMode, MoveKind, MoveReason
from flags.rollout.policy.policy import Notify
from flags.tls import why

logger = logging.getLogger("headgate.rollout")

MOST_NOTICES = 3
LATELY_S = 12 * 3600.0
"""The most notices of one reason to hold in this time; the status has it all the time."""

QUIET = "quiet"
"""A hold without a notice, whose end gets none either."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to people, of one entry of the journal."""

    run: str
    seq: int
    """The number of the journal's entry."""
    at_s: float
    what: str
    """`written`, `rolled_back`, `holding`, `resolved`, `complete`, `act`, `no_effect`; in `observe` also
    `would_roll_back`, `would_advance`."""
    reason: str
    detail: str
    step: int
    share: int

    def body(self) -> dict[str, Any]:
        """The webhook's JSON; `id` is the same each time that the notice is sent."""
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
    """The last notices, so that none is repeated. A fold over the journal, as the state is."""

    page_after_s: float
    standing: tuple[str, str] | None = None
    """`what` and `reason` of a notice that still holds."""
    holds: tuple[tuple[MoveReason, float], ...] = ()
    """Holds with a notice lately, and when."""

    def after(self, entry: JournalLine, state: RolloutState) -> tuple["NoticeHistory", Notice | None]:
        """The history after one more entry, which `state` includes, and the notice it is worth, if any."""
        if entry.kind == EntryKind.TICK:
            return self._after_tick(entry, state)
        if entry.kind == EntryKind.ACT:
            body = entry.body
            refused = f"; refused: {body['refused']}" if body.get("refused") else ""
            detail = f"{body['by']}: {body['reason']}{refused}"
            return self, _notice(entry, state, "act", str(body["what"]), detail)
        if entry.kind == EntryKind.WRITTEN:
            return self, _notice(entry, state, "written", "", f"{entry.body['share']} %")
        if entry.kind == EntryKind.BEGIN:
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
            _OBSERVED.get(kind) if entry.body["situation"]["mode"] == ControlMode.OBSERVE else _DONE.get(kind)
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
        """A hold that comes and goes gets a few notices, and then none."""
        lately = tuple((of, at_s) for of, at_s in self.holds if entry.at_s - at_s < LATELY_S)
        if sum(of is reason for of, _ in lately) >= MOST_NOTICES:
            return replace(self, standing=(QUIET, reason), holds=lately), None
        return replace(self, standing=("holding", reason), holds=(*lately, (reason, entry.at_s))), notice


_DONE = {MoveKind.ROLL_BACK: "rolled_back", MoveKind.HOLD: "holding"}
"""Moves with a notice; an advance gets its notice when it is written."""

_OBSERVED = {
    MoveKind.ROLL_BACK: "would_roll_back",
    MoveKind.HOLD: "holding",
    MoveKind.ADVANCE: "would_advance",
}
"""The same in the mode `observe`, which only says what it would do."""


def _had_no_effect(tick: Mapping[str, Any]) -> bool:
    """True if an approval was used up without effect; in older journals, without `standing`, it was kept."""
    situation = tick["situation"]
    asked = situation.get("approved") or situation.get("overridden")
    return bool(asked) and "standing" in tick and tick["move"]["kind"] != MoveKind.ADVANCE


def _notice(entry: JournalLine, state: RolloutState, what: str, reason: str, detail: str) -> Notice:
    return Notice(state.run, entry.seq, entry.at_s, what, reason, detail, state.step, state.share)


class Webhook:
    """Sends notices. The caller owns the client."""

    def __init__(self, settings: Notify, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._attempts = 0

    async def send(self, notice: Notice) -> bool:
        """True if the notice was taken, or is given up; until then the next notices wait. Never raises."""
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
                json=notice.body(),
                headers={name: value.get_secret_value() for name, value in self._settings.headers.items()},
                timeout=self._settings.timeout_s,
            )
        except httpx.HTTPError as exc:
            return why(exc)  # its text may hold the address
        return "" if response.is_success else f"status {response.status_code}"
