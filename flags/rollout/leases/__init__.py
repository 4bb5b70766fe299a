"""The lease: one controller writes at a time, under a number that only grows.

Read `lease.py` first.
"""
