"""Runs: one upstream call each, from its start to its last event, with or without viewers.

Imports `text`, `relay`, `upstream`, `observe` and `settings`; sources and stores come in through ports.
Read `run.py` first, then `texts.py` and `shown.py` for what it shows.
"""
