"""`make monday`: play it, and print what happens."""

import asyncio
import tempfile
from pathlib import Path

import click

from tests.monday.acts import monday, summary


@click.command()
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/monday"),
    help="The folder for pictures of the operators' page.",
    show_default=True,
)
def main(pictures: Path) -> None:
    """Play it, and print what happens."""
    with tempfile.TemporaryDirectory() as directory:
        click.echo(summary(asyncio.run(monday(Path(directory), click.echo, pictures))))
    click.echo(f"What the operators' page showed: {pictures}/*.png")


if __name__ == "__main__":
    main()
