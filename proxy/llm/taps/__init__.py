"""Taps: which model call belongs to which run, and where its text is shown; also across replicas.

Read `tap.py` first: one run's tap. `open_taps.py` has all of a process.
"""
