"""Requests that pass untouched, and copies of their answers for the comparison of arms.

Imports `http`, `downstream` and `upstream`. Read `relay.py` first: one exchange, from head to last byte.
"""
