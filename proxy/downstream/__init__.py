"""The clients' side: how requests are read, which connections and bodies are admitted.

Imports `http` and `observe`. Read `reading.py` first, then `server.py`: a connection from head to head;
`bodies.py` has the budget of all bodies.
"""
