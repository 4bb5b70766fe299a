"""Where a rollout stands and why, for people and for scripts; made of the journal alone. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flags.rollout.ledger import State
from flags.rollout.moves import Kind, Phase
from flags.rollout.policy import Policy

SILENT_TICKS = 3
"""A controller that has not looked for so many ticks is taken to be gone."""

BAR = 24
"""Characters of a bar."""


class ExitCode(IntEnum):
    """Of `headgate rollout status`."""

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


@dataclass(frozen=True, slots=True)
class Status:
    """What is shown. Shares are percent of users, times are seconds."""

    run: str
    phase: str
    move: str
    reason: str
    detail: str
    step: int
    """From 1; 0 before the first one."""
    steps: int
    planned: int
    """What the policy says for this step."""
    written: int
    """What was last written to the flag, and read back."""
    observed: float | None
    """What requests say: the stream arm's part of all that settled in this step; None: nothing has."""
    dwelt_s: float
    at_least_s: float
    next_share: int | None
    verdicts: Sequence[Mapping[str, Any]]
    last_act: Mapping[str, Any] | None
    last_act_s: float
    last_look_s: float
    last_evidence_s: float
    silent: bool

    @property
    def exit_code(self) -> ExitCode:
        if not self.run:
            return ExitCode.NONE
        if self.phase == Phase.KILLED:
            return ExitCode.KILLED
        if self.phase == Phase.ROLLED_BACK:
            return ExitCode.ROLLED_BACK
        if self.silent:
            return ExitCode.SILENT
        return ExitCode.HOLDING if self.move == Kind.HOLD else ExitCode.FINE


def status_of(state: State, policy: Policy, now_s: float) -> Status:
    """The status of the newest rollout at a Unix time."""
    tick = state.last_tick or {}
    move = tick.get("move", {"kind": "", "reason": "", "detail": ""})
    in_step = 0 <= state.step < len(policy.steps)
    step = policy.steps[state.step] if in_step else None
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
        written=state.share,
        observed=100 * state.streamed / state.settled if state.settled else None,
        dwelt_s=state.dwelt_s,
        at_least_s=step.at_least.total_seconds() if step else 0.0,
        next_share=following[0].share if following and not state.is_over else None,
        verdicts=tick.get("verdicts", ()),
        last_act=state.last_act,
        last_act_s=state.last_act_s,
        last_look_s=state.last_tick_s,
        last_evidence_s=state.last_good_s,
        silent=bool(state.run) and now_s - state.last_tick_s > SILENT_TICKS * policy.tick_s,
    )


def shown(status: Status, now_s: float) -> RenderableType:
    """For a terminal."""
    if not status.run:
        return Text("No rollout yet. `headgate rollout run` begins one.")
    return Group(_head(status, now_s), _evidence(status))


def _head(status: Status, now_s: float) -> RenderableType:
    style = {Kind.HOLD: "yellow", Kind.ROLL_BACK: "red"}.get(
        Kind(status.move) if status.move else Kind.STAY, ""
    )
    if status.phase in (Phase.ROLLED_BACK, Phase.KILLED):
        style = "red"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("state", Text(f"{status.phase} · {status.move} · {status.reason}", style=style))
    if status.detail:
        grid.add_row("", Text(status.detail))
    observed = "—" if status.observed is None else f"{status.observed:.1f} %"
    grid.add_row("share", f"planned {status.planned} % · written {status.written} % · observed {observed}")
    then = "" if status.next_share is None else f" · then {status.next_share} %"
    grid.add_row(
        "step",
        f"{status.step} of {status.steps} · {_span(status.dwelt_s)} of at least "
        f"{_span(status.at_least_s)}{then}",
    )
    grid.add_row(
        "looked",
        f"{_span(now_s - status.last_look_s)} ago, evidence {_span(now_s - status.last_evidence_s)} ago",
    )
    if status.silent:
        grid.add_row("", Text("No controller looks: start `headgate rollout run`.", style="red"))
    if status.last_act:
        act = status.last_act
        grid.add_row(
            "last act",
            f"{act['what']} by {act['by']}, {_span(now_s - status.last_act_s)} ago: {act['reason']}",
        )
    return Panel(grid, title=f"rollout {status.run}", title_align="left")


def _evidence(status: Status) -> Table:
    table = Table(expand=False)
    for heading in ("guardrail", "verdict", "samples", "harm → hold | roll back", "proof → safe"):
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
        return f"{verdict['samples']:,} of {verdict['samples_needed']:,}"
    return f"{verdict['users']:,} of {verdict['users_needed']:,} users"


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
