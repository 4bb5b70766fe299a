"""`headgate settings`: what is in force, with the defaults that nobody set, and without secrets."""

from pathlib import Path

import click
import orjson

from proxy.commands.settings_file import CONFIG, settings_of
from proxy.observe.page.settings_in_force import in_force


@click.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="A JSON list of objects with name, value and default.")
def settings(config: Path, as_json: bool) -> None:
    """Print the settings in force: one a line, defaults marked, secrets masked."""
    rows = list(in_force("", settings_of(config)))
    if as_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    for row in rows:
        mark = "  # default" if row["default"] else ""
        click.echo(f"{row['name']} = {orjson.dumps(row['value']).decode()}{mark}")
