"""Requests of a route: how each is decided, and its two ways, as a batch answer or as a stream.

Imports `runs`, `viewers`, `relay`, `llm` and what they stand on. Read `request.py` first: all that is known
of one request.
"""
