"""`headgate flags explain`: why a user gets what he gets, by the flags as they are now."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson

from flags.decision import Accept, Question, decide
from flags.explaining import ExplainedFlags, steps
from proxy.commands.settings_file import CONFIG, found_in_flags, settings_of
from proxy.settings.blocks.route import RouteSettings

ACCEPTS = {"stream": Accept.ONLY_STREAM, "both": Accept.EITHER, "batch": Accept.NONE}


@click.group()
def flags() -> None:
    """Look at the flags that decide who streams."""


@flags.command()
@CONFIG
@click.argument("user")
@click.argument("route")
@click.option("--tenant", default="", help="The user's tenant, where identity.tenant is set.")
@click.option("--session", default="", help="The session, where identity.cookie is set.")
@click.option("--accept", type=click.Choice(list(ACCEPTS)), default="both", help="What the client accepts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def explain(
    config: Path, user: str, route: str, tenant: str, session: str, accept: str, as_json: bool
) -> None:
    """Say whether USER streams on ROUTE, and why, step by step.

    The flags are read once, from the file or the server. What only a running proxy knows is not looked at:
    its local kill switch, the age of its flags, its breaker and its load.
    """
    settings = settings_of(config)
    asked = next((each for each in settings.routes if each.name == route), None)
    if asked is None:
        names = ", ".join(each.name for each in settings.routes)
        raise click.UsageError(f"there is no route {route!r}; there are: {names}")
    question = _question(asked, user, tenant, session, ACCEPTS[accept])

    def explained(flags: ExplainedFlags) -> dict[str, Any]:
        decision = decide(question, flags)
        return {
            "user": user,
            "route": route,
            "flag": question.flag,
            **{name: str(getattr(decision, name)) for name in ("mode", "arm", "reason", "source", "variant")},
            "steps": [asdict(step) for step in steps(question, flags)],
        }

    said = found_in_flags(settings, lambda flags: flags.once(explained))
    click.echo(orjson.dumps(said).decode() if as_json else _text(said))


def _question(route: RouteSettings, user: str, tenant: str, session: str, accept: Accept) -> Question:
    context: dict[str, Any] = {"userId": user, "properties": {"route": route.name}}
    if tenant:
        context["properties"]["tenant"] = tenant
    if session:
        context["sessionId"] = session
    return Question(route.flag, route.source, route.sources, context, accept)


def _text(said: dict[str, Any]) -> str:
    head = f"{said['user']} on {said['route']}: {said['mode']}, arm {said['arm']} ({said['reason']})"
    rows = [
        f"  {'→' if step['decides'] else ' '} {step['step']:<16} {step['says']}" for step in said["steps"]
    ]
    return "\n".join([head, *rows])
