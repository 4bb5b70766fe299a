"""Replicas that share their runs through Valkey: mirrors, leases, takeover after a failure.

Stands behind the port `runs.shared`. Read `shared_runs.py` first.
"""
