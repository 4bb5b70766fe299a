"""`headgate doctor`: a deployment is examined from where Headgate runs."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from proxy.commands.settings_file import CONFIG
from proxy.doctor.examination import Wishes, examine
from proxy.doctor.findings.diagnosis import Diagnosis, as_json, as_line, exit_code
from proxy.doctor.one_request.real_request import BadRequest, request_of
from proxy.errors import SettingsError
from proxy.settings.file import load
from proxy.settings.settings import Settings

PROBE_KEY = "HEADGATE_PROBE_KEY"

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
@click.option(
    "--route",
    "routes",
    metavar="NAME",
    multiple=True,
    help="Send one REAL request of this route to the upstream, and see whether its model calls come.",
)
@click.option(
    "--param", "parameters", metavar="NAME=VALUE", multiple=True, help="A parameter of the route's path."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="File with the request's JSON body; {} without it."
)
@click.option(
    "--headers", type=click.Path(path_type=Path), help="File with the request's headers, one a line."
)
@click.option(
    "--from",
    "addresses",
    metavar="URL",
    multiple=True,
    help="Send the first --route's request to `headgate serve` as well, and compare its stream with the same "
    "through this public address. Several: the nearest to Headgate first.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(1, 3600),
    default=180.0,
    show_default=True,
    help="Seconds for such a request.",
)
@click.option("--prometheus", metavar="URL", default="", help="Ask this Prometheus for Headgate's series.")
def doctor(
    config: Path, *, is_json: bool, models: Sequence[str], prometheus: str, **of_requests: Any
) -> None:
    """Examine a deployment from here, and say what to do. Exit codes: 0 all is fine, 1 there is something to
    do, 2 it could not run."""
    settings = _settings(config)
    wishes = Wishes(
        models=_models(models, settings),
        model_key=os.environ.get(PROBE_KEY, ""),
        prometheus=prometheus,
        **_requests(settings, **of_requests),
    )
    if wishes.requests:
        click.echo(f"Sending real requests: {_count(wishes)}. They have all their effects.", err=True)
    logging.getLogger("headgate").addHandler(logging.NullHandler())  # the findings say what its lines would
    found = asyncio.run(examine(settings, wishes, _silent if is_json else _tell))
    if is_json:
        click.echo(as_json(found))
    sys.exit(exit_code(found))


def _requests(
    settings: Settings,
    routes: Sequence[str],
    parameters: Sequence[str],
    data: Path | None,
    headers: Path | None,
    addresses: Sequence[str],
    wait_s: float,
) -> Mapping[str, Any]:
    """The fields of `Wishes`. Raises UsageError, which ends the command with 2."""
    known = {route.name: route for route in settings.routes}
    for name in routes:
        if name not in known:
            raise click.UsageError(f"--route {name}: is none of: {', '.join(known) or 'there are none'}")
    if addresses and not routes:
        raise click.UsageError("--from needs --route: a stream of that route is compared")
    values = dict(pair.partition("=")[::2] for pair in parameters)
    try:
        requests = [request_of(known[name], values, headers, data) for name in dict.fromkeys(routes)]
    except BadRequest as exc:
        raise click.UsageError(str(exc)) from None
    return {"requests": requests, "addresses": list(dict.fromkeys(addresses)), "wait_s": wait_s}


def _count(wishes: Wishes) -> str:
    names = [f"{request.route.name} to the upstream" for request in wishes.requests]
    if wishes.addresses:
        names.append(f"{wishes.requests[0].route.name} to Headgate")
    return ", ".join(names)


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
