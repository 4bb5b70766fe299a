"""The upstream's side: its connections, their pool, timeouts, hedging, the circuit breaker, tunnels.

Imports `http` and `settings`. Read `client.py` first, then `exchange.py`: one request, and its answer.
How a body is framed is in `http/framing.py`; `relay/sent_request.py` sends it.
"""
