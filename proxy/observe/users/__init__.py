"""What is known of users, by keyed hashes: how many were met, what befell each, and what that says of arms.

Knows `flags.decision`, and nothing of the proxy. Read `histories.py` first.
"""
