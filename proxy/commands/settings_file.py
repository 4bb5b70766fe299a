"""What a command starts from: the settings of `--config`, and the flags that their routes name."""

import asyncio
import sys
from pathlib import Path

import click

from flags.errors import FlagsError
from proxy import app
from proxy.errors import SettingsError
from proxy.settings.file import load
from proxy.settings.settings import Settings

CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("headgate.yaml"),
    show_default=True,
    help="The settings file.",
)


def settings_of(config: Path) -> Settings:
    """The settings of a file. Says every problem and raises SystemExit, if there is one."""
    try:
        return load(config)
    except SettingsError as exc:
        for problem in exc.problems:
            click.echo(f"{config.name}: {problem}", err=True)
        sys.exit(1)


def missing_flags(settings: Settings, *, ask_server: bool = True) -> list[str]:
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
