"""The blocks of `headgate.yaml`, their types and rules: parts of `settings.py`. Read `route.py` first."""
