"""The command line: `headgate serve | check | demo | rollout`."""

import asyncio
import gc
import logging
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from flags.errors import FlagsError
from proxy import app
from proxy.demo import run as run_demo
from proxy.demo import show_rollout
from proxy.errors import SettingsError
from proxy.llm.dialects.apis import tried
from proxy.observe import logs
from proxy.settings.doubts import doubts
from proxy.settings.file import load
from proxy.settings.settings import Settings
from proxy.settings.upstream import LlmSettings
from proxy.version import of_commit
from proxy.workers.link import SupervisorLink
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.reload import needs_restart
from proxy.workers.sockets import CannotListen, Sockets, bound
from proxy.workers.supervisor import Supervisor
from proxy.workers.systemd import ServiceManager

logger = logging.getLogger("headgate.cli")

ALONE = (
    "event_log.valkey is not set: each process knows its own runs alone. With several workers or replicas, "
    "a client that comes back to another one gets 404, a request repeated there is a second call to the "
    "upstream, a model call that comes to another one shows no text, and a run ends with its process."
)

CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("headgate.yaml"),
    show_default=True,
    help="The settings file.",
)


class _Commands(click.Group):
    """The commands here, and `rollout`, whose modules are imported only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "rollout"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "rollout":
            return super().get_command(ctx, cmd_name)
        from flags.rollout.commands import rollout

        return rollout


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    package_name="headgate", prog_name="headgate", message="%(prog)s, version %(version)s" + of_commit()
)
def main() -> None:
    """Stream the answers of an unchanged batch API, for the users a feature flag names."""


@main.command()
@CONFIG
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
def serve(config: Path, workers: int) -> None:
    """Serve until SIGTERM; SIGHUP reads the settings again."""
    settings = _load(config)
    _check_flags(settings, ask_server=False)  # a server that is down need not stop the process
    logs.set_up(settings.log)
    try:
        with bound(settings) as sockets, tempfile.TemporaryDirectory(prefix="headgate-") as directory:
            code = _serve(workers, config, settings, sockets, Path(directory))
    except CannotListen as exc:
        click.echo(exc, err=True)
        sys.exit(1)
    sys.exit(code)


@main.command()
@CONFIG
def check(config: Path) -> None:
    """Validate the settings and the flags, print the route table, and warn of what would never stream."""
    settings = _load(config)
    unknown_flags = _check_flags(settings)
    table = Table(title=f"{settings.listen} → {settings.upstream.url}", show_lines=True)
    for heading in ("route", "request", "streamed"):
        table.add_column(heading, overflow="fold")
    for route in settings.routes:
        requests = [route.match, *([f"GET {route.stream_path} (EventSource)"] if route.stream_path else [])]
        others = sorted(route.sources - {route.source})
        streamed = [
            f"if {route.flag}, from {' or '.join([route.source, *others])}:",
            *(f"{section.stage} → {section.panel}" for section in route.sections),
        ]
        table.add_row(route.name, "\n".join(requests), "\n".join(streamed))
    table.add_row("(everything else)", "", "no: relayed untouched")
    console = Console()
    # A pipe has no width of its own; a path broken in two is of no use there.
    width = console.width if console.is_terminal else 160
    console.print(table, width=width)
    if settings.llm is not None:
        console.print(_models(settings.llm), width=width)
    if settings.event_log.valkey is None:
        click.echo(ALONE, err=True)
    for doubt in doubts(settings, unknown_flags):
        click.echo(f"warning: {doubt}", err=True)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Where the page is. Whatever else it needs takes ports that are free.",
)
@click.option(
    "--rollout", is_flag=True, help="Instead: a healthy rollout and one that rolls back, in two minutes."
)
def demo(port: int, rollout: bool) -> None:
    """Sample upstream, proxy, embedded flags and a page to look at."""
    try:
        show_rollout(port) if rollout else run_demo(port)
    except FileNotFoundError as exc:
        raise click.ClickException(str(exc)) from None


def _load(config: Path) -> Settings:
    try:
        return load(config)
    except SettingsError as exc:
        for problem in exc.problems:
            click.echo(f"{config.name}: {problem}", err=True)
        sys.exit(1)


def _check_flags(settings: Settings, *, ask_server: bool = True) -> list[str]:
    """The routes' flags that are missing. Raises SystemExit if no flags can be read."""
    is_file = settings.flags.unleash is None
    if not is_file and not ask_server:
        return []
    try:
        wanted = sorted({route.flag for route in settings.routes})
        return asyncio.run(app.flags_from(settings).verify(wanted))
    except FlagsError as exc:
        click.echo(f"flags.{'file' if is_file else 'unleash'}: {exc}", err=True)
        sys.exit(1)


def _models(settings: LlmSettings) -> Table:
    """A table of the base URLs under which the upstream finds its language models."""
    table = Table(title=f"model port {settings.listen}", show_lines=True)
    for heading in (
        "provider",
        "instead of",
        "the upstream's base URL begins with",
        "recorded streams tried",
    ):
        table.add_column(heading, overflow="fold")
    for provider in settings.providers:
        name = f"{provider.name} ({provider.api})"
        found = tried(provider.url.split("://")[-1].partition("/")[0].partition(":")[0])
        streams = "none of this host: read as documented" if found is None else ", ".join(found.streams)
        table.add_row(name, provider.url, f"http://{settings.listen}{provider.mount}", streams)
    return table


def _serve(workers: int, config: Path, settings: Settings, sockets: Sockets, state_dir: Path) -> int:
    """Run the supervisor; `work` is what each worker does. Returns the exit code."""
    process_metrics = ProcessMetrics(state_dir / "metrics")

    parent_pid = os.getpid()

    def work(settings: Settings, supervisor: SupervisorLink, is_new: bool) -> None:
        logs.set_up(settings.log)
        process_metrics.begin()
        try:
            if is_new and settings.flags.unleash is None:
                asyncio.run(app.flags_from(settings).verify())
            uvloop.run(app.serve(settings, sockets, state_dir, supervisor, process_metrics))
        except FlagsError as exc:
            logger.error("worker cannot start", extra={"problem": str(exc)})
            sys.exit(1)
        if os.getppid() != parent_pid:  # the directory was the parent's, which is gone
            shutil.rmtree(state_dir, ignore_errors=True)

    gc.freeze()  # memory is shared with the workers as long as nobody writes to it
    return Supervisor(
        workers,
        settings,
        sockets,
        work=work,
        read=partial(_read_again, config, state_dir),
        metrics=process_metrics,
        manager=ServiceManager(os.environ),
    ).run()


def _read_again(config: Path, state_dir: Path, now: Settings) -> Settings:
    """Reload the settings. Raises SettingsError if they are wrong, or need a restart."""
    try:
        settings = load(config)
    except SettingsError as exc:
        raise SettingsError([f"{config.name}: {problem}" for problem in exc.problems]) from None
    problems = needs_restart(now, settings, switch_engaged=app.kill_file(now, state_dir).exists())
    if problems:
        raise SettingsError([f"{config.name}: {problem}" for problem in problems])
    return settings
