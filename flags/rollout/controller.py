"""The one writer: it looks, decides, journals, writes and reads back. The parts are in `tick/`.

A tick may end anywhere, even by `kill -9`; the next one goes on from the journal and the flag alone.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from flags.errors import FlagAdminError, JournalError, LeaseError, RolloutError
from flags.rollout.acts import refusal
from flags.rollout.bodies import plain, situation_body
from flags.rollout.evidence.evidence import batch_body
from flags.rollout.evidence.readings import Readings
from flags.rollout.inbox import ActRequest, Inbox
from flags.rollout.journal import Journal
from flags.rollout.leases.lease import Fence, Lease
from flags.rollout.ledger import Act, EntryKind, RolloutState
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
from flags.rollout.policy.policy import Policy, Step
from flags.rollout.reporting.notices import Notice
from flags.rollout.reporting.standing import gap, standing_of
from flags.rollout.tick.beginning import begin_body
from flags.rollout.tick.desired import DesiredStrategy
from flags.rollout.tick.drift import Exposing, FlagDrift
from flags.rollout.tick.journaled import JournaledRollout
from flags.rollout.tick.looking import Clocks, ClockWatch, EvidenceWindow, TickEvidence
from flags.rollout.tick.writer import FlagWriter
from flags.rollout.verdict.verdict import Verdict
from flags.rollout.writing.flag_admin import Flag, FlagAdmin, Strategy

logger = logging.getLogger("headgate.rollout")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that a controller works with. Their opener closes them."""

    admin: FlagAdmin
    readings: Readings
    journal: Journal
    lease: Lease
    clocks: Clocks
    inbox: Inbox
    incident: Callable[[], bool] = lambda: False


class Controller:
    """One rollout, tick by tick. Not for two tasks at a time."""

    def __init__(self, policy: Policy, ports: Ports) -> None:
        self._policy = policy
        self._ports = ports
        self._policy_digest = policy.digest
        self._mode = ControlMode(policy.mode)
        self._rollout = JournaledRollout(policy, ports.journal, ports.clocks.wall)
        self._window = EvidenceWindow(ports.readings, ports.clocks.wall)
        self._clock_watch = ClockWatch(ports.clocks)
        self._writer = FlagWriter(ports.admin, ports.lease)

    @property
    def state(self) -> RolloutState:
        return self._rollout.state

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """The verdicts about the present step; none before the first one."""
        return self._rollout.verdicts

    @property
    def last_move(self) -> str:
        """The last move in a line without numbers, which changes only when there is something new."""
        if self.state.last_tick is None:
            return ""
        move = self.state.last_tick["move"]
        return f"{self.state.run} {self.state.share} %: {move['kind']} ({move['reason']})"

    def load(self) -> None:
        """Go on where the journal stands: state and evidence are functions of it."""
        self._window.restart(self._rollout.load())

    async def begin(self, by: str, reason: str, *, again: bool = False) -> None:
        """Begin a new rollout. Raises RolloutError, with every problem, if it must not.

        Args:
            by: who begins it.
            reason: why.
            again: a person said that this is another rollout, whatever the flag says of those before.
        """
        if self.state.run and not self.state.is_over:
            raise RolloutError(f"rollout {self.state.run} is not over: go on with it, or roll it back")
        if problems := await self._ports.admin.problems():
            raise RolloutError("\n".join(problems))
        reading = await self._window.now()
        if problem := believable.problem(self._policy, () if reading is None else reading.unverified):
            raise RolloutError(problem)
        flag = await self._ports.admin.read()
        compared = reading is None or believable.compares_in_the_dark(reading)
        body = begin_body(self._policy, self.state, flag, again=again, compared=compared)
        if reading is not None and not (self.state.run or again) and (past := believable.remembered(reading)):
            raise RolloutError(
                f"{past}, of which this journal knows nothing: restore the journal of that time, or begin "
                "another rollout with `headgate rollout run --new`"
            )
        self._rollout.append(EntryKind.BEGIN, {**body, "by": by, "reason": reason})
        self._window.restart()

    async def tick(self, fence: Fence) -> Move:
        """One look, and at most one write, by the one writer, as `fence` proves.

        Raises JournalError where it cannot be journaled, and LeaseLost. On harm it goes back even then.
        """
        try:
            return await self._tick(fence)
        except JournalError:
            await self._go_back_unjournaled(fence)
            raise

    async def _tick(self, fence: Fence) -> Move:
        flag, problem = await self._writer.read()
        self.journal_acts(flag)
        if flag is not None:
            self._accept_changes(flag)
            flag = await self._go_down(flag, fence)  # before evidence, which may take its whole timeout
        evidence = self._evaluated(await self._window.look(self.state.step))
        drift = None if flag is None else FlagDrift(self.state, flag)
        evidence = evidence.timed(drift, self._policy.stale_after_s)
        if self._was_killed():
            self._rollout.append_act(Act.KILL, "the kill flag", "a proxy found it on since the rollout began")
            flag = flag and await self._go_down(flag, fence)
        unwritten = self._still_unwritten(problem)
        situation = self._situation(flag, problem, evidence)
        move = decide(situation)
        intent = self._intent(move, flag)
        self._rollout.append(
            EntryKind.TICK,
            {
                "step": self.state.step,
                "batch": None if evidence.batch is None else batch_body(evidence.batch),
                "no_data": evidence.problem,
                "dwelt_s": evidence.dwelt_s,
                "idle_s": evidence.idle_s,
                "situation": situation_body(situation),
                "verdicts": [plain(verdict) for verdict in situation.verdicts],
                "move": plain(move),
                "intent": None if intent is None else _intent_body(*intent),
                "standing": None if flag is None else standing_of(flag),
                "unwritten": unwritten,
                "fence": fence.number,
            },
            watermark=self._window.watermark,
        )
        if flag is not None and intent is not None:
            await self._write(flag, intent, fence)
        return move

    @property
    def is_down_due(self) -> bool:
        """True if 0 % was decided, and is not yet written."""
        return self.state.down_pending

    @property
    def acts_wait(self) -> bool:
        """True if acts of people wait to be journaled."""
        return any(True for _ in self._ports.inbox.waiting())

    def journal_acts(self, flag: Flag | None = None) -> bool:
        """Journal the acts of people that wait, each with why it has no effect; whether there were any.

        Args:
            flag: as it is; None: not known.
        """
        found = False
        for path, request in self._ports.inbox.waiting():
            if request.id not in self.state.acts:
                self._rollout.append(EntryKind.ACT, request.body() | self._refused(request, flag))
                found = True
            self._ports.inbox.done(path)
        return found

    def _refused(self, request: ActRequest, flag: Flag | None) -> dict[str, str]:
        now = None if flag is None else standing_of(flag)
        drift = None if flag is None else FlagDrift(self.state, flag)
        changed = drift is None or drift.change is not Change.NONE
        accepts = drift is None or not changed or drift.may_resume(self._exposing)
        seen = self._rollout.look_seen(request.seen)
        why = refusal(request.what, self.state, seen, now, changed=changed, accepts=accepts)
        return {"refused": why} if why else {}

    @property
    def _exposing(self) -> list[Exposing]:
        """The exposure of each step."""
        return [Exposing(step.share_written(self._policy), not step.share) for step in self._policy.steps]

    async def send_notices(self, send: Callable[[Notice], Awaitable[bool]]) -> None:
        """Send the notices that are due, in order; one that is not taken waits for the next call."""
        await self._rollout.send_notices(send)

    async def retry(self, fence: Fence) -> None:
        """Try once more to write the 0 % that is due, without a look. Raises JournalError and LeaseLost."""
        flag, _ = await self._writer.read()
        if flag is not None:
            await self._go_down(flag, fence)

    # Looking.

    def _was_killed(self) -> bool:
        """True if the kill flag was on for a while between two looks, as proxies saw."""
        return not self.state.is_over and self._window.killed_s > self.state.begun_s

    def _accept_changes(self, flag: Flag) -> None:
        """Journal a person's change of the flag, where it is known to be meant."""
        if flag.killed and self.state.phase is not RolloutPhase.KILLED:
            self._rollout.append_act(Act.KILL, "the kill flag", "found to be on")
        drift = FlagDrift(self.state, flag)
        if not drift.is_ready or self._is_policy_changed() or self.state.is_over:
            return
        unread_s = self._ports.clocks.wall() - self.state.last_flag_s
        accepted = drift.accepted(
            self._exposing,
            is_observing=self._mode is ControlMode.OBSERVE,
            was_away=self.state.was_unknown or unread_s > self._policy.stale_after_s,
        )
        if accepted is not None:
            step, anew = accepted
            self._rollout.append_written(step, flag, anew=anew)

    def _evaluated(self, evidence: TickEvidence) -> TickEvidence:
        """The evidence once the evaluator has its batch; without a batch that the evaluator refuses."""
        if evidence.batch is not None:
            try:
                self._rollout.evaluator.add(evidence.batch)
            except ValueError as exc:
                return replace(evidence, batch=None, problem=str(exc))
        return evidence

    # Deciding.

    def _situation(self, flag: Flag | None, problem: str, evidence: TickEvidence) -> Situation:
        state, policy = self.state, self._policy
        drift = None if flag is None else FlagDrift(state, flag)
        change = Change.NONE if drift is None or state.is_over else drift.change
        return Situation(
            phase=state.phase,
            mode=self._mode,
            step_rules=self._step_rules(),
            dwelt_s=state.dwelt_s + evidence.dwelt_s,
            verdicts=self.verdicts,
            flag_problem=problem,
            change=change,
            changed_by="" if drift is None or change is Change.NONE else drift.changed_by,
            others=len(flag.others) if flag is not None and flag.enabled else 0,
            policy_changed=self._is_policy_changed(),
            no_data=evidence.problem,
            clock_jump_s=self._clock_watch.jump_s(),
            proxies_change=evidence.proxies_change,
            approved=state.approved,
            overridden=state.overridden,
            frozen=frozen(policy.freeze, datetime.fromtimestamp(self._ports.clocks.wall(), UTC)) or "",
            incident=self._ports.incident(),
            soaked_s=state.soaked_s,
            proxies_change_s=state.proxies_change_s,
            unwritten=self._still_unwritten(problem) if state.down_pending else "",
            exposed_after=self._exposed_after(flag),
            not_exposed=self._not_exposed(flag) if change is Change.NONE else "",
        )

    def _still_unwritten(self, problem: str) -> str:
        """Return why an earlier look's decision is not written; "" where it is, or nothing was decided."""
        state = self.state
        if self._mode is ControlMode.OBSERVE and state.down_pending:
            return "the mode is observe, which writes nothing: set the share to 0"
        if not state.down_pending and state.intent is None:
            return ""
        return problem or self._writer.problem or "the controller ended before it was"

    def _exposed_after(self, flag: Flag | None) -> str:
        """The flag that somebody put in force after the end. The controller only reports it."""
        if flag is None or not self.state.is_over or self.state.down_pending:
            return ""
        found = gap(self.state, standing_of(flag))
        return f"{found}, by {flag.event_by}." if found else ""

    def _not_exposed(self, flag: Flag | None) -> str:
        """Return how the share in requests differs from the written share; "" if it does not, or that cannot
        be known."""
        state = self.state
        if flag is None or state.step < 0:
            return ""
        if state.is_over:
            return "" if state.down_pending else state.observed.problem(0)
        if self._is_policy_changed():
            return ""
        if flag.expected == 0 and self._policy_step.share:
            return "by the flag's own evaluation nobody is shown anything: look at its variants"
        if self._ports.clocks.wall() - state.entered_s < self._policy.page_after_s:
            return ""  # what settles by now was decided before
        return state.observed.problem(state.share)

    @property
    def _policy_step(self) -> Step:
        return self._policy.steps[self.state.step]

    def _is_policy_changed(self) -> bool:
        """True if the policy is another than when the rollout began."""
        return self.state.policy_digest != self._policy_digest

    def _step_rules(self) -> StepRules | None:
        if self.state.step < 0 or self._is_policy_changed():
            return None
        step = self._policy_step
        return StepRules(
            at_least_s=step.at_least.total_seconds(),
            at_most_s=None if step.at_most is None else step.at_most.total_seconds(),
            prove=step.prove,
            approve=step.approve,
            is_last=self.state.step == len(self._policy.steps) - 1,
        )

    def _intent(self, move: Move, flag: Flag | None) -> tuple[int, Strategy] | None:
        """The step and the strategy that the move writes; None: nothing."""
        if flag is None or self._mode is ControlMode.OBSERVE:
            return None
        if move.kind is MoveKind.ADVANCE:
            return self.state.step + 1, self._desired.of_step(self.state.step + 1, flag)
        if move.kind is MoveKind.ROLL_BACK:
            return self.state.step, self._desired.lowered(flag)
        return None

    @property
    def _desired(self) -> DesiredStrategy:
        return DesiredStrategy(self._policy, self.state)

    # Writing.

    async def _go_down(self, flag: Flag, fence: Fence) -> Flag:
        """The flag after writing the 0 % that is due, if any is; as it was where that fails."""
        if not self.state.down_pending:
            return flag
        if self._mode is ControlMode.OBSERVE:
            if not flag.strategy.share:
                self._rollout.append_written(self.state.step, flag)  # a person has written it
            return flag
        return await self._write(flag, (self.state.step, self._desired.lowered(flag)), fence)

    async def _write(self, flag: Flag, intent: tuple[int, Strategy], fence: Fence) -> Flag:
        """Write what was decided; the flag after it. The next tick repeats what fails. Raises LeaseLost."""
        step, strategy = intent
        written = await self._writer.write(strategy, flag, fence)
        if written is None:
            return flag
        self._rollout.append_written(step, written)
        return written

    async def _go_back_unjournaled(self, fence: Fence) -> None:
        """Go back although the disk is full. The next controller finds that the share was lowered."""
        flag, problem = await self._writer.read()
        if flag is None or self._mode is ControlMode.OBSERVE:
            return
        why = self._asked_down(flag)
        if not why:
            evidence = self._evaluated(await self._window.look(self.state.step))
            move = decide(self._situation(flag, problem, evidence))
            why = move.detail if move.kind is MoveKind.ROLL_BACK else self._asked_down(flag)
        if not why:
            return
        try:
            await self._writer.write_once(self._desired.lowered(flag), flag, fence)
            logger.error("rollout: back to 0 %%, which the journal does not have: %s", why)
        except (LeaseError, FlagAdminError) as exc:
            logger.error("rollout: neither journaled nor written: %s", exc)

    def _asked_down(self, flag: Flag) -> str:
        """The reason for 0 % whatever the evidence is; "" if there is none."""
        if flag.killed:
            return f"{self._policy.kill_flag} is on"
        if self._was_killed():
            return f"a proxy found {self._policy.kill_flag} on since the rollout began"
        if self.state.down_pending:
            return "it is due"
        down = (Act.ROLL_BACK, Act.KILL)
        return next((act.reason for _, act in self._ports.inbox.waiting() if act.what in down), "")


def _intent_body(step: int, strategy: Strategy) -> dict[str, Any]:
    return {"step": step, "digest": strategy.digest, "share": strategy.share}
