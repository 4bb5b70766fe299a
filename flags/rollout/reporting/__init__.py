"""A rollout's status, metrics and notices; what is in force beside what was written.

Imports `policy`, `verdict` and `writing`, and the ledger in front. Read `status.py` first.
"""
