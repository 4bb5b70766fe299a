"""`headgate demo`: the sample clinic, with and without streaming."""

import click

from proxy.demo import run as run_demo
from proxy.demo import show_rollout


@click.command()
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
