"""The upstream's side: its connections, their pool, timeouts, the circuit breaker, tunnels.

Imports `http` and `settings`. Read `client.py` first: one request to the upstream, and its answer.
"""
