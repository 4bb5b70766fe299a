"""Backends of each stack under OpenTelemetry's zero-code instrumentation. `make stacks`; `backends.py` first.

The backends run in venvs and folders of their own, with `requirements/stacks.lock` and `package-lock.json`.
"""
