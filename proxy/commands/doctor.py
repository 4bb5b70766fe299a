"""`headgate doctor`: a deployment is examined from where Headgate runs."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from proxy.commands.settings_file import CONFIG
from proxy.doctor.diagnosis import Diagnosis, as_json, as_line, exit_code
from proxy.doctor.examination import Wishes, examine
from proxy.errors import SettingsError
from proxy.settings.file import load
from proxy.settings.settings import Settings

PROBE_KEY = "HEADGATE_PROBE_KEY"
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

COULD_NOT_RUN = 2


@click.command()
@CONFIG
@click.option("--json", "is_json", is_flag=True, help="One JSON document instead of lines.")
@click.option(
    "--probe-model",
    "models",
    metavar="PROVIDER=MODEL",
    multiple=True,
    help=f"Call this model twice for a token, as a batch and as a stream, with the key in ${PROBE_KEY}.",
)
@click.option("--prometheus", metavar="URL", default="", help="Ask this Prometheus for Headgate's series.")
def doctor(config: Path, *, is_json: bool, models: Sequence[str], prometheus: str) -> None:
    """Examine a deployment from here, and say what to do. Exit codes: 0 all is fine, 1 there is something to
    do, 2 it could not run."""
    settings = _settings(config)
    wishes = Wishes(
        models=_models(models, settings),
        model_key=os.environ.get(PROBE_KEY, ""),
        prometheus=prometheus,
        has_proxy=any(os.environ.get(name) for name in PROXIES),
    )
    logging.getLogger("headgate").addHandler(logging.NullHandler())  # the findings say what its lines would
    found = asyncio.run(examine(settings, wishes, _silent if is_json else _tell))
    if is_json:
        click.echo(as_json(found))
    sys.exit(exit_code(found))


def _tell(finding: Diagnosis) -> None:
    click.echo(as_line(finding))


def _silent(finding: Diagnosis) -> None:
    """JSON comes in one piece."""


def _settings(config: Path) -> Settings:
    try:
        return load(config)
    except SettingsError as exc:
        for problem in exc.problems:
            click.echo(f"{config.name}: {problem}", err=True)
        sys.exit(COULD_NOT_RUN)


def _models(pairs: Sequence[str], settings: Settings) -> Mapping[str, str]:
    """Models by provider. Raises UsageError, which ends the command with 2."""
    found = dict(pair.partition("=")[::2] for pair in pairs)
    known = {provider.name for provider in settings.llm.providers} if settings.llm else set()
    for name, model in found.items():
        if name not in known or not model:
            names = ", ".join(sorted(known)) or "there are none"
            raise click.UsageError(f"--probe-model {name}: must be PROVIDER=MODEL, PROVIDER of: {names}")
    return found
