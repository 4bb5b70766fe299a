"""A command's start: the settings of `--config`, and the flags that their routes name."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from flags.errors import FlagsError
from flags.sources.source import FlagSource
from proxy import app
from proxy.errors import SettingsError
from proxy.settings.file import load
from proxy.settings.settings import Settings

T = TypeVar("T")

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
    if settings.flags.unleash is not None and not ask_server:
        return []
    wanted = sorted({route.flag for route in settings.routes})
    return found_in_flags(settings, lambda flags: flags.verify(wanted))


def found_in_flags(settings: Settings, ask: Callable[[FlagSource], Coroutine[Any, Any, T]]) -> T:
    """The result of `ask` for the flags as they are now. Raises SystemExit if no flags can be read."""
    try:
        return asyncio.run(ask(app.flags_from(settings)))
    except FlagsError as exc:
        click.echo(f"flags.{'file' if settings.flags.unleash is None else 'unleash'}: {exc}", err=True)
        sys.exit(1)
