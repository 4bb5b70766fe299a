"""The status of a rollout, with reasons, for people and for scripts; made of the journal alone. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flags.rollout.ledger import RolloutState
from flags.rollout.moves import MoveKind, MoveReason, RolloutPhase
from flags.rollout.policy.policy import Policy
from flags.rollout.reporting.standing import Standing, decided, exposes, gap

SILENT_TICKS = 3
"""Ticks without a look after which the controller counts as gone."""

BAR = 8
"""Characters of a bar: two of them and their guardrail fit a terminal of 80."""

MOST_CHARS = 130
"""The most characters of one line; `--json` has the rest."""


NO_HISTORIES = "Proxies did not say what they expect: where users differ, harm shows later."


class ExitCode(IntEnum):
    """Exit codes of `headgate rollout status`."""

    FINE = 0
    """Running as planned, or complete."""
    HOLDING = 3
    """Somebody should look."""
    ROLLED_BACK = 4
    KILLED = 5
    NONE = 6
    """No rollout was ever begun."""
    SILENT = 7
    """No controller looks."""
    NOT_IN_FORCE = 8
    """Users get something else than what was decided."""


@dataclass(frozen=True, slots=True)
class Status:
    """The status as it is shown. Shares are percent of users, times are seconds."""

    run: str
    phase: str
    move: str
    reason: str
    detail: str
    step: int
    """The step, from 1; 0 before the first one."""
    steps: int
    planned: int
    """The share that the policy has for this step."""
    decided: int
    """The share that was decided, by the controller or a person."""
    written: int
    """The share that was last written to the flag, and read back."""
    observed: float | None
    """The stream arm's part of all requests that settled in this step; None: none has."""
    in_force: Standing | None
    """The flag as it is: share, strategies beside, variants, environment, kill flag, and the percent of users
    whom it shows something by its own evaluation. None: it cannot be read, or never was."""
    gap: str
    """The difference between what is in force and what was decided, in a sentence; "" where there is none."""
    observed_why: str
    """The reason why `observed` differs from `written` though nothing is wrong; "" where they agree."""
    answers: int
    """Requests of all users that settled in this step: `observed` is a part of these."""
    dwelt_s: float
    at_least_s: float
    next_share: int | None
    verdicts: Sequence[Mapping[str, Any]]
    last_act: Mapping[str, Any] | None
    last_act_s: float
    last_look_s: float
    last_evidence_s: float
    last_flag_s: float
    """The time at which the flag was read last."""
    silent: bool

    @property
    def exit_code(self) -> ExitCode:
        if not self.run:
            return ExitCode.NONE
        if self.gap:
            return ExitCode.NOT_IN_FORCE
        if self.phase == RolloutPhase.KILLED:
            return ExitCode.KILLED
        if self.phase == RolloutPhase.ROLLED_BACK:
            return ExitCode.ROLLED_BACK
        if self.silent:
            return ExitCode.SILENT
        return ExitCode.HOLDING if self.move == MoveKind.HOLD else ExitCode.FINE


def status_of(state: RolloutState, policy: Policy, now_s: float, in_force: Standing | None = None) -> Status:
    """The status of the newest rollout at a Unix time.

    Args:
        in_force: the flag as it was read just now; None: as the last look had it.
    """
    in_force = in_force or state.standing
    tick = state.last_tick or {}
    move = tick.get("move", {"kind": "", "reason": "", "detail": ""})
    in_step = 0 <= state.step < len(policy.steps)
    step = policy.steps[state.step] if in_step else None
    differs = gap(state, in_force) or _differs_by_requests(move)
    following = policy.steps[state.step + 1 : state.step + 2]
    return Status(
        run=state.run,
        phase=state.phase if state.run else "",
        move=move["kind"],
        reason=move["reason"],
        detail=move["detail"],
        step=state.step + 1,
        steps=len(policy.steps),
        planned=step.share if step else 0,
        decided=decided(state, in_force),
        written=state.share,
        in_force=in_force,
        gap=differs,
        observed_why="" if differs else state.observed_why,
        answers=state.settled,
        observed=100 * state.streamed / state.settled if state.settled else None,
        dwelt_s=state.dwelt_s,
        at_least_s=step.at_least.total_seconds() if step else 0.0,
        next_share=following[0].share if following and not state.is_over else None,
        verdicts=tick.get("verdicts", ()),
        last_act=state.last_act,
        last_act_s=state.last_act_s,
        last_look_s=state.last_tick_s,
        last_evidence_s=state.last_good_s,
        last_flag_s=state.last_flag_s,
        silent=bool(state.run) and now_s - state.last_tick_s > SILENT_TICKS * policy.tick_s,
    )


def _differs_by_requests(move: Mapping[str, Any]) -> str:
    """The flag is as it was written; what the last look said that users get is not."""
    return str(move["detail"]) if move["reason"] == MoveReason.NOT_EXPOSED else ""


def _none(in_force: Standing | None) -> str:
    """The words where the journal has no rollout. It may have been lost, and the flag outlives it."""
    if in_force is None or not exposes(in_force):
        return "No rollout yet. `headgate rollout run` begins one."
    return (
        f"The flag is on, at {in_force['share']} %, and this journal knows of no rollout. If there was one, "
        "restore its journal, or set the flag to 0 % by hand; else `headgate rollout run` begins one."
    )


def shown(status: Status, now_s: float) -> RenderableType:
    """The status as text for a terminal."""
    if not status.run:
        return Text(_none(status.in_force))
    parts = [_head(status, now_s), _evidence(status)]
    if status.answers and any(verdict.get("histories") is False for verdict in status.verdicts):
        parts.append(Text(NO_HISTORIES))
    return Group(*parts)


def _head(status: Status, now_s: float) -> RenderableType:
    style = {MoveKind.HOLD: "yellow", MoveKind.ROLL_BACK: "red"}.get(
        MoveKind(status.move) if status.move else MoveKind.STAY, ""
    )
    if status.phase in (RolloutPhase.ROLLED_BACK, RolloutPhase.KILLED):
        style = "red"
    grid = Table.grid(padding=(0, 2))
    if status.gap:
        grid.add_row(Text("DIFFERS", style="red"), Text(_short(status.gap), style="red"))
    if status.silent:
        grid.add_row("", Text("No controller looks: start `headgate rollout run`.", style="red"))
    grid.add_row("state", Text(f"{status.phase} · {status.move} · {status.reason}", style=style))
    if status.detail:
        grid.add_row("", Text(_short(status.detail)))
    grid.add_row("decided", f"{status.decided} % · planned {status.planned} %{_then(status)}")
    grid.add_row("written", f"{status.written} %")
    grid.add_row("in force", _in_force(status.in_force))
    grid.add_row("", _users_and_requests(status))
    if status.observed_why:
        grid.add_row("", _short(status.observed_why))
    grid.add_row(
        "step",
        f"{status.step} of {status.steps} · {_span(status.dwelt_s)} of at least {_span(status.at_least_s)}",
    )
    grid.add_row(
        "looked",
        f"{_span(now_s - status.last_look_s)} ago · evidence {_span(now_s - status.last_evidence_s)} old"
        f" · flag read {_span(now_s - status.last_flag_s)} ago",
    )
    if status.last_act:
        act = status.last_act
        refused = f", refused: {act['refused']}" if act.get("refused") else f": {act['reason']}"
        said = f"{act['what']} by {act['by']}, {_span(now_s - status.last_act_s)} ago{refused}"
        grid.add_row("last act", Text(_short(said)))
    return Panel(grid, title=f"rollout {status.run}", title_align="left")


def _then(status: Status) -> str:
    return "" if status.next_share is None else f" · then {status.next_share} %"


def _in_force(found: Standing | None) -> str:
    if found is None:
        return "not known: the flag cannot be read"
    beside = f" · {found['others']} strategies beside" * bool(found["others"])
    variants = f" · variants {', '.join(found['variants'])}" * bool(found["variants"])
    environment = "on" if found["environment"] else "off"
    return _short(f"{found['share']} % · environment {environment} · kill {found['kill']}{beside}{variants}")


def _users_and_requests(status: Status) -> str:
    """Two figures of different things: who asks more than others is one user, and many answers."""
    expected = None if status.in_force is None else status.in_force["expected"]
    users = "users by constraints" if expected is None else f"shown to {expected:.0f} % of users"
    if status.in_force is None:
        users = "shown to nobody knows how many users"
    if status.observed is None:
        return f"{users} · observed —"
    return f"{users} · observed {status.observed:.1f} % of {status.answers:,} answers"


def _short(said: str) -> str:
    return said if len(said) <= MOST_CHARS else f"{said[: MOST_CHARS - 1]}…"


def _evidence(status: Status) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("guardrail", "verdict", "samples", "harm → back", "proof → safe"):
        table.add_column(heading, overflow="fold")
    for verdict in status.verdicts:
        table.add_row(
            verdict["guardrail"],
            Text(
                verdict["finding"], style={"harm": "red", "safe": "green"}.get(verdict["finding"], "yellow")
            ),
            _samples(verdict),
            meter(verdict["log10_e"], verdict["hold_at"], verdict["roll_back_at"]),
            meter(verdict["log10_safe"], None, verdict["safe_at"]),
        )
    return table


def _samples(verdict: Mapping[str, Any]) -> str:
    if verdict["samples_needed"]:
        return f"{verdict['samples']:,}/{verdict['samples_needed']:,}"
    return f"{verdict['users']:,}/{verdict['users_needed']:,} users"


def meter(value: float | None, hold_at: float | None, end: float | None) -> str:
    """Evidence on its way to a line, as a bar whose end is the last line; `┊` is where it holds."""
    last = end if end is not None else hold_at
    if value is None or last is None or last <= 0:
        return ""
    filled = min(BAR, max(0, round(BAR * value / last)))
    cells = ["█"] * filled + ["·"] * (BAR - filled)
    if hold_at is not None and hold_at < last:
        at = min(BAR - 1, round(BAR * hold_at / last))
        cells[at] = "┊" if filled <= at else "█"
    return f"{''.join(cells)} {value:.1f}/{last:.1f}"


def _span(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
