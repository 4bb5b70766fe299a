"""The clients' side: how requests are read, which connections and bodies are admitted.

Imports `http` and `observe`. Read `server.py` first: what Headgate adds to uvicorn's protocol;
`bodies.py` has the budget of all bodies.
"""
