"""The one writer: look, judge, decide, journal, write, read back. Every decision is made elsewhere, purely.

A tick may end anywhere, also by `kill -9`; the next one goes on from the journal and the flag alone.
"""

import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from flags.errors import (
    EvidenceError,
    FlagAdminError,
    InvalidReading,
    JournalError,
    LeaseError,
    LeaseLost,
    RolloutError,
)
from flags.rollout.acts import refusal
from flags.rollout.evidence.evidence import APART, ELIGIBLE, Batch, ComparedArm, batch_heard, batch_said
from flags.rollout.evidence.readings import Reading, Readings, between, carried
from flags.rollout.evidence.watermark import from_bytes, to_bytes
from flags.rollout.inbox import ActRequest, Inbox, wish
from flags.rollout.journal import Journal, JournalEntry
from flags.rollout.leases.lease import Fence, Lease
from flags.rollout.ledger import Act, Record, RolloutState, begins_anew, fold
from flags.rollout.moves import (
    Change,
    ControlMode,
    Move,
    MoveKind,
    RolloutPhase,
    Situation,
    StepRules,
    decide,
)
from flags.rollout.policy import believable
from flags.rollout.policy.freezes import frozen
from flags.rollout.policy.guardrails import ErrorBudget, Exposure, Guardrail
from flags.rollout.policy.policy import Policy, Step
from flags.rollout.replay import jury_heard, jury_said, plain, situation_said
from flags.rollout.reporting.notices import Notice, NoticeHistory
from flags.rollout.reporting.standing import gap, standing_of, written_said
from flags.rollout.verdict.evaluator import Evaluator
from flags.rollout.verdict.verdict import Verdict
from flags.rollout.writing.flag_admin import Flag, FlagAdmin, Strategy
from flags.rollout.writing.marks import FlagMark
from flags.rollout.writing.strategies import shows_nobody

logger = logging.getLogger("headgate.rollout")

MAX_UNTOLD = 100
"""Notices that wait for a webhook; the oldest are let go, and the journal has them all the same."""

WRITE_S = 15.0
"""The longest that a write may take with what is read before and after it; the lease must last for it."""

HOME_CHARS = 8
"""Of a journal's name: nobody has a million of them."""

MOST_IDLE_S = 3600.0
"""Of a time in which nobody of the stream arm asked for anything, so much counts as time in the step."""

DARK = {"name": "dark", "weight": 1000, "weightType": "variable"}
"""The variant of a dark step: everybody's, for whom the flag is on."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Two, because either alone can be fooled."""

    wall: Callable[[], float]
    """Unix time."""
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Ports:
    """What a controller works with. Whoever opened them closes them."""

    admin: FlagAdmin
    readings: Readings
    journal: Journal
    lease: Lease
    clocks: Clocks
    inbox: Inbox
    incident: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class _TickEvidence:
    """Of one tick: what settled since the last one, or why that is not known."""

    batch: Batch | None = None
    problem: str = ""
    proxies_change: bool = False
    dwelt_s: float = 0.0
    """Of the time since then, what counts as time in the step."""
    idle_s: float = 0.0
    """What may come to count with the next answer of the stream arm."""


class Controller:
    """One rollout, tick by tick. Not for two tasks at a time."""

    def __init__(self, policy: Policy, ports: Ports) -> None:
        self._policy = policy
        self._ports = ports
        self._policy_digest = policy.digest
        self._mode = ControlMode(policy.mode)
        self._state = RolloutState()
        self._jury = self._new_jury()
        self._reading: Reading | None = None
        self._proxies: frozenset[str] | None = None
        self._drift_s: float | None = None
        self._news = NoticeHistory(page_after_s=policy.page_after_s)
        self._unwritten = ""
        """Why the last write was not done."""
        self._untold: deque[Notice] = deque(maxlen=MAX_UNTOLD)

    @property
    def state(self) -> RolloutState:
        return self._state

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """What the evidence says of the present step; none before the first one."""
        return () if self._state.step < 0 else self._jury.verdicts()

    @property
    def said(self) -> str:
        """The last move in a line, without its numbers: as long as it is the same, nothing is new."""
        state = self._state
        if state.last_tick is None:
            return ""
        move = state.last_tick["move"]
        return f"{state.run} {state.share} %: {move['kind']} ({move['reason']})"

    def load(self) -> None:
        """Take up where the journal stands: state and evidence are functions of it."""
        self._state, self._jury, self._reading = RolloutState(), self._new_jury(), None
        self._news = NoticeHistory(page_after_s=self._policy.page_after_s)
        self._untold.clear()
        self._catch_up()
        told = [notice for notice in self._untold if notice.seq > self._state.told]
        self._untold = deque(told, maxlen=MAX_UNTOLD)
        watermark = self._ports.journal.watermark()
        if watermark is not None and not self._state.is_over:
            self._reading = from_bytes(watermark)

    async def begin(self, by: str, reason: str, *, again: bool = False) -> None:
        """Begin a new rollout. Raises RolloutError, with every problem, if it must not.

        Args:
            by: who wants it.
            reason: why.
            again: a person has said that it is another one, whatever the flag says of those before.
        """
        if self._state.run and not self._state.is_over:
            raise RolloutError(f"rollout {self._state.run} is not over: go on with it, or roll it back")
        if problems := await self._ports.admin.problems():
            raise RolloutError("\n".join(problems))
        if problem := believable.problem(self._policy, await self._unverified()):
            raise RolloutError(problem)
        flag = await self._ports.admin.read()
        if flag.killed:
            raise RolloutError(f"{self._policy.kill_flag} is on: turn it off first, with `unkill`")
        before = self._state
        base = self._base(flag.strategy)
        mark = FlagMark.on(flag.strategy.title)
        if mark is not None and mark.home != before.home and not again:
            raise RolloutError(
                f"the flag says that {mark} was here, of which this journal knows nothing: restore that "
                "one, or begin another rollout with `headgate rollout run --new`"
            )
        numbers = [int(run.removeprefix("r")) for run in (before.run, mark.run if mark else "") if run]
        number = max(numbers, default=0) + 1
        self._append(
            Record.BEGIN,
            {
                "run": f"r{number}",
                "by": by,
                "reason": reason,
                "policy": self._policy.digest,
                "jury": jury_said(*self._measures()),
                "base": asdict(base),
                "event_id": flag.event_id,
                "digest": flag.strategy.digest,
                "around": flag.around,
                "standing": standing_of(flag),
                "home": before.home or uuid.uuid4().hex[:HOME_CHARS],
                "found_home": mark.home if mark else "",
                "share": flag.strategy.share,
                "exposed_before": self._exposed_before(before),
            },
        )
        self._jury, self._reading = self._new_jury(), None

    async def _unverified(self) -> Sequence[str]:
        """Routes that are known to be without identity. Without a reading none is, and nothing is proved."""
        try:
            return (await self._ports.readings.read(self._ports.clocks.wall())).unverified
        except EvidenceError:
            return ()

    async def tick(self, fence: Fence) -> Move:
        """One look, and at most one write, by the one writer, which `fence` says it is.

        Raises JournalError where it cannot be journaled, and LeaseLost. On harm it goes back even then.
        """
        try:
            return await self._tick(fence)
        except JournalError:
            await self._go_back_unjournaled(fence)
            raise

    async def _tick(self, fence: Fence) -> Move:
        flag, problem = await self._read_flag()
        self.hear(flag)
        if flag is not None:
            self._settle_changes(flag)
            flag = await self._go_down(flag, fence)  # before evidence, which may keep one waiting
        evidence = self._timed(self._heard(await self._look()), flag)
        if self._was_killed():
            self._append_act(Act.KILL, "the kill flag", "a proxy found it on since the rollout began")
            flag = flag and await self._go_down(flag, fence)
        unwritten = self._still_unwritten(problem)
        situation = self._situation(flag, problem, evidence)
        move = decide(situation)
        intent = self._intent(move, flag)
        self._append(
            Record.TICK,
            {
                "step": self._state.step,
                "batch": None if evidence.batch is None else batch_said(evidence.batch),
                "no_data": evidence.problem,
                "dwelt_s": evidence.dwelt_s,
                "idle_s": evidence.idle_s,
                "situation": situation_said(situation),
                "verdicts": [plain(verdict) for verdict in situation.verdicts],
                "move": plain(move),
                "intent": None if intent is None else _intent_said(*intent),
                "standing": None if flag is None else standing_of(flag),
                "unwritten": unwritten,
                "fence": fence.number,
            },
            watermark=None if self._reading is None else to_bytes(self._reading),
        )
        if flag is not None and intent is not None:
            await self._write(flag, intent, fence)
        return move

    @property
    def is_down_due(self) -> bool:
        """Whether 0 % was decided, and is not yet written."""
        return self._state.down_pending

    @property
    def acts_wait(self) -> bool:
        """Whether people want something."""
        return any(True for _ in self._ports.inbox.waiting())

    def hear(self, flag: Flag | None = None) -> bool:
        """Journal the acts of people that wait, with why one has no effect; whether there were any.

        Args:
            flag: as it is; None: not known.
        """
        heard = False
        for path, wanted in self._ports.inbox.waiting():
            if wanted.id not in self._state.acts:
                self._append(Record.ACT, wanted.body() | self._refused(wanted, flag))
                heard = True
            self._ports.inbox.done(path)
        return heard

    def _refused(self, wanted: ActRequest, flag: Flag | None) -> dict[str, str]:
        now = None if flag is None else standing_of(flag)
        changed = flag is None or self._change(flag) is not Change.NONE
        why = refusal(wanted.what, self._state, self._seen(wanted), now, changed)
        return {"refused": why} if why else {}

    def _seen(self, wanted: ActRequest) -> Mapping[str, Any] | None:
        """The look that somebody saw when they asked."""
        if not wanted.seen:
            return None
        entry = self._ports.journal.latest(Record.TICK, wanted.seen)
        begun = self._ports.journal.latest(Record.BEGIN, self._state.seq)
        if entry is None or (begun is not None and begun.seq > entry.seq):
            return {"step": None}  # of another rollout, or of none
        written = self._ports.journal.latest(Record.WRITTEN, wanted.seen)
        if written is not None and written.seq > entry.seq:
            return {**entry.body, "standing": written.body.get("standing")}
        return entry.body

    async def tell(self, send: Callable[[Notice], Awaitable[bool]]) -> None:
        """Send what is news, in order; what is not taken waits for the next time."""
        while self._untold and await send(self._untold[0]):
            notice = self._untold.popleft()
            self._append(Record.TOLD, {"of": notice.seq})

    def _base(self, found: Strategy) -> Strategy:
        """The strategy as people made it, without what a dark step of ours has left over in it.

        Raises RolloutError where it would show nobody anything, and that is somebody else's will.
        """
        if not shows_nobody(found.variants) or self._mode is ControlMode.OBSERVE:
            return found
        if not self._state.wrote_dark and FlagMark.on(found.title) is None:
            raise RolloutError(
                f"{self._policy.flag} has the variant dark for everybody, "
                "and would be shown to nobody: remove it"
            )
        return replace(found, variants=self._variants())

    # Looking.

    def _catch_up(self) -> None:
        """What other processes journaled, above all acts of people; after `load`, everything."""
        for entry in self._ports.journal.entries(after_seq=self._state.seq):
            self._follow(entry)
            if entry.kind == Record.TICK and entry.body["batch"] is not None:
                self._jury.add(batch_heard(entry.body["batch"]))

    def _follow(self, entry: JournalEntry) -> None:
        step, self._state = self._state.step, fold([entry], self._state)
        self._news, notice = self._news.after(entry, self._state)
        if notice is not None:
            self._untold.append(notice)
        if entry.kind == Record.BEGIN:
            self._jury = jury_heard(entry.body["jury"])  # what was agreed on then is what it is judged by
        elif begins_anew(entry, step):
            self._jury.enter(self._state.step)

    def _was_killed(self) -> bool:
        """Whether the kill flag was on for a while between two looks, as proxies saw."""
        if self._reading is None or self._state.is_over:
            return False
        return self._reading.killed_s > self._state.begun_s

    async def _read_flag(self) -> tuple[Flag | None, str]:
        try:
            return await self._ports.admin.read(), ""
        except FlagAdminError as exc:
            return None, str(exc)

    def _settle_changes(self, flag: Flag) -> None:
        """Account for what is not as it was written last, where it is somebody's known will."""
        state = self._state
        if flag.killed and state.phase is not RolloutPhase.KILLED:
            self._append_act(Act.KILL, "the kill flag", "found to be on")
        if not _is_ours(flag) or self._is_changed() or self._state.is_over:
            return
        watching = self._mode is ControlMode.OBSERVE
        same = flag.strategy.digest == state.digest and not self._is_around_changed(flag)
        if (
            same
            and flag.event_id == state.event_id
            and not (state.was_changed or (watching and state.step < 0))
        ):
            return
        if state.intent is not None and flag.strategy.digest == state.intent.digest:
            self._append_written(state.intent.step, flag)  # written by a controller that then died
        elif same and state.step >= 0:
            # Changed and changed back, or nothing that matters. Who was exposed meanwhile is not known.
            self._append_written(state.step, flag, anew=state.was_changed)
        elif (state.resumed or watching) and self._stranger(flag) is None:
            shares = [step.share_written(self._policy) for step in self._policy.steps]
            if flag.strategy.share in shares:
                self._append_written(shares.index(flag.strategy.share), flag, anew=True)

    def _is_around_changed(self, flag: Flag) -> bool:
        """Whether what decides beside the strategy is another, or who writes it; "" is not known."""
        if self._stranger(flag) is not None:
            return True
        return bool(self._state.around) and flag.around != self._state.around

    async def _look(self) -> _TickEvidence:
        """What settled since the last look. The first look of all says where counting begins."""
        now_s = self._ports.clocks.wall()
        before = self._reading
        try:
            reading = await self._ports.readings.read(now_s, before)
            if before is not None and reading.at_s <= before.at_s:
                self._reading = None  # or nothing would count until the clock is there again
                raise InvalidReading("the clock went back; counting begins anew")
            batch = None if before is None else between(before, reading, self._state.step)
        except EvidenceError as exc:
            return _TickEvidence(problem=exc.sentence)
        self._reading = reading if before is None else carried(before, reading)
        proxies, self._proxies = self._proxies, frozenset(reading.seen)
        changed = proxies is not None and proxies != self._proxies
        if self._state.step < 0:
            batch = None  # nothing was written yet, so nobody is exposed
        return _TickEvidence(batch, proxies_change=changed or bool(reading.missing))

    def _heard(self, evidence: _TickEvidence) -> _TickEvidence:
        """The same, once the jury has it; none, if it is nothing that a jury can go by."""
        if evidence.batch is not None:
            try:
                self._jury.add(evidence.batch)
            except ValueError as exc:
                return replace(evidence, batch=None, problem=str(exc))
        return evidence

    def _situation(self, flag: Flag | None, problem: str, evidence: _TickEvidence) -> Situation:
        state, policy = self._state, self._policy
        change = Change.NONE if flag is None or state.is_over else self._change(flag)
        return Situation(
            phase=state.phase,
            mode=self._mode,
            stage=self._stage(),
            dwelt_s=state.dwelt_s + evidence.dwelt_s,
            verdicts=self.verdicts,
            flag_problem=problem,
            change=change,
            changed_by="" if flag is None or change is Change.NONE else self._changed_by(flag),
            others=len(flag.others) if flag is not None and flag.enabled else 0,
            policy_changed=self._is_changed(),
            no_data=evidence.problem,
            clock_jump_s=self._clock_jump_s(),
            proxies_change=evidence.proxies_change,
            approved=state.approved,
            overridden=state.overridden,
            frozen=frozen(policy.freeze, self._now()) or "",
            incident=self._ports.incident(),
            soaked_s=state.soaked_s,
            proxies_change_s=state.proxies_change_s,
            unwritten=self._still_unwritten(problem) if state.down_pending else "",
            exposed_after=self._exposed_after(flag),
            not_exposed=self._not_exposed(flag) if change is Change.NONE else "",
        )

    def _still_unwritten(self, problem: str) -> str:
        """Why what was decided by an earlier look is not written; "" if it is, or nothing was."""
        state = self._state
        if self._mode is ControlMode.OBSERVE and state.down_pending:
            return "the mode is observe, which writes nothing: set the share to 0"
        if not state.down_pending and state.intent is None:
            return ""
        return problem or self._unwritten or "the controller ended before it was"

    def _exposed_after(self, flag: Flag | None) -> str:
        """What somebody has put in force after the end, which is theirs: it is told, and left."""
        if flag is None or not self._state.is_over or self._state.down_pending:
            return ""
        found = gap(self._state, standing_of(flag))
        return f"{found}, by {flag.event_by}." if found else ""

    def _not_exposed(self, flag: Flag | None) -> str:
        state = self._state
        if flag is None or state.step < 0:
            return ""
        if state.is_over:
            return "" if state.down_pending else state.observed.problem(0)
        if self._is_changed():
            return ""
        if flag.expected == 0 and self._policy_step.share:
            return "by the flag's own evaluation nobody is shown anything: look at its variants"
        if self._ports.clocks.wall() - state.entered_s < self._policy.page_after_s:
            return ""  # what settles by now was decided before
        return state.observed.problem(state.share)

    @property
    def _policy_step(self) -> Step:
        return self._policy.steps[self._state.step]

    def _changed_by(self, flag: Flag) -> str:
        """Who; of what is beside the flag the flag's events do not say."""
        if (mark := self._stranger(flag)) is not None:
            return f"another controller, with a journal of its own: {mark}"
        if flag.strategy.digest == self._state.digest and _is_ours(flag):
            return "somebody: its variants, parents, segments or disabled strategies are others"
        return flag.event_by if flag.enabled else f"{flag.event_by}: it is off in its environment"

    def _change(self, flag: Flag) -> Change:
        """What somebody else did to the flag since it was last written, or accepted."""
        state, strategy = self._state, flag.strategy
        if not _is_ours(flag):
            return Change.OTHER
        if self._is_around_changed(flag):
            return Change.OTHER
        if strategy.digest == state.digest:
            return Change.NONE
        only_the_share = replace(strategy, share=state.share).digest == state.digest
        return Change.LOWERED if only_the_share and strategy.share < state.share else Change.OTHER

    def _is_changed(self) -> bool:
        """Whether the policy is another than when the rollout began."""
        return self._state.policy_digest != self._policy_digest

    def _stage(self) -> StepRules | None:
        if self._state.step < 0 or self._is_changed():
            return None
        step = self._policy_step
        return StepRules(
            at_least_s=step.at_least.total_seconds(),
            at_most_s=None if step.at_most is None else step.at_most.total_seconds(),
            prove=step.prove,
            approve=step.approve,
            is_last=self._state.step == len(self._policy.steps) - 1,
        )

    def _timed(self, evidence: _TickEvidence, flag: Flag | None) -> _TickEvidence:
        """With the time for which users got what was written. One without evidence of it is none.

        A reading after more time than one stays fresh was an outage. The flag must have been found as it was
        written, before and after; and of a time without one answer of the stream arm an hour counts, once
        there is one: a night is no test, but it is no outage either.
        """
        batch, state = evidence.batch, self._state
        if flag is None or state.was_unknown or state.was_changed or flag.killed:
            return evidence
        if batch is None:
            return replace(evidence, idle_s=state.idle_s)
        took_s = batch.until_s - batch.since_s
        if took_s > self._policy.stale_after_s or self._change(flag) is not Change.NONE:
            return evidence
        if not batch.total(ComparedArm.STREAM, ELIGIBLE | APART):
            return replace(evidence, idle_s=state.idle_s + took_s)
        return replace(evidence, dwelt_s=took_s + min(state.idle_s, MOST_IDLE_S))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._ports.clocks.wall(), UTC)

    def _clock_jump_s(self) -> float:
        clocks = self._ports.clocks
        drift_s = clocks.wall() - clocks.monotonic()
        jump_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        self._drift_s = drift_s
        return jump_s

    # Writing.

    def _intent(self, move: Move, flag: Flag | None) -> tuple[int, Strategy] | None:
        """What the move writes, and of which step; None: nothing."""
        if flag is None or self._mode is ControlMode.OBSERVE:
            return None
        if move.kind is MoveKind.ADVANCE:
            return self._state.step + 1, self._strategy(self._state.step + 1, flag)
        if move.kind is MoveKind.ROLL_BACK:
            return self._state.step, self._lowered(flag)
        return None

    def _lowered(self, flag: Flag) -> Strategy:
        """0 %, and without what a dark step has put there: the next rollout would find it."""
        how = "killed" if self._state.phase is RolloutPhase.KILLED else "rolled back"
        strategy = replace(flag.strategy, share=0, title=self._marked(flag, how))
        left_over = self._state.wrote_dark and shows_nobody(strategy.variants)
        return replace(strategy, variants=self._variants()) if left_over else strategy

    def _variants(self) -> Sequence[Mapping[str, Any]]:
        """Those of people. That of a dark step is nobody's, wherever it was found."""
        found = () if self._state.base is None else self._state.base["variants"]
        return () if shows_nobody(found) else tuple(found)

    def _strategy(self, step: int, flag: Flag) -> Strategy:
        """The whole strategy of a step: what people have set besides stays as it is."""
        settings = self._policy.steps[step]
        dark = [{**DARK, "stickiness": self._policy.stickiness}]
        variants = self._variants() if settings.share else dark
        return replace(
            flag.strategy,
            share=settings.share_written(self._policy),
            group_id=self._policy.group_for(self._state.run),
            variants=variants,
            disabled=False,
            title=self._marked(flag, f"{settings.share} %"),
        )

    def _marked(self, flag: Flag, said: str) -> str | None:
        state, title = self._state, flag.strategy.title
        return FlagMark(state.run, state.home, said).put_on(title) if state.home else title

    def _stranger(self, flag: Flag) -> FlagMark | None:
        """The mark of another controller, which has a journal of its own."""
        state, mark = self._state, FlagMark.on(flag.strategy.title)
        is_ours = mark is None or not state.home or mark.home in (state.home, state.found_home)
        return None if is_ours else mark

    async def retry(self, fence: Fence) -> None:
        """Try once more to write the 0 % that is due, without a look. Raises JournalError and LeaseLost."""
        flag, _ = await self._read_flag()
        if flag is not None:
            await self._go_down(flag, fence)

    async def _go_down(self, flag: Flag, fence: Fence) -> Flag:
        """The flag after writing the 0 % that is due, if any is; as it was where that fails."""
        if not self._state.down_pending:
            return flag
        if self._mode is ControlMode.OBSERVE:
            if not flag.strategy.share:
                self._append_written(self._state.step, flag)  # by whoever asked for it
            return flag
        return await self._write(flag, (self._state.step, self._lowered(flag)), fence)

    async def _write(self, flag: Flag, intent: tuple[int, Strategy], fence: Fence) -> Flag:
        """Do what was decided; the flag after it. What fails is tried again by the next tick."""
        try:
            await self._ports.lease.check(fence, for_s=WRITE_S)
            written = await self._ports.admin.write(intent[1], flag)
        except LeaseLost:
            raise  # whoever ticks is told
        except (LeaseError, FlagAdminError) as exc:
            logger.warning("rollout: not written: %s", exc)
            self._unwritten = str(exc)
            return flag
        self._unwritten = ""
        self._append_written(intent[0], written)
        return written

    async def _go_back_unjournaled(self, fence: Fence) -> None:
        """A full disk keeps nobody in harm's way. Whoever runs next finds that the share was lowered."""
        flag, problem = await self._read_flag()
        if flag is None or self._mode is ControlMode.OBSERVE:
            return
        why = self._asked_down(flag)
        if not why:
            move = decide(self._situation(flag, problem, self._heard(await self._look())))
            why = move.detail if move.kind is MoveKind.ROLL_BACK else self._asked_down(flag)
        if not why:
            return
        try:
            await self._ports.lease.check(fence, for_s=WRITE_S)
            await self._ports.admin.write(self._lowered(flag), flag)
            logger.error("rollout: back to 0 %%, which the journal does not have: %s", why)
        except (LeaseError, FlagAdminError) as exc:
            logger.error("rollout: neither journaled nor written: %s", exc)

    def _asked_down(self, flag: Flag) -> str:
        """What asks for 0 % whatever the evidence; "" if nothing does."""
        if flag.killed:
            return f"{self._policy.kill_flag} is on"
        if self._was_killed():
            return f"a proxy found {self._policy.kill_flag} on since the rollout began"
        if self._state.down_pending:
            return "it is due"
        return next(
            (w.reason for _, w in self._ports.inbox.waiting() if w.what in (Act.ROLL_BACK, Act.KILL)), ""
        )

    def _append_written(self, step: int, flag: Flag, *, anew: bool = False) -> None:
        self._append(Record.WRITTEN, written_said(step, flag, anew=anew))

    def _append_act(self, act: Act, by: str, reason: str) -> None:
        self._append(Record.ACT, wish(act, by, reason, self._state.seq).body())

    def _append(self, kind: Record, body: Mapping[str, Any], *, watermark: bytes | None = None) -> None:
        at_s = self._ports.clocks.wall()
        self._follow(self._ports.journal.append(kind, dict(body), at_s=at_s, watermark=watermark))

    def _new_jury(self) -> Evaluator:
        return Evaluator(*self._measures())

    def _measures(self) -> tuple[Sequence[Guardrail], Sequence[Exposure], ErrorBudget]:
        policy = self._policy
        return policy.guardrail_values(), policy.exposures(), policy.budget_value()

    def _exposed_before(self, before: RolloutState) -> dict[str, object] | None:
        """Who of the rollout before is exposed again: with the same salt, everybody up to its share."""
        if not before.run or self._policy.reexposure == "rotate":
            return None
        return {"run": before.run, "share": before.reached}


def _intent_said(step: int, strategy: Strategy) -> dict[str, Any]:
    return {"step": step, "digest": strategy.digest, "share": strategy.share}


def _is_ours(flag: Flag) -> bool:
    """Whether the flag is still as a rollout needs it: on, and with one strategy."""
    return flag.enabled and not flag.others
