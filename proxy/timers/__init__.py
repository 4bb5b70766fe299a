"""Timers that may come a little late, thousands of them for one timer of the loop. Read `wheel.py`."""
