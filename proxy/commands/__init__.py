"""The subcommands of `headgate`, one file each: `proxy/cli.py` imports a file when its command is used.

`settings_file.py` reads what each of them starts from. The commands of a rollout stand with the
controller, in `flags/rollout/commands.py`.
"""
