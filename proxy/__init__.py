"""The proxy: gateway, relay, and runs with their sources and viewers. Read `gateway.py` first."""
