"""The plan: what a policy will take and cost, by simulating its own tests. Pure.

Imports `policy` and `verdict`. Read `planner.py` first.
"""
