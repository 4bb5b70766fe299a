"""Requests that pass untouched, and copies of their answers for the comparison of arms.

Imports `http`, `downstream` and `upstream`. Read `steps.py` first, the table by which a request moves; then
`sent_request.py` and `relayed_request.py`, a direction each, and `sinks.py`: where its answer goes.
"""
