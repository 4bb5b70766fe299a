"""The clients' side: how requests are read, which connections and bodies are admitted.

Imports `http`. Read `server.py` first: what Headgate adds to uvicorn's protocol.
"""
