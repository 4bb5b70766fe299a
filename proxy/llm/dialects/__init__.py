"""The APIs of providers: a file for each, or a folder where one file would be too long. Pure.

Imports `llm.assembly`. Read `apis.py` first: which dialects there are.
"""
