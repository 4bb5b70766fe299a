"""Requests that pass untouched, and copies of their answers for the comparison of arms.

Imports `http`, `downstream` and `upstream`. Read `steps.py` first, the table by which a request moves; then
`relayed_request.py`, and `sinks.py`: where its answer goes.
"""
