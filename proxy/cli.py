"""The command line: `headgate serve | check | settings | flags | demo | doctor | rollout`."""

from importlib import import_module

import click

from proxy.version import of_commit

COMMANDS = {
    "check": "proxy.commands.check",
    "demo": "proxy.commands.demo",
    "doctor": "proxy.commands.doctor",
    "flags": "proxy.commands.flags",
    "rollout": "flags.rollout.commands",
    "serve": "proxy.commands.serve",
    "settings": "proxy.commands.settings",
}
"""The module of each command, which has the command's name there."""


class _Commands(click.Group):
    """Imports a command's module when it is used: `--version` and completion wait for none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    package_name="headgate", prog_name="headgate", message="%(prog)s, version %(version)s" + of_commit()
)
def main() -> None:
    """Stream the answers of an unchanged batch API, for the users a feature flag names."""
