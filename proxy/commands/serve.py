"""`headgate serve`: the supervisor, and what each of its workers does."""

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

from flags.errors import FlagsError
from proxy import app
from proxy.commands.settings_file import CONFIG, missing_flags, settings_of
from proxy.errors import SettingsError
from proxy.loading import load_optional
from proxy.observe import logs
from proxy.observe.page.board import PARENT
from proxy.observe.recent_warnings import ParentWarnings
from proxy.settings.doubts import harms
from proxy.settings.file import load
from proxy.settings.settings import Settings
from proxy.workers.link import SupervisorLink
from proxy.workers.process_metrics import ProcessMetrics
from proxy.workers.reload import needs_restart
from proxy.workers.sockets import CannotListen, Sockets, bound
from proxy.workers.supervisor import Supervisor
from proxy.workers.systemd import ServiceManager

logger = logging.getLogger("headgate.cli")


@click.command()
@CONFIG
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
def serve(config: Path, workers: int) -> None:
    """Serve until SIGTERM; SIGHUP reads the settings again."""
    settings = settings_of(config)
    missing_flags(settings, ask_server=False)  # a server that is down need not stop the process
    logs.set_up(settings.log)
    for harm in harms(settings):
        logger.warning("settings can do harm", extra={"problem": harm})
    try:
        with bound(settings) as sockets, tempfile.TemporaryDirectory(prefix="headgate-") as directory:
            code = _serve(workers, config, settings, sockets, Path(directory))
    except CannotListen as exc:
        click.echo(exc, err=True)
        sys.exit(1)
    sys.exit(code)


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

    load_optional(settings)
    gc.freeze()  # memory is shared with the workers as long as nobody writes to it
    supervisor = Supervisor(
        workers,
        settings,
        sockets,
        work=work,
        read=partial(_read_again, config, state_dir),
        metrics=process_metrics,
        manager=ServiceManager(os.environ),
    )
    with ParentWarnings(state_dir / "page" / PARENT):
        return supervisor.run()


def _read_again(config: Path, state_dir: Path, now: Settings) -> Settings:
    """Reload the settings. Raises SettingsError if they are wrong, or need a restart."""
    try:
        settings = load(config)
    except SettingsError as exc:
        raise SettingsError([f"{config.name}: {problem}" for problem in exc.problems]) from None
    problems = needs_restart(now, settings, switch_engaged=app.kill_file(now, state_dir).exists())
    if problems:
        raise SettingsError([f"{config.name}: {problem}" for problem in problems])
    load_optional(settings)
    return settings
