"""A rollout as its journal has it: its entries, and the state, tests and notices that follow from them."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from flags.rollout.bodies import evaluator_from_body
from flags.rollout.evidence.evidence import batch_from_body
from flags.rollout.inbox import act_request
from flags.rollout.journal import Journal, JournalEntry
from flags.rollout.ledger import Act, EntryKind, RolloutState, begins_anew, fold
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.notices import Notice, NoticeHistory
from flags.rollout.reporting.standing import written_body
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Verdict
from flags.rollout.writing.flag_admin import Flag

MAX_UNSENT = 100
"""Notices that wait for a webhook; beyond it the oldest are dropped. The journal has them all the same."""


class JournaledRollout:
    """One rollout, and its journal. The caller owns the journal, and is its one writer."""

    def __init__(self, policy: Policy, journal: Journal, wall: Callable[[], float]) -> None:
        self._policy = policy
        self._journal = journal
        self._wall = wall
        self._reset()

    def _reset(self) -> None:
        policy = self._policy
        self.state = RolloutState()
        self.evaluator = Evaluator(policy.guardrail_values(), policy.exposures(), policy.budget_value())
        self._history = NoticeHistory(page_after_s=policy.page_after_s)
        self._unsent: deque[Notice] = deque(maxlen=MAX_UNSENT)

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """The verdicts about the present step; none before the first one."""
        return () if self.state.step < 0 else self.evaluator.verdicts()

    def load(self) -> bytes | None:
        """Read the whole journal; the watermark of the rollout under way, if there is one."""
        self._reset()
        for entry in self._journal.entries():
            self._follow(entry)
            if entry.kind == EntryKind.TICK and entry.body["batch"] is not None:
                self.evaluator.add(batch_from_body(entry.body["batch"]))
        unsent = [notice for notice in self._unsent if notice.seq > self.state.notified_seq]
        self._unsent = deque(unsent, maxlen=MAX_UNSENT)
        watermark = self._journal.watermark()
        return None if self.state.is_over else watermark

    def append(self, kind: EntryKind, body: Mapping[str, Any], *, watermark: bytes | None = None) -> None:
        """Journal an entry, and follow it. Raises JournalError. The caller evaluates a tick's batch."""
        self._follow(self._journal.append(kind, dict(body), at_s=self._wall(), watermark=watermark))

    def append_written(self, step: int, flag: Flag, *, anew: bool = False) -> None:
        """Journal what was read back after a write, or what is accepted; `anew` as in `written_body`."""
        self.append(EntryKind.WRITTEN, written_body(step, flag, anew=anew))

    def append_act(self, act: Act, by: str, reason: str) -> None:
        self.append(EntryKind.ACT, act_request(act, by, reason, self.state.seq).body())

    def look_seen(self, seq: int) -> Mapping[str, Any] | None:
        """The tick that somebody saw whose newest entry was `seq`; None where `seq` is 0."""
        if not seq:
            return None
        tick = self._journal.latest(EntryKind.TICK, seq)
        begun = self._journal.latest(EntryKind.BEGIN, self.state.seq)
        if tick is None or (begun is not None and begun.seq > tick.seq):
            return {"step": None}  # of another rollout, or of none
        written = self._journal.latest(EntryKind.WRITTEN, seq)
        if written is not None and written.seq > tick.seq:
            return {**tick.body, "standing": written.body.get("standing")}
        return tick.body

    async def send_notices(self, send: Callable[[Notice], Awaitable[bool]]) -> None:
        """Send the notices that are due, in order; one that is not taken waits for the next call."""
        while self._unsent and await send(self._unsent[0]):
            self.append(EntryKind.TOLD, {"of": self._unsent.popleft().seq})

    def _follow(self, entry: JournalEntry) -> None:
        step, self.state = self.state.step, fold([entry], self.state)
        self._history, notice = self._history.after(entry, self.state)
        if notice is not None:
            self._unsent.append(notice)
        if entry.kind == EntryKind.BEGIN:
            # A rollout is measured by what was in force when it began.
            self.evaluator = evaluator_from_body(entry.body["jury"])
        elif begins_anew(entry, step):
            self.evaluator.enter(self.state.step)
