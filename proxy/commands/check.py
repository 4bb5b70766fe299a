"""`headgate check`: what the settings would do, before they do it."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from proxy.commands.settings_file import CONFIG, missing_flags, settings_of
from proxy.llm.dialects.apis import tried
from proxy.outbound import behind
from proxy.settings.blocks.upstream import LlmSettings
from proxy.settings.doubts import doubts
from proxy.settings.validity import certificate_doubts

ALONE = (
    "event_log.valkey is not set: each process knows its own runs alone. With several workers or replicas, "
    "a client that comes back to another one gets 404, a request repeated there is a second call to the "
    "upstream, a model call that comes to another one shows no text, and a run ends with its process."
)


@click.command()
@CONFIG
def check(config: Path) -> None:
    """Validate the settings and the flags, print the route table, and warn of what would never work."""
    settings = settings_of(config)
    unknown_flags = missing_flags(settings)
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
    for proxy, names in behind(settings).items():
        click.echo(f"through the proxy {proxy}: {', '.join(names)}; all else straight", err=True)
    if settings.event_log.valkey is None:
        click.echo(ALONE, err=True)
    for doubt in (*doubts(settings, unknown_flags), *certificate_doubts(settings, datetime.now(UTC))):
        click.echo(f"warning: {doubt}", err=True)


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
    scheme = "http" if settings.tls is None else "https"
    for provider in settings.providers:
        name = f"{provider.name} ({provider.api})"
        found = tried(provider.url.split("://")[-1].partition("/")[0].partition(":")[0])
        streams = "none of this host: read as documented" if found is None else ", ".join(found.streams)
        table.add_row(name, provider.url, f"{scheme}://{settings.listen}{provider.mount}", streams)
    return table
