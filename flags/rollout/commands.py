"""`headgate rollout …`: the commands by which people look at a rollout and act on it."""

import asyncio
import getpass
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.live import Live

from flags.errors import FlagAdminError, FlagsError, JournalBusy, PolicyError
from flags.rollout import planning, running
from flags.rollout.acts import ABOUT_A_DECISION, refusal
from flags.rollout.inbox import ActRequest, Inbox, act_request
from flags.rollout.journal import Journal, JournalReader, entries_in
from flags.rollout.ledger import Act, EntryKind, RolloutState, fold
from flags.rollout.moves import MoveKind, MoveReason
from flags.rollout.policy.file import load, load_place
from flags.rollout.policy.policy import FlagPlace, Policy
from flags.rollout.replay import differences
from flags.rollout.reporting.standing import Standing, exposes, standing_of, written_body
from flags.rollout.reporting.status import shown, status_of
from flags.rollout.writing import down
from flags.rollout.writing.flag_admin import Flag, FlagAdmin

PIPED_COLUMNS = 100
"""The width of a plan, in columns, in a file or a log."""

WATCH_S = 1.0
"""Between two looks of `watch`."""

FLAG_S = 5.0
"""Between two of its reads of the flag, and the longest that one may take."""

JOURNALED_S = 5.0
"""Seconds that a command waits until the controller has journaled its act."""

LOOKED_S = 40.0
"""Seconds that a command waits for the next look, in which the flag and the evidence may each take their
timeout."""

POLL_S = 0.1
"""Between two reads of the journal meanwhile."""

Command = Callable[..., None]
T = TypeVar("T")


@click.group()
def rollout() -> None:
    """Raise the share of users step by step: advance on proof, hold when unclear, go back on harm.

    \b
    Exit codes of all: 0 done; 1 refused, with the reason; 2 usage.
    Of `status`: 0 as planned, 3 holding, 4 rolled back, 5 killed, 6 no rollout, 7 no controller looks,
    8 `DIFFERS`: users get something else than was decided.
    Of `replay`: 0 every decision is the same, 1 at least one is not.
    """


def _loading(load: Callable[[Path], FlagPlace]) -> Callable[[Command], Command]:
    """The option `--policy` of every command, which ends with all problems of a policy that is refused."""

    def decorate(command: Command) -> Command:
        @click.option(
            "--policy", "path", type=click.Path(path_type=Path), default="rollout.yaml", show_default=True
        )
        @wraps(command)
        def with_policy(path: Path, **others: Any) -> None:
            try:
                command(policy=load(path), **others)
            except PolicyError as exc:
                _complain(path, exc.problems)
                raise SystemExit(1) from None
            except FlagsError as exc:
                raise click.ClickException(str(exc)) from None

        return with_policy

    return decorate


def _complain(path: Path, problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(f"{path.name}: {problem}", err=True)


def _place(path: Path) -> FlagPlace:
    """Return what the way down needs. Whatever else is wrong in the policy is said, and stops nothing."""
    place, problems = load_place(path)
    _complain(path, problems)
    return place


_policy = _loading(load)
_going_down = _loading(_place)


def _reason(command: Command) -> Command:
    """The options of a person's act: who, and why."""
    command = click.option("--reason", required=True, help="Why; it is journaled.")(command)
    return click.option(
        "--by",
        default=getpass.getuser,
        help="Name of the person who does it. Default: the user who is logged in.",
    )(command)


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="For scripts.")(command)


# Looking.


@rollout.command()
@_policy
@_json
def status(policy: Policy, as_json: bool) -> None:
    """Show what was decided, what was written, what is in force now; why, and how far proof has come."""
    now_s = time.time()
    found = status_of(_state(policy), policy, now_s, _in_force(policy))
    if as_json:
        fields = {**asdict(found), "exit_code": found.exit_code}
        click.echo(orjson.dumps(fields, option=orjson.OPT_INDENT_2))
    else:
        Console().print(shown(found, now_s))
    raise SystemExit(found.exit_code)


@rollout.command()
@_policy
def watch(policy: Policy) -> None:
    """The same, as it changes, until interrupted."""
    read_due_s, in_force = 0.0, None
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            now_s = time.time()
            if time.monotonic() >= read_due_s:
                in_force, read_due_s = _in_force(policy), time.monotonic() + FLAG_S
            live.update(shown(status_of(_state(policy), policy, now_s, in_force), now_s), refresh=True)
            time.sleep(WATCH_S)


@rollout.command()
@_policy
@_json
def replay(policy: Policy, as_json: bool) -> None:
    """Recompute every decision from the journal. Fails on a broken chain, and on any difference."""
    with JournalReader.open(policy.journal) as journal:
        journal.verify()
        decisions, found = differences(journal.entries())
    if as_json:
        click.echo(orjson.dumps({"decisions": decisions, "differences": found}))
    else:
        for difference in found:
            click.echo(difference, err=True)
        click.echo(f"{decisions} decisions, {len(found)} differ")
    raise SystemExit(1 if found else 0)


@rollout.command()
@_policy
@_json
@click.option("--seconds", default=60.0, show_default=True, help="How long to look at the traffic.")
@click.option(
    "--users",
    type=int,
    help="How many there are, so that it is checked whether they suffice.",
)
def plan(policy: Policy, as_json: bool, seconds: float, users: int | None) -> None:
    """From live traffic: how long each step needs, and whom harm would hit before it is seen.

    Refuses a plan that cannot see its own margin.
    """
    found = asyncio.run(planning.plan_from_traffic(policy, seconds, users))
    if as_json:
        click.echo(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2))
    else:
        Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS).print(planning.shown(found))
    raise SystemExit(1 if found.refusals else 0)


def _in_force(policy: Policy) -> Standing | None:
    """The flag as it is now; None where it cannot be read, so that the controller's last look is shown."""

    async def reading() -> Standing:
        async with asyncio.timeout(FLAG_S), running.opened_admin(policy) as admin:
            return standing_of(await admin.read())

    try:
        return asyncio.run(reading())
    except (FlagAdminError, TimeoutError) as exc:
        click.echo(f"the flag cannot be read now: {exc or 'no answer'}", err=True)
        return None


def _state(policy: FlagPlace) -> RolloutState:
    return fold(entries_in(policy.journal))


# Acting.


@rollout.command()
@_policy
@click.option("--new", is_flag=True, help="Begin another rollout, after one that was rolled back or killed.")
@click.option("--reason", default="", help="Why a rollout is begun; needed when one is.")
@click.option(
    "--by",
    default=getpass.getuser,
    help="Name of the person who does it. Default: the user who is logged in.",
)
def run(policy: Policy, new: bool, reason: str, by: str) -> None:
    """Be the controller, until stopped. Goes on with the rollout under way, or begins the first one."""
    _log_to_stderr()
    state = _state(policy)
    again = new and (state.is_over or not state.run)  # said of a rollout under way, it is of none to come
    asyncio.run(running.serve(policy, running.StartedBy(by, reason, again=again, after=state.run)))


def _log_to_stderr() -> None:
    """Only our own logger: httpx logs addresses, and a webhook's address is a secret."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("headgate")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def _act(policy: FlagPlace, what: Act, by: str, reason: str, lowered: Flag | None = None) -> None:
    """Have an act journaled, by the controller if one runs, and print its effect.

    Args:
        lowered: the flag at 0 %, where the command itself has written that.
    """
    wanted = act_request(what, by, reason, _state(policy).seq)
    if not _state(policy).run:
        raise click.ClickException("there is no rollout yet; `headgate rollout run` begins one")
    try:
        with Journal.open(policy.journal) as journal:
            if what in ABOUT_A_DECISION:
                raise click.ClickException(
                    f"{what}: no controller runs, and nobody knows what it will find: start it, and look"
                )
            if why := refusal(what, _state(policy), None, None, changed=False):
                raise click.ClickException(f"{what}: {why}")
            journal.append(EntryKind.ACT, wanted.body(), at_s=time.time())
            if lowered is not None:
                written = written_body(_state(policy).step, lowered)
                journal.append(EntryKind.WRITTEN, written, at_s=time.time())
        click.echo(f"{what}: journaled; no controller runs")
    except JournalBusy:
        Inbox(policy.journal).put(wanted)
        _await(policy, wanted)


def _await(policy: FlagPlace, wanted: ActRequest) -> None:
    """Wait until the controller has journaled an act, and looked. Raises ClickException without an effect."""
    looks = wanted.what in ABOUT_A_DECISION
    due = time.monotonic() + (LOOKED_S if looks else JOURNALED_S)
    while time.monotonic() < due:
        journaled, look = _found(policy, wanted)
        if journaled is not None and journaled.get("refused"):
            raise click.ClickException(f"{wanted.what}: refused: {journaled['refused']}")
        if journaled is not None and not looks:
            click.echo(f"{wanted.what}: journaled by the controller")
            return
        if look is not None:
            move = look["move"]
            effect = f"{move['kind']} ({move['reason']}) {move['detail']}".strip()
            if move["kind"] != MoveKind.ADVANCE and (
                wanted.what is not Act.RESUME or move["reason"] in _NOT_RESUMED
            ):
                effect = " ".join(filter(None, (effect, _no_approval(wanted, MoveReason(move["reason"])))))
                raise click.ClickException(f"{wanted.what}: has no effect: {effect}")
            click.echo(f"{wanted.what}: {effect}")
            return
        time.sleep(POLL_S)
    raise click.ClickException(f"{wanted.what}: left for the controller, which has not taken it yet")


_NOT_RESUMED = frozenset({MoveReason.PAUSED, MoveReason.FLAG_CHANGED, MoveReason.FLAG_LOWERED})


_UNAPPROVED = frozenset({MoveReason.TIME, MoveReason.SAMPLES, MoveReason.UNCLEAR, MoveReason.OVERDUE})


def _no_approval(wanted: ActRequest, reason: MoveReason) -> str:
    """Return why an approval has no effect, and what would have one."""
    if wanted.what is not Act.APPROVE or reason not in _UNAPPROVED:
        return ""
    return (
        f"An approval takes the place of neither time nor proof, and this step does not ask for one "
        f"({reason}): wait, or `headgate rollout advance`, and say why."
    )


def _found(
    policy: FlagPlace, wanted: ActRequest
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """The act as it was journaled, and the look after it; each None while it is not there yet."""
    journaled = None
    for entry in entries_in(policy.journal, after_seq=wanted.seen):
        if entry.kind == EntryKind.ACT and entry.body["id"] == wanted.id:
            journaled = entry.body
        elif journaled is not None and entry.kind == EntryKind.TICK:
            return journaled, entry.body
    return journaled, None


def _command(what: Act, text: str) -> None:
    @rollout.command(name=what, help=text)
    @_policy
    @_reason
    def act(policy: Policy, by: str, reason: str) -> None:
        _act(policy, what, by, reason)


for _what, _text in {
    Act.PAUSE: "Stay at this step until somebody resumes. Harm still rolls back.",
    Act.RESUME: "Go on; also after somebody changed the flag to the share of another step.",
    Act.APPROVE: "Let it advance from this step, now that it asks for a person.",
    Act.ADVANCE: "Advance from this step though proof or time is missing. Never past harm or a freeze.",
}.items():
    _command(_what, _text)


def _with_admin(policy: FlagPlace, do: Callable[[FlagAdmin], Awaitable[T]]) -> T:
    async def doing() -> T:
        async with running.opened_admin(policy) as admin:
            return await do(admin)

    return asyncio.run(doing())


def _go_down(
    policy: FlagPlace, wanted: ActRequest, do: Callable[[FlagAdmin], Awaitable[Flag]], done: str
) -> None:
    """Write the flag first, which needs neither controller nor journal; then journal the act in any case."""
    problem, lowered = "", None
    try:
        lowered = _with_admin(policy, do)
        if exposes(standing_of(lowered)):
            problem = (
                "the share is 0 %, and the flag is still on by strategies beside it "
                f"({len(lowered.others)}): remove them, or stop every stream with `headgate rollout kill`"
            )
        else:
            click.echo(done)
    except FlagAdminError as exc:
        problem = str(exc)
    if _state(policy).run:
        try:
            _act(policy, wanted.what, wanted.by, wanted.reason, lowered)
        except click.ClickException as exc:
            click.echo(exc.message, err=True)
    if problem:
        raise click.ClickException(problem)


@rollout.command()
@_going_down
@_reason
def rollback(policy: FlagPlace, by: str, reason: str) -> None:
    """Back to 0 %, at once and for good: another try is another rollout."""
    _go_down(policy, act_request(Act.ROLL_BACK, by, reason, 0), down.lower, "0 % is in force")


@rollout.command()
@_going_down
@_reason
def kill(policy: FlagPlace, by: str, reason: str) -> None:
    """Everybody gets batch, within a poll of the flags, and 0 %, at once and for good."""
    done = f"{policy.kill_flag} is on, and 0 % is in force"
    _go_down(policy, act_request(Act.KILL, by, reason, 0), down.kill, done)


@rollout.command()
@_policy
@_reason
def unkill(policy: Policy, by: str, reason: str) -> None:
    """Turn the kill flag off, once the share is 0 %. It stays so until another rollout: `run --new`."""
    wanted = act_request(Act.UNKILL, by, reason, 0)
    _with_admin(policy, down.unkill)
    click.echo(f"{policy.kill_flag} is off")
    if _state(policy).run:
        _act(policy, wanted.what, wanted.by, wanted.reason)
