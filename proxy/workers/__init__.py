"""Processes: a supervisor that holds the listening sockets, and the workers that serve on them.

Read `supervisor.py` first.
"""
