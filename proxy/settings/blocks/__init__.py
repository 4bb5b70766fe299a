"""The blocks of `headgate.yaml`, their types and rules: parts of `settings.py`.

Imports `text` for the types of sections and templates. Read `route.py` first.
"""
