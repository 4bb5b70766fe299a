"""Processes: a supervisor that holds the listening sockets, and the workers that serve on them.

Read `supervisor.py` first. The kill switch does not pass here: each worker watches its
file (`flags/sources/kill_switch.py`).
"""
