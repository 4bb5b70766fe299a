"""The APIs of providers: a file for the calls of each, a file for its answers. Pure.

Imports `llm.assembly`. Read `apis.py` first: which dialects there are.
"""
