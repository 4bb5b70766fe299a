"""HTTP's own rules: header tables, framing, dates, upgrades, trace context. Pure: no socket, no clock.

Imports `proxy.errors` alone. Read `headers.py` first: what crosses the proxy, with reasons.
"""
